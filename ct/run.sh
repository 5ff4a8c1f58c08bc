#!/bin/sh
# Runs the Common Test suites of ct/ with rebar3.
#
#   ct/run.sh [REPORT [ARGUMENT OF rebar3 ct …]]     e.g.  ct/run.sh /dev/stdout --suite ct/handover_fd_SUITE
#
# Writes one line for each case to REPORT (default: stdout): `ok|skip|FAIL Suite:Case [Reason]`. The exit status is 1 if
# anything failed. It is also a failure if no case ran, if the run was aborted, if a suite was left out, or if a suite
# left a process behind. Such processes are killed, and hosts (ct/hosts.sh) are removed, also if the run is interrupted.
set -eu
cd "$(dirname "$0")/.."
[ -t 1 ] || export TERM=dumb # no colours in a log
report=${1:-/dev/stdout}
[ $# -eq 0 ] || shift
deadline=${HANDOVER_CT_DEADLINE:-1500} # seconds, for all suites together
# shellcheck source=test/lib.sh
. test/lib.sh

HANDOVER_CT_REPORT=$(mktemp)
HANDOVER_HOSTS_LIST=$(mktemp)
export HANDOVER_CT_REPORT HANDOVER_HOSTS_LIST

# left_behind: prints the pids of the processes that the suites started. They have the name of this run's report in
# their environment.
left_behind() (
    mark=HANDOVER_CT_REPORT=$HANDOVER_CT_REPORT
    unset HANDOVER_CT_REPORT # so that grep and cut do not find themselves
    grep -lsF "$mark" /proc/[0-9]*/environ | cut -d / -f 3
)

# shellcheck disable=SC2317 # the trap calls it
finish() {
    while read -r prefix; do ct/hosts.sh down "$prefix" || true; done <"$HANDOVER_HOSTS_LIST"
    for pid in $(left_behind); do kill -KILL "$pid" 2>/dev/null || true; done
    rm -f "$HANDOVER_CT_REPORT" "$HANDOVER_HOSTS_LIST"
}

# report_left_behind: reports processes that have not ended within 10 s
report_left_behind() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ -n "$(left_behind)" ] || return 0
        sleep 1
    done
    for pid in $(left_behind); do
        fail "left behind, process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c 1-300)"
    done
}

trap finish EXIT
trap 'exit 130' INT TERM HUP

fail() {
    echo "FAIL common_test $1" >>"$HANDOVER_CT_REPORT"
}

status=0
if [ $# -gt 0 ]; then
    timeout "$deadline" rebar3 ct "$@" || status=$?
else
    timeout "$deadline" rebar3 ct --dir ct || status=$?
    for suite in ct/*_SUITE.erl; do
        suite=$(basename "$suite" .erl)
        grep -q " $suite:" "$HANDOVER_CT_REPORT" || fail "$suite ran no case"
    done
fi
report_left_behind
[ "$status" -ne 124 ] || fail "the run did not end within $deadline s"
grep -q '^\(ok\|FAIL\) ' "$HANDOVER_CT_REPORT" || fail "no case ran"
grep -qx 'done' "$HANDOVER_CT_REPORT" || fail "the run was aborted, see above"
if [ "$status" -ne 0 ]; then
    grep -q '^FAIL ' "$HANDOVER_CT_REPORT" || fail "rebar3 ended with exit status $status, see above"
fi
grep -vx 'done' "$HANDOVER_CT_REPORT" >>"$report"
! grep -q '^FAIL ' "$HANDOVER_CT_REPORT"
