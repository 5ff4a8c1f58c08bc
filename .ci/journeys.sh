#!/bin/sh
# Walks the ways of users, in temporary folders of their own with this checkout's HEAD as a git dependency.
#   .ci/journeys.sh [REPORT [EXAMPLE …]]     e.g.  .ci/journeys.sh /dev/stdout elixir_project
# REPORT (default: stdout) gets a line a case, as the other parts write them. Exit status 1 if a case failed. What is not
# committed is not tested, but for the examples themselves.
set -eu
cd "$(dirname "$0")/.."
report=${1:-/dev/null}
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
    set -- examples/*/test.sh
    .ci/deps.sh mix=elixir || true # what is missing is skipped, and says so
else
    for name; do
        set -- "$@" "examples/$name/test.sh"
        shift
    done
fi
status=0
for journey in "$@"; do "$journey" "$report" || status=1; done
exit "$status"
