#!/usr/bin/env bash
# `make demo` runs this script: three nodes on two hosts, with one open port.
#
#      host1                    firewalls: only TCP 4369              host2
#   +-----------------+         comes in                +----------------------------+
#   |  n1 (BEAM)      |                                 |   n2 (BEAM)     n3 (BEAM)  |
#   |   + carrier     |                                 |    + carrier     + carrier |
#   |                 |                                 |          ^       ^         |
#   |  epmd :4369     |--------------- c1 ------------->|  epmd :4369 hands c1 over  |
#   +-----------------+                                 +----------------------------+
#
# The hosts are network namespaces (ct/hosts.sh), which need root. Without root the three nodes run on 127.0.0.1, with an EPMD on
# a free port and without a firewall. Exit status 0 if every step gave the expected result. At the end, also on Ctrl-C, the
# script ends everything that it started.
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

# until_true SECONDS WHAT COMMAND …: runs COMMAND until it succeeds
until_true() {
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || failed "timed out waiting for $what"
        sleep 0.1
    done
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }

end_nodes() {
    [ ${#pids[@]} -eq 0 ] || kill -TERM "${pids[@]}" 2>/dev/null || true
    for pid in "${pids[@]}"; do
        for _ in $(seq 50); do
            if has_ended "$pid"; then break; fi
            sleep 0.1
        done
        has_ended "$pid" || kill -KILL "$pid" 2>/dev/null || true
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

# end_epmd ends the EPMD that the nodes started. EPMD refuses until it has unregistered all nodes.
end_epmd() {
    for _ in $(seq 50); do
        if ! epmd -port "$epmd_port" -names >/dev/null 2>&1; then return 0; fi
        priv/epmd -port "$epmd_port" -kill >/dev/null 2>&1 || true
        sleep 0.1
    done
    say "EPMD on port $epmd_port is still running. End it with: priv/epmd -port $epmd_port -kill"
}

# run_on HOST COMMAND …
run_on() {
    local host=$1
    shift
    if [ "$hosts" = namespaces ]; then
        ip netns exec "$prefix-$host" "$@"
    else
        ERL_EPMD_PORT=$epmd_port "$@"
    fi
}

# full_name NODE HOST: prints the name with its host part
full_name() {
    if [ "$hosts" = namespaces ]; then echo "$1@$2.handover.test"; else echo "$1@127.0.0.1"; fi
}

# spawn_node NODE HOST ARGUMENT …: starts a node in the background and appends its pid to pids
spawn_node() {
    local name host=$2
    name=$(full_name "$1" "$2")
    shift 2
    if [ "$hosts" = namespaces ]; then
        set -- ip netns exec "$prefix-$host" erl "$@"
    else
        set -- env "ERL_EPMD_PORT=$epmd_port" erl "$@"
    fi
    # +Bd: this script handles Ctrl-C, not the node
    "$@" +Bd -noinput -name "$name" -setcookie "$cookie" -start_epmd false -pa "$work" </dev/null &
    pids+=($!)
}

# run_node NODE HOST ARGUMENT …: runs a node until it ends, for at most 3 minutes, and shows its output
run_node() {
    local node=$1 host=$2
    shift 2
    spawn_node "$node" "$host" "$@"
    local pid=${pids[-1]}
    until_true 180 "the end of node $node" has_ended "$pid"
    wait "$pid"
}

# start_node NODE HOST ARGUMENT …: starts a node and waits until it is ready
start_node() {
    local node=$1 host=$2
    shift 2
    spawn_node "$node" "$host" "$@" -eval 'io:format("ready~n")' >"$work/$node.log" 2>&1
    until_true 60 "the start of node $node" ready_or_ended "$node" "${pids[-1]}"
    grep -qx ready "$work/$node.log" || failed "node $node did not start"
}

ready_or_ended() { grep -qx ready "$work/$1.log" || has_ended "$2"; }

epmd_answers() { run_on "$1" epmd -names; }

show_stock_failure() {
    heading "2. Without handover: EPMD answers, but the firewall blocks the port of the node"
    for host in host1 host2; do
        ip netns exec "$prefix-$host" epmd >"$work/epmd-$host.log" 2>&1 &
        pids+=($!)
        until_true 60 "the start of OTP's epmd" epmd_answers "$host"
    done
    start_node s2 host2
    run_node s1 host1 -kernel net_setuptime 3 -run two_hosts stock "$(full_name s2 host2)" ||
        failed "node s1 did not get the expected results, see above"
    end_nodes
}

show_handover() {
    heading "$1"
    local options=(-proto_dist handover_tcp -handover listen false -pa "$ebin")
    start_node n2 host2 "${options[@]}"
    start_node n3 host2 "${options[@]}"
    run_node n1 host1 "${options[@]}" -run two_hosts main "$(full_name n2 host2)" "$(full_name n3 host2)" ||
        failed "node n1 did not get the expected results, see above"
}

listening_ports() {
    if [ "$hosts" = namespaces ]; then
        run_on host2 ss -Hltn
    else
        ss -Hltn "sport = :$epmd_port"
        ss -Hltnp | grep -E "pid=($(IFS='|' && echo "${pids[*]}"))," || true
    fi | awk '{sub(/.*:/, "", $4); print $4}' | sort -u
}

show_ports() {
    heading "$1"
    if [ "$hosts" = namespaces ]; then run_on host2 ss -Hltn; else ss -Hltn "sport = :$epmd_port"; fi |
        awk '{print "  " $1, $4}'
    [ "$(listening_ports)" = "$epmd_port" ] || failed "ports other than $epmd_port are open: $(listening_ports | xargs)"
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
    heading "1. Two hosts, each with a firewall that opens TCP port 4369 only"
    ct/hosts.sh up "$prefix"
    say "host1 192.0.2.1, host2 192.0.2.2; network namespaces, joined by a veth pair; nftables:"
    ip netns exec "$prefix-host2" nft list chain inet handover input | sed -n 's/^\t\t/    /p'
    show_stock_failure
    show_handover "3. The same hosts with -proto_dist handover_tcp: n1 on host1, n2 and n3 on host2"
    show_ports "4. The open ports of host2 (ss -ltn), with two nodes running there"
    heading "Three nodes on two hosts are one cluster, and the firewall has one port open: EPMD's."
else
    epmd_port=$(free_port)
    heading "1. This machine cannot create two hosts ($reason)"
    say "Instead: three nodes on 127.0.0.1, EPMD on port $epmd_port, no firewall. Run the demo as root to see two hosts."
    show_handover "2. n1, n2 and n3 with -proto_dist handover_tcp"
    show_ports "3. The open ports of EPMD and the nodes (ss -ltn)"
    heading "Three nodes are one cluster, and only EPMD listens, on one port."
fi
