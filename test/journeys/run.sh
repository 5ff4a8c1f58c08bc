#!/bin/sh
# Walks the ways of users, in temporary folders of their own with this checkout's HEAD as a git dependency.
#   test/journeys/run.sh [REPORT [EXAMPLE …]]     e.g.  test/journeys/run.sh /dev/stdout elixir_project
# REPORT (default: stdout) gets a line a case, as the other parts write them. Exit status 1 if a case failed. What is not
# committed is not tested, but for the examples themselves.
set -eu
cd "$(dirname "$0")/../.."
report=${1:-/dev/null}
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
    for example in examples/*_project examples/rabbitmq; do set -- "$@" "test/journeys/${example#examples/}.sh"; done
    scripts/deps.sh mix=elixir || true # a journey whose program is missing is skipped, with the reason
else
    for name; do
        set -- "$@" "test/journeys/$name.sh"
        shift
    done
fi
status=0
for journey in "$@"; do "$journey" "$report" || status=1; done
exit "$status"
