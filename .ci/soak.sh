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
SOAKTIME=${SOAKTIME:-3m}
export SOAKTIME
# The lines for the operator, and all that is neither go test's own nor good news.
nice -n 5 go test -tags soak -p 1 -count 1 -timeout 0 -v -run '^TestSoak' ./go/cmd/epmd ./go/internal/epmd 2>&1 | awk '
    /^--- PASS/ {passed++}
    /^--- FAIL/ || /^FAIL.*\[.* failed\]/ {failed++}
    /^soak: / || !/^(===| *--- PASS|PASS$|ok )/ {print; fflush()}
    END {printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0}'
