#!/bin/sh
# Boots a system with erlang-base under systemd, and installs, upgrades and removes the package there. Each time it checks that
# epmd.service runs the right epmd and that the nodes register again. scratch.sh runs it, with the package in /mnt. Exit status
# 77 and a reason if the test is not possible on this machine.
#   test/packages/scratch.sh / FOLDER sh /mnt/deb-boot.sh
set -eu

fail() {
    echo "deb-boot: $*"
    exit 1
}

# await WHAT COMMAND …: waits until COMMAND succeeds, for at most 60 s
await() {
    what=$1
    shift
    deadline=$(($(date +%s) + 60))
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || fail "$what: not within 60 s"
        sleep 0.2
    done
}

is_registered() {
    epmd -names | grep -q "^name $1 "
}

# check_service PROGRAM: checks that epmd.service is active and runs PROGRAM as the user epmd
check_service() {
    systemctl is-active epmd.socket epmd.service >/dev/null || fail "not active: $(systemctl status epmd.socket epmd.service)"
    pid=$(systemctl show -P MainPID epmd.service)
    [ "$(stat -c %U "/proc/$pid")" = epmd ] || fail "the service runs as $(stat -c %U "/proc/$pid")"
    [ "$(stat -L -c %d:%i "/proc/$pid/exe")" = "$(stat -L -c %d:%i "$1")" ] || fail "the service runs $(readlink "/proc/$pid/exe"), not $1"
    echo "epmd.service runs $1, process $pid"
}

test_package() {
    check_service /usr/bin/epmd
    erl -noinput -sname stock &
    await 'registration of a stock node' is_registered stock
    dpkg -i /mnt/handover.deb
    [ -e /usr/bin/epmd.erlang ] || fail 'no diversion'
    check_service /usr/bin/epmd
    await 'registration of the stock node after the installation' is_registered stock
    for node in n1 n2; do
        erl -noinput -name $node@127.0.0.1 -proto_dist handover_tcp -start_epmd false -handover listen false -setcookie c \
            -eval "net_adm:ping('n1@127.0.0.1')" &
        await "registration of $node" is_registered $node
    done
    await 'a handover by epmd.service' sh -c 'handover status | grep "handovers .* ok"'

    pid=$(systemctl show -P MainPID epmd.service)
    started=$(stat -c %Y /proc/"$pid")
    dpkg -i /mnt/handover.deb
    for node in stock n1 n2; do
        is_registered $node || fail "the upgrade unregistered $node"
    done
    check_service /usr/bin/epmd
    [ "$pid $started" = "$(systemctl show -P MainPID epmd.service) $(stat -c %Y /proc/"$pid")" ] || fail 'the upgrade restarted epmd'

    dpkg -r handover
    check_service /usr/bin/epmd
    if [ -e /usr/bin/epmd.erlang ]; then fail 'the diversion still exists'; fi
    await 'registration of the stock node after the removal' is_registered stock
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
    echo 'systemd or erlang-base is not installed on this machine'
    exit 77
fi
if ! { mount -t tmpfs tmpfs /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup; } 2>/dev/null; then
    echo 'cgroups cannot be mounted, and a system cannot boot without'
    exit 77
fi
# Start no units of this machine except what the two units need. policy-rc.d would keep the package from starting its units.
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
# deb-systemd-invoke starts only enabled units
systemctl enable epmd.socket epmd.service
export container=scratch
exec $systemd --system --unit=deb-boot.target --log-target=null --show-status=false </dev/null
