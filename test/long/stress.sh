#!/bin/sh
# Runs all tests three times next to four busy loops, because no test may depend on speed.
#   [ROUNDS=3] test/long/stress.sh [PART …]      PART: a part of scripts/test.sh; default: go ct
# The last line is `N passed, N failed` for all rounds; exit status 1 if a test failed. It takes half an hour or more on two
# processors.
set -eu
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
loops=
finish() {
    # shellcheck disable=SC2086 # a list of pids
    kill $loops 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP
[ $# -gt 0 ] || set -- go ct
# longer deadlines than usual, so that a slow test passes and one that hangs still fails
HANDOVER_GO_TIMEOUT=60m
HANDOVER_CT_DEADLINE=5400
export HANDOVER_GO_TIMEOUT HANDOVER_CT_DEADLINE

for _ in 1 2 3 4; do
    while :; do :; done &
    loops="$loops $!"
done
round=1
while [ "$round" -le "${ROUNDS:-3}" ]; do
    echo "=== round $round of ${ROUNDS:-3}"
    scripts/test.sh "$@" 2>&1 | tee "$work/output"
    tail -n 1 "$work/output" | grep -xE '[0-9]+ passed, [0-9]+ failed' >>"$work/sums" || echo "0 passed, 1 failed" >>"$work/sums"
    grep '^FAIL ' "$work/output" | sort -u | sed "s/^/round $round: /" >>"$work/failures" || true
    round=$((round + 1))
done
echo "=== summary"
cat "$work/failures" "$work/sums"
awk '{passed += $1; failed += $3} END {printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0}' "$work/sums"
