#!/bin/sh
# Creates two hosts on one machine, each behind a firewall that accepts only EPMD's port.
#
#      PREFIX-host1                                     PREFIX-host2           network namespaces
#   +-----------------------------+                 +-----------------------------+
#   | host1.handover.test         |                 |         host2.handover.test |
#   | 192.0.2.1, fd77::1     eth0 |======veth=======| eth0     192.0.2.2, fd77::2 |
#   |                             |                 |                             |
#   | nftables, input: drop, but  |                 |  the same                   |
#   |   lo, established, related, |                 |                             |
#   |   TCP 4369, IPv6 neighbours |                 |                             |
#   +-----------------------------+                 +-----------------------------+
#
#   hosts.sh up PREFIX      creates the hosts; if it fails, it leaves nothing behind
#   hosts.sh down PREFIX    ends every process on the hosts and removes them; is a no-op if they do not exist
#   hosts.sh check          prints the reason and fails if this machine or user cannot create hosts
#
# PREFIX consists of 1 to 20 of a-z, 0-9 and -, and must be unique. The addresses need not be unique: each pair of hosts
# has a network of its own. Needs root, iproute2 and nftables.
# Exit status: 0 done, 1 failed (the reason is on stderr), 2 wrong usage.
#
# A command on a host:     ip netns exec PREFIX-host1 erl -name n1@host1.handover.test …
#   /etc/hosts on both hosts has the names with IPv4 and IPv6 addresses, long and short: host1.handover.test, host1.
# To accept another port:  ip netns exec PREFIX-host2 nft add rule inet handover input tcp dport 9100 accept
# To accept everything:    ip netns exec PREFIX-host2 nft flush ruleset
#
# If HANDOVER_HOSTS_LIST names a file, `up` first appends PREFIX to it. ct/run.sh uses this to remove all hosts when a
# run is interrupted.
set -eu
PATH=$PATH:/usr/sbin:/sbin

die() {
    echo "hosts.sh: $1" >&2
    exit "${2:-1}"
}

check() {
    [ "$(uname -s)" = Linux ] || die "needs Linux's network namespaces"
    [ "$(id -u)" -eq 0 ] || die "needs root to create network namespaces"
    [ -e /etc/hosts ] || die "/etc/hosts is missing: the hosts mount their own over it"
    command -v ip >/dev/null || die "ip is missing: install iproute2"
    command -v nft >/dev/null || die "nft is missing: install nftables"
    unshare --net nft list ruleset >/dev/null 2>&1 ||
        die "this machine does not allow network namespaces with nftables"
}

# set_up_host NAMESPACE NUMBER: addresses, names and firewall. eth0 must be up at both ends.
set_up_host() {
    ip -n "$1" link set lo up
    ip -n "$1" addr add "192.0.2.$2/24" dev eth0
    # no IPv6 if the kernel has none; nodad makes the address usable at once
    [ ! -e /proc/sys/net/ipv6 ] || ip -n "$1" addr add "fd77::$2/64" dev eth0 nodad
    mkdir -p "/etc/netns/$1"
    cat >"/etc/netns/$1/hosts" <<EOF
127.0.0.1 localhost $(uname -n)
::1 localhost
192.0.2.1 host1.handover.test host1
192.0.2.2 host2.handover.test host2
fd77::1 host1.handover.test host1
fd77::2 host2.handover.test host2
EOF
    ip netns exec "$1" nft -f - <<'EOF'
table inet handover {
    chain input {
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        tcp dport 4369 accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
EOF
}

# link_up NAMESPACE: sets eth0 up without duplicate address detection, which takes a second or two
link_up() {
    [ ! -e /proc/sys/net/ipv6 ] ||
        ip netns exec "$1" sh -c 'echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad'
    ip -n "$1" link set eth0 up
}

# wait_ready NAMESPACE: waits until eth0 is connected and its addresses are usable
wait_ready() {
    tries=600
    until ip -n "$1" -o link show dev eth0 | grep -q 'state UP' &&
        [ -z "$(ip -n "$1" -6 -o addr show dev eth0 tentative)" ]; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || die "$1: eth0 did not come up within a minute"
        sleep 0.1
    done
}

up() {
    check
    for ns in "$1-host1" "$1-host2"; do
        [ ! -e "/run/netns/$ns" ] || die "$ns exists: use another PREFIX, or run \`hosts.sh down $1\`"
    done
    [ -z "${HANDOVER_HOSTS_LIST:-}" ] || echo "$1" >>"$HANDOVER_HOSTS_LIST"
    prefix=$1
    trap 'down "$prefix"' EXIT
    trap 'exit 1' INT TERM HUP
    ip netns add "$1-host1"
    ip netns add "$1-host2"
    ip link add name eth0 netns "$1-host1" type veth peer name eth0 netns "$1-host2"
    link_up "$1-host1"
    link_up "$1-host2"
    set_up_host "$1-host1" 1
    set_up_host "$1-host2" 2
    wait_ready "$1-host1"
    wait_ready "$1-host2"
    trap - EXIT
}

# end_processes NAMESPACE: ends the processes of the host with SIGTERM, and after 2 s with SIGKILL
end_processes() {
    # shellcheck disable=SC2046 # a list of pids
    kill -TERM $(ip netns pids "$1") 2>/dev/null || return 0
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        [ -n "$(ip netns pids "$1")" ] || return 0
        sleep 0.1
    done
    # shellcheck disable=SC2046
    kill -KILL $(ip netns pids "$1") 2>/dev/null || true
}

down() {
    for ns in "$1-host1" "$1-host2"; do
        if [ -e "/run/netns/$ns" ]; then
            end_processes "$ns"
            ip netns del "$ns"
        fi
        rm -rf "/etc/netns/$ns"
    done
}

case ${1:-}:$# in
check:1)
    check
    exit
    ;;
up:2 | down:2) ;;
*) die "usage: hosts.sh up PREFIX | down PREFIX | check" 2 ;;
esac
case $2 in
'' | *[!a-z0-9-]* | -* | ?????????????????????*) die "PREFIX is 1 to 20 of a-z, 0-9 and -, not \"$2\"" 2 ;;
esac
"$1" "$2"
