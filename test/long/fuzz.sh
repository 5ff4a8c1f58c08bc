#!/bin/sh
# Runs every fuzz target for FUZZTIME (default 60s) with one worker, from the committed corpus in testdata/fuzz.
#   test/long/fuzz.sh [TARGET …]      default: all of them
# A finding is written to testdata/fuzz of its package, to be committed with its repair. The last line is
# `N passed, N failed`; exit status 1 if anything failed or nothing ran.
set -eu
cd "$(dirname "$0")/../.."
time=${FUZZTIME:-60s}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
passed=0
failed=0

# a line "./package Target" for each
targets() {
    grep -ro --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' go | sed 's|^\(.*\)/[^/]*:func \(.*\)$|./\1 \2|' | sort
}

# wanted TARGET NAME …: is it one of the names, or are there none
wanted() {
    target=$1
    shift
    [ $# -gt 0 ] || return 0
    for name in "$@"; do [ "$name" != "$target" ] || return 0; done
    return 1
}

targets >"$work/targets"
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
