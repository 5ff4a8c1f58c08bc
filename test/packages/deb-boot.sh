#!/bin/sh
# Boots a system with erlang-base, and installs, upgrades and removes a package while it runs: does systemd hold the port by
# the right epmd each time, and do the nodes come back? For scratch.sh, with the package in /mnt; exit status 77 and a reason
# where this can't be.
#   test/packages/scratch.sh / FOLDER sh /mnt/deb-boot.sh
set -eu

fail() {
    echo "deb-boot: $*"
    exit 1
}

# await WHAT COMMAND …: until it succeeds
await() {
    what=$1
    shift
    deadline=$(($(date +%s) + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "$what: not within 60 s"
        sleep 0.2
    done
}

registered() {
    epmd -names | grep -q "^name $1 "
}

# held_by PROGRAM: the service runs, as epmd's user, and is the program
held_by() {
    systemctl is-active epmd.socket epmd.service >/dev/null || fail "not active: $(systemctl status epmd.socket epmd.service)"
    pid=$(systemctl show -P MainPID epmd.service)
    [ "$(stat -c %U "/proc/$pid")" = epmd ] || fail "the service runs as $(stat -c %U "/proc/$pid")"
    [ "$(stat -L -c %d:%i "/proc/$pid/exe")" = "$(stat -L -c %d:%i "$1")" ] || fail "$(readlink "/proc/$pid/exe") runs, not $1"
    echo "epmd.service is $1, process $pid"
}

test_package() {
    held_by /usr/bin/epmd
    erl -noinput -sname stock &
    await 'a stock node registers' registered stock
    dpkg -i /mnt/handover.deb
    [ -e /usr/bin/epmd.erlang ] || fail 'no diversion'
    held_by /usr/bin/epmd
    await 'a stock node comes back after the installation' registered stock
    for node in n1 n2; do
        erl -noinput -name $node@127.0.0.1 -proto_dist handover_tcp -start_epmd false -handover listen false -setcookie c \
            -eval "net_adm:ping('n1@127.0.0.1')" &
        await "$node registers" registered $node
    done
    await 'a handover by the epmd of systemd' sh -c 'handover status | grep "handovers .* ok"'

    pid=$(systemctl show -P MainPID epmd.service)
    started=$(stat -c %Y /proc/"$pid")
    dpkg -i /mnt/handover.deb
    for node in stock n1 n2; do
        registered $node || fail "$node was lost in an upgrade"
    done
    held_by /usr/bin/epmd
    [ "$pid $started" = "$(systemctl show -P MainPID epmd.service) $(stat -c %Y /proc/"$pid")" ] || fail 'an upgrade restarts epmd'

    dpkg -r handover
    held_by /usr/bin/epmd
    if [ -e /usr/bin/epmd.erlang ]; then fail 'the diversion is still there'; fi
    await 'a stock node comes back after the removal' registered stock
    echo ok
}

if [ "${1:-}" = inside ]; then
    status=0
    (test_package) >/mnt/boot.log 2>&1 || status=$?
    echo "$status" >/mnt/boot.status
    systemctl exit "$status"
    exit
fi

systemd=/lib/systemd/systemd
if [ ! -x $systemd ] || [ ! -e /usr/bin/epmd ]; then
    echo 'no systemd or no erlang-base on this machine'
    exit 77
fi
if ! { mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup; } 2>/dev/null; then
    echo 'no cgroups for a system that boots'
    exit 77
fi
# nothing of the machine's own is started, but what the two units ask for; packages may start theirs
: >/etc/fstab
rm -rf /usr/sbin/policy-rc.d /etc/systemd/system/*.wants /usr/lib/systemd/system/*.wants /usr/lib/systemd/system-generators
printf '[Unit]\nWants=epmd.socket epmd.service deb-boot.service\n' >/etc/systemd/system/deb-boot.target
cat >/etc/systemd/system/deb-boot.service <<'UNIT'
[Unit]
After=epmd.socket epmd.service
[Service]
Type=oneshot
Environment=HOME=/root LC_ALL=C.UTF-8
ExecStart=/bin/sh /mnt/deb-boot.sh inside
UNIT
# deb-systemd-invoke starts what is enabled
systemctl enable epmd.socket epmd.service
export container=scratch
exec $systemd --system --unit=deb-boot.target --log-target=null --show-status=false </dev/null
