#!/bin/sh
# Installs a package over erlang-base, uses it, upgrades it and removes it. For scratch.sh, with the package in /mnt; exit status
# 77 and a reason where this can't be.
#   test/packages/scratch.sh / FOLDER sh /mnt/deb-test.sh
set -eu

skip() {
    echo "$*"
    exit 77
}

fail() {
    echo "deb-test: $*" >&2
    exit 1
}

# the paths that are ours or were made way for, but our configuration; the system below may change meanwhile
snapshot() {
    find /usr /etc /lib -xdev ! -path '/etc/netns/*' ! -path '/etc/handover*' -printf '%p %l %m\n' | grep -E 'epmd|handover' | LC_ALL=C sort
}

# the stock epmd prints no -upgrade in its usage
is_ours() {
    "$1" -help 2>&1 | grep -q upgrade
}

dpkg --verify erlang-base >/tmp/verified 2>&1 || skip "no erlang-base on this machine: $(cat /tmp/verified)"
if is_ours /usr/bin/epmd; then skip 'handover is installed on this machine'; fi
snapshot >/tmp/before
stock=$(readlink /usr/bin/epmd)
dpkg -i /mnt/handover.deb

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
dpkg -i /mnt/handover.deb
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
