#!/usr/bin/env bash
# Runs the programs under load for longer than ordinary tests may take, and prints what was measured.
#   [SOAKTIME=3m] [SEED=N] test/long/soak.sh [PART …]      PART: daemon, stock, nodes; default: all
# SOAKTIME is the duration of each part. Use 10m before a release.
# daemon: 10,000 nodes, lookups by 64 clients, handovers, nodes that start and end, silent and slow connections; in the last
#   quarter of the time upgrades, one after another. Fails on any error, if a name is lost, if a name or an open file is left
#   over, or if memory grows.
# stock: sends generated requests to handover's epmd and to the stock epmd. Fails on the first difference.
# nodes: six nodes on two firewalled hosts (root; ct/handover_soak.erl). Links, nodes, carriers and EPMDs end and come back at
#   random, as chosen by SEED. Fails if a message on a link is lost or duplicated, or if processes or open files are left over.
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

# Counts the results on stdin into $work/sum, and prints every line except go test's own and those of passed subtests. It is not
# awk, because some versions of awk buffer their input.
count_results() {
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

run_go_part() {
    nice -n 5 go test -tags soak -p 1 -count 1 -timeout 0 -v -run '^TestSoak' "$1" 2>&1 | count_results || true
}

run_nodes() {
    local reason
    if ! reason=$(ct/hosts.sh check 2>&1); then
        echo "skip nodes: $reason"
        return
    fi
    erlc -Werror -o "$work" ct/handover_ct.erl ct/handover_ct_work.erl ct/handover_soak.erl
    ct/hosts.sh up "$prefix"
    nice -n 5 erl -noinput -pa "$work" -pa _build/default/lib/handover/ebin -run handover_soak main "$prefix" "$SOAKTIME" "$SEED" 2>&1 | count_results
}

for part; do
    echo "== $part"
    case $part in
    daemon) run_go_part ./go/cmd/epmd ;;
    stock) run_go_part ./go/internal/epmd ;;
    nodes) run_nodes ;;
    *) echo "soak.sh: unknown part $part; the parts are daemon, stock and nodes" >&2 && exit 1 ;;
    esac
done
awk '{passed += $1; failed += $2} END {printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0}' "$work/sum"
