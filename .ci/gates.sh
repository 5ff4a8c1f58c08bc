#!/bin/sh
# The gates beside the tests: form, static analysis, other systems' builds.
#   .ci/gates.sh [REPORT]
# REPORT (default: stdout): a line a gate, `ok|skip|FAIL gate [Reason]`. Exit status 1 if a gate failed.
set -eu
cd "$(dirname "$0")/.."
[ -t 1 ] || export TERM=dumb # no colours in a log
report=${1:-/dev/stdout}
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
output=$(mktemp)
built=$(mktemp -d)
trap 'rm -rf "$output" "$built"' EXIT
trap 'exit 130' INT TERM HUP
failed=0

verdict() {
    echo "$1" >>"$report"
    [ "$report" = /dev/stdout ] || echo "$1"
}

# gate NAME COMMAND …: shows the output of a command that fails
gate() {
    name=$1
    shift
    if timeout 600 "$@" >"$output" 2>&1; then
        verdict "ok $name"
    else
        failed=1
        cat "$output"
        verdict "FAIL $name, see above"
    fi
}

shell_scripts() {
    git ls-files -co --exclude-standard '*.sh' '*.bash' .ci/run debian/handover.p* completions/bash
}

# govulncheck asks a server that some machines can't reach: no finding, then, and a skip that says so
vulnerabilities() {
    if go run "$govulncheck" ./go/... >"$output" 2>&1; then
        verdict "ok govulncheck"
    elif grep -q 'fetching vulnerabilities' "$output"; then
        verdict "skip govulncheck: $(grep -m1 'fetching vulnerabilities' "$output")"
    else
        failed=1
        cat "$output"
        verdict "FAIL govulncheck, see above"
    fi
}

gate gofmt gofmt -d go
gate 'go mod tidy' go mod tidy -diff
gate 'go vet' go vet ./go/...
gate 'go vet (darwin)' env GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet ./go/...
gate 'go build (darwin)' env GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go build -o "$built/" ./go/cmd/epmd ./go/cmd/handover
gate 'go vet (freebsd)' env GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 go vet ./go/...
gate 'go build (freebsd)' env GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 go build -o "$built/" ./go/cmd/epmd ./go/cmd/handover
gate 'go vet (soak)' go vet -tags soak ./go/...
gate staticcheck go run "$staticcheck" ./go/...
vulnerabilities
# shellcheck disable=SC2046 # a list of files
gate shellcheck shellcheck $(shell_scripts)
gate mandoc mandoc -T lint -W warning man/epmd.1 man/handover.1
# rebar.config has warnings_as_errors
gate 'rebar3 compile' rebar3 compile
gate 'rebar3 xref' rebar3 xref
gate 'rebar3 dialyzer' rebar3 dialyzer
exit "$failed"
