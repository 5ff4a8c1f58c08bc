#!/bin/sh
# Runs the Go tests under the race detector; fuzz targets run their committed seeds.
#   test/go.sh [REPORT]
# Writes a line for each test and subtest to REPORT (default: stdout): `ok|skip|FAIL package.Test [Reason]`. The output of
# failed tests goes to stdout. Exit status 1 if a test failed or none ran.
set -eu
cd "$(dirname "$0")/.."
timeout=${HANDOVER_GO_TIMEOUT:-10m} # for the tests of one package
# shellcheck source=test/lib.sh
. test/lib.sh
report=${1:-/dev/stdout}
events=$(mktemp)
trap 'rm -f "$events"' EXIT
trap 'exit 130' INT TERM HUP

status=0
for module in . test; do
    CGO_ENABLED=1 go test -C "$module" -count=1 -race -timeout "$timeout" -json ./... >>"$events" || status=$?
done

# Print what is not a test event (for example an error in go.mod), and the errors of the compiler.
jq -rR 'fromjson? // . | if type == "string" then . elif .Action == "build-output" then .Output | rtrimstr("\n") else empty end' \
    "$events"
# Print the output of the tests that failed, and of packages that failed as a whole.
jq -rs '
    map(select(.Action == "fail") | [.Package, .Test // ""] | join(" ")) as $failed
    | .[] | select(.Action == "output" and ([.Package, .Test // ""] | join(" ") | IN($failed[])))
    | .Output | rtrimstr("\n")' "$events"
# Write a line for each test. The output of a skipped test is the reason.
jq -rs '
    (map(select(.Action == "output" and .Test)) | group_by([.Package, .Test])
        | map({key: "\(.[0].Package) \(.[0].Test)",
               value: (map(.Output) | map(select(test("^\\s*(===|---)") | not)) | join(" ") | gsub("\\s+"; " "))})
        | from_entries) as $reasons
    | map(select(.Test and .Action == "fail") | .Package) as $explained
    | .[]
    | if .Test then
        if .Action == "pass" then "ok \(.Package).\(.Test)"
        elif .Action == "skip" then "skip \(.Package).\(.Test)\($reasons["\(.Package) \(.Test)"] // "")"
        elif .Action == "fail" then "FAIL \(.Package).\(.Test)"
        else empty end
      elif .Action == "fail" and (.Package | IN($explained[]) | not) then "FAIL \(.Package) did not build, or ended before its tests did"
      else empty end' "$events" >"$events.report"
mv "$events.report" "$events"

grep -q '^\(ok\|FAIL\) ' "$events" || echo "FAIL go: no test ran" >>"$events"
if [ "$status" -ne 0 ]; then
    grep -q '^FAIL ' "$events" || echo "FAIL go: go test ended with status $status, see above" >>"$events"
fi
cat "$events" >>"$report"
! grep -q '^FAIL ' "$events"
