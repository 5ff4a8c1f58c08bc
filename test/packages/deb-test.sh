#!/bin/sh
# Installs the package next to erlang-base, uses it, upgrades it and removes it. scratch.sh runs it, with the package in /mnt. Exit
# status 77 and a reason if the test is not possible on this machine.
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

# snapshot lists the paths that the package installs or diverts, except for its configuration. Other paths may change during the
# test, because the file system below the copy is in use.
snapshot() {
    find /usr /etc /lib -xdev ! -path '/etc/netns/*' ! -path '/etc/handover*' -printf '%p %l %m\n' | grep -E 'epmd|handover' | LC_ALL=C sort
}

# is_handovers PROGRAM: succeeds if it is handover's epmd; the usage text of the stock epmd has no -upgrade
is_handovers() {
    "$1" -help 2>&1 | grep -q upgrade
}

dpkg --verify erlang-base >/tmp/verified 2>&1 || skip "erlang-base is not installed on this machine, or was changed: $(cat /tmp/verified)"
if is_handovers /usr/bin/epmd; then skip 'handover is installed on this machine'; fi
snapshot >/tmp/before
stock=$(readlink /usr/bin/epmd)
dpkg -i /mnt/handover.deb

echo '-- the programs and their pages'
is_handovers /usr/bin/epmd || fail "/usr/bin/epmd is not handover's"
[ "$(readlink /usr/bin/epmd.erlang)" = "$stock" ] || fail "erlang-base's epmd was not moved to /usr/bin/epmd.erlang"
[ "$(dpkg-query -W -f '${Version}' handover)" = "$(handover version | sed 's/handover //')-1" ] || fail "the package and the program have different versions: $(handover version)"
if [ -e /usr/share/man/man1/epmd.erlang.1.gz ]; then # a minimal system has no man pages
    zcat /usr/share/man/man1/epmd.1.gz | grep -q 'hands connections over' || fail "epmd(1) is not handover's"
fi

echo '-- the units'
if command -v systemd-analyze; then
    systemd-analyze verify --man=no epmd.service epmd.socket 2>&1 | grep -F epmd. && fail 'systemd-analyze reports errors'
    systemd-analyze security --offline=true --no-pager epmd.service | grep '✓ NoNewPrivileges=' ||
        fail 'the settings of handover are not in epmd.service'
fi

echo '-- two nodes with handover, one without'
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
is_handovers /usr/bin/epmd || fail "/usr/bin/epmd is not handover's after an upgrade"
epmd -names | grep -q '^name n1 ' || fail 'the upgrade unregistered n1'
dpkg -r handover
snapshot >/tmp/after
diff /tmp/before /tmp/after || fail 'the removal left the differences above'
[ -z "$(dpkg-divert --list handover)" ] || fail "the removal left a diversion: $(dpkg-divert --list handover)"
dpkg --verify erlang-base || fail 'the removal left erlang-base changed'
if is_handovers /usr/bin/epmd; then fail "/usr/bin/epmd is still handover's"; fi
[ -e /etc/handover/epmd.toml ] || fail 'the removal removed the configuration; only a purge may'
dpkg -P handover
[ ! -e /etc/handover ] || fail 'the purge left the configuration'
echo 'ok'
