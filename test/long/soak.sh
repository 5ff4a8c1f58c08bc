#!/usr/bin/env bash
# Loads everything for longer than the tests may take, and prints what was held.
#   [SOAKTIME=3m] [SEED=N] test/long/soak.sh [PART …]      PART: daemon, stock, nodes; default: all
# SOAKTIME: how long each part runs. 10m before a release.
# daemon: 10,000 nodes, lookups by 64 clients, handovers, nodes that come and go, silent and slow connections; in the last quarter
#   upgrades, one after the other. Fails on one error, on a name or a file that is lost or left, on memory that grows.
# stock: generated streams, compared with the stock epmd. Fails on the first difference.
# nodes: six nodes on two firewalled hosts (root; ct/handover_soak.erl). Links, nodes, carriers and EPMDs end and come back at
#   random, chosen by SEED. Fails on a message that is lost or doubled on a link, and on what is held afterwards.
# The last line is `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/../.."
SOAKTIME=${SOAKTIME:-3m}
SEED=${SEED:-$(date +%s)}
# shellcheck source=test/lib.sh
. test/lib.sh
export SOAKTIME
prefix=soak$$
work=$(mktemp -d)
finish() {
    ct/hosts.sh down "$prefix"
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
[ $# -gt 0 ] || set -- daemon stock nodes

# The lines for the operator, and all that is neither go test's own nor good news. As they come, which not every awk does.
# Counts in $work/sum.
sum() {
    local passed=0 failed=0 line
    while IFS= read -r line; do
        case $line in
        '--- PASS'*) passed=$((passed + 1)) ;;
        *'--- PASS'* | '=== '* | PASS | 'ok  '*) ;;
        'ok '*) passed=$((passed + 1)) && echo "$line" ;;
        '--- FAIL'* | FAIL*'failed]' | 'FAIL '*': '*) failed=$((failed + 1)) && echo "$line" ;;
        *) echo "$line" ;;
        esac
    done
    echo "$passed $failed" >>"$work/sum"
}

go_part() {
    nice -n 5 go test -tags soak -p 1 -count 1 -timeout 0 -v -run '^TestSoak' "$1" 2>&1 | sum || true
}

nodes() {
    local reason
    if ! reason=$(ct/hosts.sh check 2>&1); then
        echo "skip nodes: $reason"
        return
    fi
    erlc -Werror -o "$work" ct/handover_ct.erl ct/handover_ct_work.erl ct/handover_soak.erl
    ct/hosts.sh up "$prefix"
    nice -n 5 erl -noinput -pa "$work" -pa _build/default/lib/handover/ebin -run handover_soak main "$prefix" "$SOAKTIME" "$SEED" 2>&1 | sum
}

for part; do
    echo "== $part"
    case $part in
    daemon) go_part ./go/cmd/epmd ;;
    stock) go_part ./go/internal/epmd ;;
    nodes) nodes ;;
    *) echo "soak.sh: no part $part: daemon, stock or nodes" >&2 && exit 1 ;;
    esac
done
awk '{passed += $1; failed += $2} END {printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0}' "$work/sum"
