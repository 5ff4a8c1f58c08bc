#!/bin/sh
# Installs what was built, or removes it: the programs, the Erlang application, the systemd units, man pages, completions and
# documentation.
#   [DESTDIR=…] [PREFIX=/usr/local] scripts/install.sh install|uninstall
# DESTDIR is put in front of all paths, to build a package. The installed files refer to paths below PREFIX, and to the
# configuration in /etc/handover, which does not depend on PREFIX. install does not overwrite an existing configuration, and
# uninstall does not remove one that was changed.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
case $prefix in
/*) ;;
*)
    echo "PREFIX=$prefix must be an absolute path" >&2
    exit 1
    ;;
esac
vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)
app=$prefix/lib/erlang/lib/handover-$vsn
doc=$prefix/share/doc/handover
units=$prefix/lib/systemd/system
users=$prefix/lib/sysusers.d
config=/etc/handover/epmd.toml
man=$prefix/share/man/man1
bash=$prefix/share/bash-completion/completions
case $prefix in
/usr) zsh=/usr/share/zsh/vendor-completions ;; # as Debian's packages do
*) zsh=$prefix/share/zsh/site-functions ;;
esac
built=_build/default/lib/handover

# install_files MODE FILE … DIRECTORY: creates the directory if it is missing
install_files() {
    mode=$1
    shift
    for to; do :; done
    while [ $# -gt 1 ]; do
        install -D -m "$mode" "$1" "${DESTDIR:-}$to/$(basename "$1")"
        shift
    done
}

# install_unit FILE NAME DIRECTORY: replaces @BINDIR@ and @CONFIG@ in FILE
install_unit() {
    install -d "${DESTDIR:-}$3"
    sed "s,@BINDIR@,$prefix/bin,; s,@CONFIG@,$config," "$1" >"${DESTDIR:-}$3/$2"
    chmod 644 "${DESTDIR:-}$3/$2"
}

install_all() {
    if [ ! -x priv/epmd ] || [ ! -e $built/ebin/handover.app ]; then
        echo "nothing was built yet; run \`make build\` first" >&2
        exit 1
    fi
    install_files 755 priv/epmd priv/handover "$prefix/bin"
    install_files 644 $built/ebin/*.beam $built/ebin/handover.app "$app/ebin"
    install -d "${DESTDIR:-}$app/priv"
    for program in epmd handover; do
        # relative, so that the link is also right within DESTDIR
        ln -sf "../../../../../bin/$program" "${DESTDIR:-}$app/priv/$program"
    done
    install_files 644 packaging/man/epmd.1 packaging/man/handover.1 "$man"
    install_files 644 packaging/completions/bash/epmd packaging/completions/bash/handover "$bash"
    install_files 644 packaging/completions/zsh/_epmd packaging/completions/zsh/_handover "$zsh"
    install_unit packaging/systemd/epmd.socket epmd.socket "$units"
    install_unit packaging/systemd/epmd.service epmd.service "$units"
    install_unit packaging/systemd/epmd.sysusers epmd.conf "$users"
    [ -e "${DESTDIR:-}$config" ] || install_files 644 packaging/systemd/epmd.toml "$(dirname "$config")"
    install_files 644 README.md CHANGELOG.md LICENSE docs/*.md "$doc"
}

uninstall_all() {
    for file in "$prefix/bin/epmd" "$prefix/bin/handover" "$man/epmd.1" "$man/handover.1" \
        "$bash/epmd" "$bash/handover" "$zsh/_epmd" "$zsh/_handover" \
        "$units/epmd.socket" "$units/epmd.service" "$users/epmd.conf"; do
        rm -f "${DESTDIR:-}$file"
    done
    if cmp -s packaging/systemd/epmd.toml "${DESTDIR:-}$config"; then
        rm -f "${DESTDIR:-}$config"
        rmdir "$(dirname "${DESTDIR:-}$config")" 2>/dev/null || true # it may contain other files
    fi
    rm -rf "${DESTDIR:-}$app" "${DESTDIR:-}$doc"
}

case ${1:-} in
install) install_all ;;
uninstall) uninstall_all ;;
*)
    echo "usage: scripts/install.sh install|uninstall" >&2
    exit 1
    ;;
esac
