#!/bin/sh
# Runs the journeys: the steps of users, in temporary directories, with this checkout's HEAD as a git dependency.
#   test/journeys/run.sh [REPORT [EXAMPLE …]]     e.g.  test/journeys/run.sh /dev/stdout elixir_project
# Writes a line for each case to REPORT (default: stdout). Exit status 1 if a case failed. Changes that are not committed are
# not tested, except those in examples/.
set -eu
cd "$(dirname "$0")/../.."
report=${1:-/dev/null}
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
    for example in examples/*_project examples/rabbitmq; do set -- "$@" "test/journeys/${example#examples/}.sh"; done
    scripts/deps.sh mix=elixir || true # without mix, that journey is skipped with the reason
else
    for name; do
        set -- "$@" "test/journeys/$name.sh"
        shift
    done
fi
status=0
for journey in "$@"; do "$journey" "$report" || status=1; done
exit "$status"
