#!/bin/sh
# Runs the checks that are not tests: formatting, static analysis, builds for other systems.
#   scripts/gates.sh [REPORT]
# Writes a line for each check to REPORT (default: stdout): `ok|skip|FAIL check [Reason]`. Exit status 1 if a check failed.
set -eu
cd "$(dirname "$0")/.."
# shellcheck source=test/lib.sh
. test/lib.sh
report=${1:-/dev/stdout}
failed=0
[ -t 1 ] || export TERM=dumb # no colours in a log
staticcheck=honnef.co/go/tools/cmd/staticcheck@v0.8.2
govulncheck=golang.org/x/vuln/cmd/govulncheck@v1.9.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# gate NAME COMMAND …: runs one check, for at most 10 minutes
gate() {
    name=$1
    shift
    try "$name" timeout 600 "$@"
}

shell_scripts() {
    git ls-files -co --exclude-standard '*.sh' '*.bash' .ci/run packaging/debian/handover.p* packaging/completions/bash
}

# govulncheck needs a server. If this machine cannot reach it, the check is skipped, with the reason.
# shellcheck disable=SC2317 # try calls it
check_vulnerabilities() {
    if go run "$govulncheck" ./... >"$work/found" 2>&1; then return; fi
    if grep -m1 'fetching vulnerabilities' "$work/found"; then return 77; fi
    cat "$work/found"
    return 1
}

gate gofmt gofmt -d go test bench
for module in . test bench; do
    gate "go mod tidy ($module)" go -C "$module" mod tidy -diff
    gate "go vet ($module)" go -C "$module" vet ./...
    gate "staticcheck ($module)" go -C "$module" run "$staticcheck" ./...
done
gate 'go vet (darwin)' env GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go vet ./...
gate 'go build (darwin)' env GOOS=darwin GOARCH=arm64 CGO_ENABLED=0 go build -o "$work/" ./go/cmd/epmd ./go/cmd/handover
gate 'go vet (freebsd)' env GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 go vet ./...
gate 'go build (freebsd)' env GOOS=freebsd GOARCH=amd64 CGO_ENABLED=0 go build -o "$work/" ./go/cmd/epmd ./go/cmd/handover
gate 'go vet (soak)' go vet -tags soak ./...
try govulncheck check_vulnerabilities
# shellcheck disable=SC2046 # a list of files
gate shellcheck shellcheck $(shell_scripts)
gate mandoc mandoc -T lint -W warning packaging/man/epmd.1 packaging/man/handover.1
# rebar.config has warnings_as_errors
gate 'rebar3 compile' rebar3 compile
gate 'rebar3 xref' rebar3 xref
gate 'rebar3 dialyzer' rebar3 dialyzer
exit "$failed"
