#!/usr/bin/env bash
# Loads the daemon for longer than the tests may take, and prints what it held.
#   [SOAKTIME=3m] .ci/soak.sh
# SOAKTIME: how long each part runs.
# Part 1: 10,000 nodes, lookups by 64 clients, handovers, nodes that come and go, silent and slow connections; in the last quarter
# upgrades, one after the other. Fails on one error, on a name or a file that is lost or left, on memory that grows.
# Part 2: generated streams, compared with the stock epmd. Fails on the first difference.
# The last line is `N passed, N failed`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=.ci/environment.sh
. .ci/environment.sh
SOAKTIME=${SOAKTIME:-3m}
export SOAKTIME

# The lines for the operator, and all that is neither go test's own nor good news. As they come, which not every awk does.
sum() {
    local passed=0 failed=0 line
    while IFS= read -r line; do
        case $line in
        '--- PASS'*) passed=$((passed + 1)) ;;
        *'--- PASS'* | '=== '* | PASS | 'ok '*) ;;
        '--- FAIL'* | FAIL*'failed]') failed=$((failed + 1)) && echo "$line" ;;
        *) echo "$line" ;;
        esac
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
nice -n 5 go test -tags soak -p 1 -count 1 -timeout 0 -v -run '^TestSoak' ./go/cmd/epmd ./go/internal/epmd 2>&1 | sum
