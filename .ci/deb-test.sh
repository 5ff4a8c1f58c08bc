#!/bin/sh
# Installs a package over this machine's erlang-base, uses it, upgrades it and removes it, in a copy of the file system that
# ends with the script: an overlay in namespaces of its own. Needs root; exit status 77 and a reason where there is none.
#   .ci/deb-test.sh PACKAGE [ROOT]      ROOT: a chroot with erlang-base to try instead of this machine
set -eu
PATH=$PATH:/usr/sbin:/sbin

skip() {
    echo "$*"
    exit 77
}

if [ "${1:-}" != inside ]; then
    package=$(realpath "$1")
    [ "$(id -u)" -eq 0 ] || skip 'needs root, for an overlay and dpkg'
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM HUP
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --pid --net --fork --kill-child sh -euc '
        work=$1; package=$2; script=$3; root=$4
        ip link set lo up
        mount -t tmpfs tmpfs "$work"
        mkdir "$work/upper" "$work/work" "$work/root"
        mount -t overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/work" overlay "$work/root" || exit 77
        cp "$package" "$work/upper.deb"
        cd "$work/root"
        mount -t proc proc proc
        mount --rbind /dev dev
        mount -t tmpfs tmpfs tmp
        mount -t tmpfs tmpfs run
        cp "$work/upper.deb" tmp/handover.deb
        cp "$script" tmp/deb-test.sh
        exec chroot . env -i LC_ALL=C.UTF-8 HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin sh /tmp/deb-test.sh inside
    ' sh "$work" "$package" "$(realpath "$0")" "${2:-/}"
    exit
fi

fail() {
    echo "deb-test: $*" >&2
    exit 1
}

# every path of the system, and where links lead; dpkg's own, caches and our configuration left out
snapshot() {
    find /usr /etc /lib -xdev ! -path '/etc/ld.so.cache' ! -path '/etc/handover*' -printf '%p %l %m\n' | LC_ALL=C sort
}

# the stock epmd prints no -upgrade in its usage
is_ours() {
    "$1" -help 2>&1 | grep -q upgrade
}

dpkg --verify erlang-base >/tmp/verified 2>&1 || skip "no erlang-base on this machine: $(cat /tmp/verified)"
if is_ours /usr/bin/epmd; then skip 'handover is installed on this machine'; fi
snapshot >/tmp/before
stock=$(readlink /usr/bin/epmd)
dpkg -i /tmp/handover.deb

echo '-- the programs and their pages'
is_ours /usr/bin/epmd || fail '/usr/bin/epmd is not ours'
[ "$(readlink /usr/bin/epmd.erlang)" = "$stock" ] || fail "erlang-base's epmd is not at /usr/bin/epmd.erlang"
[ "$(dpkg-query -W -f '${Version}' handover)" = "$(handover version | sed 's/handover //')-1" ] || fail "$(handover version)"
if [ -e /usr/share/man/man1/epmd.erlang.1.gz ]; then # a minimal system has no man pages
    zcat /usr/share/man/man1/epmd.1.gz | grep -q 'hands connections over' || fail 'epmd(1) is not ours'
fi

echo '-- the units'
if command -v systemd-analyze; then
    systemd-analyze verify --man=no epmd.service epmd.socket 2>&1 | grep -F epmd. && fail 'systemd-analyze finds faults'
    systemd-analyze security --offline=true --no-pager epmd.service | grep '✓ NoNewPrivileges=' ||
        fail 'the units of handover are not in force'
fi

echo '-- two nodes, by nothing but vm.args; a stock one beside them'
start='-proto_dist handover_tcp -start_epmd false -handover listen false -setcookie c'
# shellcheck disable=SC2086 # a list of words
erl -noinput -name n1@127.0.0.1 $start &
deadline=$(($(date +%s) + 60))
until epmd -names 2>/dev/null | grep '^name n1 '; do
    [ "$(date +%s)" -lt "$deadline" ] || fail 'n1 did not register'
    sleep 0.2
done
# shellcheck disable=SC2086
erl -noinput -name n2@127.0.0.1 $start -eval "
    pong = net_adm:ping('n1@127.0.0.1'),
    Link = proplists:get_value('n1@127.0.0.1', erlang:system_info(dist_ctrl)),
    {ok, {_, 4369}} = inet:peername(Link), io:put_chars(\"n2 reached n1 at port 4369\n\"), halt()."
erl -noinput -sname s1 -eval 'io:put_chars(os:cmd("epmd -names")), halt().' | grep -x 'name s1 at port [0-9]*'
epmd -status | head -n 1

echo '-- an upgrade, and the removal'
dpkg -i /tmp/handover.deb
is_ours /usr/bin/epmd || fail '/usr/bin/epmd is not ours after an upgrade'
epmd -names | grep -q '^name n1 ' || fail 'n1 is not registered any more'
dpkg -r handover
snapshot >/tmp/after
diff /tmp/before /tmp/after || fail 'the system is not as it was'
[ -z "$(dpkg-divert --list handover)" ] || fail "left: $(dpkg-divert --list handover)"
dpkg --verify erlang-base || fail 'erlang-base is not as it was'
if is_ours /usr/bin/epmd; then fail '/usr/bin/epmd is still ours'; fi
[ -e /etc/handover/epmd.toml ] || fail 'the configuration went with the removal, not with the purge'
dpkg -P handover
[ ! -e /etc/handover ] || fail 'the configuration outlives the purge'
echo 'ok'
