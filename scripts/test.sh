#!/bin/sh
# Runs the named parts of the tests. The last line is `N passed, N failed` for all of them.
#   scripts/test.sh PART …     PART: gates, go, ct, journeys, deb or dist
# Exit status 1 if a test failed or a part ran no test. Skipped tests are listed with the reason.
set -eu
cd "$(dirname "$0")/.."
total=$(mktemp)
part=$(mktemp)
trap 'rm -f "$total" "$part"' EXIT
trap 'exit 130' INT TERM HUP

script_of() {
    case $1 in
    gates) echo scripts/gates.sh ;;
    go) echo test/go.sh ;;
    ct) echo ct/run.sh ;;
    journeys) echo test/journeys/run.sh ;;
    deb) echo test/packages/deb-check.sh ;;
    dist) echo test/packages/dist-check.sh ;;
    *) echo "test.sh: unknown part $1; the parts are gates, go, ct, journeys, deb and dist" >&2 && return 1 ;;
    esac
}

for name in "$@"; do
    program=$(script_of "$name")
    echo "== $name"
    : >"$part"
    started=$(date +%s)
    status=0
    "$program" "$part" || status=$?
    grep -q '^\(ok\|FAIL\) ' "$part" || echo "FAIL $name: no test ran" >>"$part"
    [ "$status" -eq 0 ] || grep -q '^FAIL ' "$part" || echo "FAIL $name ended with status $status" >>"$part"
    awk -v name="$name" -v took="$(($(date +%s) - started))" '{n[$1]++} END {
        printf "-- %s: %d ok, %d failed, %d skipped, %d s\n", name, n["ok"], n["FAIL"], n["skip"], took}' "$part"
    cat "$part" >>"$total"
done

echo "== summary"
grep '^skip ' "$total" || true
grep '^FAIL ' "$total" || true
awk '{n[$1]++} END {
    if (n["skip"]) printf "%d skipped, for the reasons above\n", n["skip"]
    printf "%d passed, %d failed\n", n["ok"], n["FAIL"]
    exit n["FAIL"] > 0 || n["ok"] == 0}' "$total"
