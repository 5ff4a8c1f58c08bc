#!/usr/bin/env bash
# Two hosts, three nodes, one open port. `make demo` runs it.
#
#      host1                    firewalls: nothing comes in           host2
#   +-----------------+         but TCP 4369            +----------------------------+
#   |  n1 (BEAM)      |                                 |   n2 (BEAM)     n3 (BEAM)  |
#   |   + carrier     |                                 |    + carrier     + carrier |
#   |                 |                                 |          ^       ^         |
#   |  epmd :4369     |--------------- c1 ------------->|  epmd :4369 hands c1 over  |
#   +-----------------+                                 +----------------------------+
#
# The hosts are network namespaces (ct/hosts.sh) and need root. Without it the three nodes run on 127.0.0.1, with an EPMD
# on a port of its own and without a firewall. Exit status 0 when everything was as it should be. What was started is
# ended, also on Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=test/lib.sh
. test/lib.sh
PATH=$PATH:/usr/sbin:/sbin

prefix=demo$$
work=$(mktemp -d)
ebin=$PWD/_build/default/lib/handover/ebin
cookie=demo-$RANDOM$RANDOM
pids=()
epmd_port=4369

heading() { printf '\n%s\n' "$*"; }
say() { printf '  %s\n' "$*"; }

failed() {
    printf '  FAILED: %s\n' "$*" >&2
    for log in "$work"/*.log; do
        [ ! -s "$log" ] || { echo "--- $(basename "$log")" && tail -n 15 "$log"; } >&2
    done
    exit 1
}

# until_true SECONDS WHAT COMMAND …
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || failed "$what did not come about in time"
        sleep 0.1
    done
}

gone() { ! kill -0 "$1" 2>/dev/null; }

end_nodes() {
    [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
    for pid in "${pids[@]}"; do
        for _ in $(seq 50); do
            if gone "$pid"; then break; fi
            sleep 0.1
        done
        gone "$pid" || kill -KILL "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    pids=()
}

cleanup() {
    set +e
    trap '' INT TERM HUP
    end_nodes
    if [ "$hosts" = namespaces ]; then
        ct/hosts.sh down "$prefix"
    else
        end_epmd
    fi
    rm -rf "$work"
}

# the EPMD that the nodes started; it refuses to end until it has noticed that they are gone
end_epmd() {
    for _ in $(seq 50); do
        if ! epmd -port "$epmd_port" -names >/dev/null 2>&1; then return 0; fi
        priv/epmd -port "$epmd_port" -kill >/dev/null 2>&1 || true
        sleep 0.1
    done
    say "EPMD on port $epmd_port did not end: priv/epmd -port $epmd_port -kill"
}

# on HOST COMMAND …
on() {
    local host=$1
    shift
    if [ "$hosts" = namespaces ]; then
        ip netns exec "$prefix-$host" "$@"
    else
        ERL_EPMD_PORT=$epmd_port "$@"
    fi
}

name() { # name NODE HOST
    if [ "$hosts" = namespaces ]; then echo "$1@$2.handover.test"; else echo "$1@127.0.0.1"; fi
}

# node NODE HOST ARGUMENT …: in the background; its pid is the last of pids
node() {
    local name host=$2
    name=$(name "$1" "$2")
    shift 2
    if [ "$hosts" = namespaces ]; then
        set -- ip netns exec "$prefix-$host" erl "$@"
    else
        set -- env "ERL_EPMD_PORT=$epmd_port" erl "$@"
    fi
    # +Bd: Ctrl-C is for this script
    "$@" +Bd -noinput -name "$name" -setcookie "$cookie" -start_epmd false -pa "$work" </dev/null &
    pids+=($!)
}

# run_node NODE HOST ARGUMENT …: until it ends, at most 3 minutes, showing its output
run_node() {
    local node=$1 host=$2
    shift 2
    node "$node" "$host" "$@"
    local pid=${pids[-1]}
    until_true 180 "the end of node $node" gone "$pid"
    wait "$pid"
}

# start_node NODE HOST ARGUMENT …: until it is ready
start_node() {
    local node=$1 host=$2
    shift 2
    node "$node" "$host" "$@" -eval 'io:format("ready~n")' >"$work/$node.log" 2>&1
    until_true 60 "the start of node $node" ready_or_gone "$node" "${pids[-1]}"
    grep -qx ready "$work/$node.log" || failed "node $node did not start"
}

ready_or_gone() { grep -qx ready "$work/$1.log" || gone "$2"; }

epmd_answers() { on "$1" epmd -names; }

stock_fails() {
    heading "2. OTP as it is: EPMD answers, the node itself is behind the firewall"
    for host in host1 host2; do
        ip netns exec "$prefix-$host" epmd >"$work/epmd-$host.log" 2>&1 &
        pids+=($!)
        until_true 60 "the start of OTP's epmd" epmd_answers "$host"
    done
    start_node s2 host2
    run_node s1 host1 -kernel net_setuptime 3 -run two_hosts stock "$(name s2 host2)" ||
        failed "OTP's own distribution did not fail as expected"
    end_nodes
}

handover_works() {
    heading "$1"
    local options=(-proto_dist handover_tcp -handover listen false -pa "$ebin")
    start_node n2 host2 "${options[@]}"
    start_node n3 host2 "${options[@]}"
    run_node n1 host1 "${options[@]}" -run two_hosts main "$(name n2 host2)" "$(name n3 host2)" ||
        failed "handover did not do what it should"
}

listening_ports() {
    if [ "$hosts" = namespaces ]; then
        on host2 ss -Hltn
    else
        ss -Hltn "sport = :$epmd_port"
        ss -Hltnp | grep -E "pid=($(IFS='|' && echo "${pids[*]}"))," || true
    fi | awk '{sub(/.*:/, "", $4); print $4}' | sort -u
}

one_port() {
    heading "$1"
    if [ "$hosts" = namespaces ]; then on host2 ss -Hltn; else ss -Hltn "sport = :$epmd_port"; fi |
        awk '{print "  " $1, $4}'
    [ "$(listening_ports)" = "$epmd_port" ] || failed "not port $epmd_port alone: $(listening_ports | xargs)"
}

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 10000))
        [ -n "$(ss -Hltn "sport = :$port")" ] || { echo "$port" && return; }
    done
    return 1
}

if reason=$(ct/hosts.sh check 2>&1); then hosts=namespaces; else hosts=loopback; fi
trap cleanup EXIT
trap 'exit 130' INT TERM HUP
erlc -o "$work" examples/two_hosts/two_hosts.erl

if [ "$hosts" = namespaces ]; then
    heading "1. Two hosts, each with a firewall that lets nothing in but TCP 4369"
    ct/hosts.sh up "$prefix"
    say "host1 192.0.2.1, host2 192.0.2.2; network namespaces, joined by a veth pair; nftables:"
    ip netns exec "$prefix-host2" nft list chain inet handover input | sed -n 's/^\t\t/    /p'
    stock_fails
    handover_works "3. The same hosts with -proto_dist handover_tcp: n1 on host1, n2 and n3 on host2"
    one_port "4. What listens on host2 (ss -ltn), with two nodes running there"
    heading "Three nodes on two hosts are one cluster, and the firewall has one port open: EPMD's."
else
    epmd_port=$(free_port)
    heading "1. No two hosts here ($reason)"
    say "So: three nodes on 127.0.0.1, EPMD on port $epmd_port, no firewall. As root the demo is the real thing."
    handover_works "2. n1, n2 and n3 with -proto_dist handover_tcp"
    one_port "3. What EPMD and the nodes listen on (ss -ltn)"
    heading "Three nodes are one cluster, and nothing listens but EPMD, on one port."
fi
