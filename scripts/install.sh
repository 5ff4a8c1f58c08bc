#!/bin/sh
# Installs what is built, or removes it: the programs, the Erlang application, the systemd units, man pages, completions, the
# documents.
#   [DESTDIR=…] [PREFIX=/usr/local] scripts/install.sh install|uninstall
# DESTDIR is where a package is put together; what is installed refers to PREFIX, and to the configuration in /etc, whatever
# PREFIX is. A configuration that is there already stays as it is, and one that was changed outlives uninstall.
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr/local}
case $prefix in
/*) ;;
*)
    echo "PREFIX=$prefix: has to be an absolute path" >&2
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
/usr) zsh=/usr/share/zsh/vendor-completions ;; # what packages of Debian use
*) zsh=$prefix/share/zsh/site-functions ;;
esac
built=_build/default/lib/handover

# put MODE FILE… DIRECTORY: with the directory
put() {
    mode=$1
    shift
    for to; do :; done
    while [ $# -gt 1 ]; do
        install -D -m "$mode" "$1" "${DESTDIR:-}$to/$(basename "$1")"
        shift
    done
}

# unit FILE NAME DIRECTORY: with the paths in it
unit() {
    install -d "${DESTDIR:-}$3"
    sed "s,@BINDIR@,$prefix/bin,; s,@CONFIG@,$config," "$1" >"${DESTDIR:-}$3/$2"
    chmod 644 "${DESTDIR:-}$3/$2"
}

install_all() {
    if [ ! -x priv/epmd ] || [ ! -e $built/ebin/handover.app ]; then
        echo "nothing to install yet: \`make build\` first" >&2
        exit 1
    fi
    put 755 priv/epmd priv/handover "$prefix/bin"
    put 644 $built/ebin/*.beam $built/ebin/handover.app "$app/ebin"
    install -d "${DESTDIR:-}$app/priv"
    for program in epmd handover; do
        # relative, so that it is right within DESTDIR too
        ln -sf "../../../../../bin/$program" "${DESTDIR:-}$app/priv/$program"
    done
    put 644 packaging/man/epmd.1 packaging/man/handover.1 "$man"
    put 644 packaging/completions/bash/epmd packaging/completions/bash/handover "$bash"
    put 644 packaging/completions/zsh/_epmd packaging/completions/zsh/_handover "$zsh"
    unit packaging/systemd/epmd.socket epmd.socket "$units"
    unit packaging/systemd/epmd.service epmd.service "$units"
    unit packaging/systemd/epmd.sysusers epmd.conf "$users"
    [ -e "${DESTDIR:-}$config" ] || put 644 packaging/systemd/epmd.toml "$(dirname "$config")"
    put 644 README.md CHANGELOG.md LICENSE docs/*.md "$doc"
}

uninstall_all() {
    for file in "$prefix/bin/epmd" "$prefix/bin/handover" "$man/epmd.1" "$man/handover.1" \
        "$bash/epmd" "$bash/handover" "$zsh/_epmd" "$zsh/_handover" \
        "$units/epmd.socket" "$units/epmd.service" "$users/epmd.conf"; do
        rm -f "${DESTDIR:-}$file"
    done
    if cmp -s packaging/systemd/epmd.toml "${DESTDIR:-}$config"; then
        rm -f "${DESTDIR:-}$config"
        rmdir "$(dirname "${DESTDIR:-}$config")" 2>/dev/null || true # somebody's own files
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
