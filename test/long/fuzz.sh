#!/bin/sh
# Runs each fuzz target for FUZZTIME (default 60s) with one worker, starting from the committed corpus in testdata/fuzz.
#   test/long/fuzz.sh [TARGET …]      default: all targets
# If a target fails, go test writes the input to testdata/fuzz of the package; commit it together with the fix. The last line
# is `N passed, N failed`. Exit status 1 if a target failed or none ran.
set -eu
cd "$(dirname "$0")/../.."
time=${FUZZTIME:-60s}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
passed=0
failed=0

# prints a line "./package Target" for each target
list_targets() {
    grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' go | sed 's|^\(.*\)/[^/]*:func \(.*\)$|./\1 \2|' | sort
}

# wanted TARGET NAME …: succeeds if TARGET is one of the names, or if there are no names
wanted() {
    target=$1
    shift
    [ $# -gt 0 ] || return 0
    for name in "$@"; do [ "$name" != "$target" ] || return 0; done
    return 1
}

list_targets >"$work/targets"
while read -r package target; do
    wanted "$target" "$@" || continue
    if nice -n 10 go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x -parallel 1 "$package" >"$work/output" 2>&1; then
        passed=$((passed + 1))
        echo "ok $package $target, $time, $(grep -o 'execs: [0-9]*' "$work/output" | tail -n 1)"
    else
        failed=$((failed + 1))
        cat "$work/output"
        echo "FAIL $package $target"
    fi
done <"$work/targets"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
