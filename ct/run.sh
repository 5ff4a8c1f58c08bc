#!/bin/sh
# Runs the Common Test suites of ct/, by rebar3. A run that is empty, breaks off or leaves out a suite fails.
#   ct/run.sh [REPORT [ARGUMENT OF rebar3 ct …]]     e.g.  ct/run.sh /dev/stdout --suite ct/handover_fd_SUITE
# REPORT (default: stdout): a line a case, `ok|skip|FAIL Suite:Case [Reason]`. Exit status 1 if anything failed.
# Hosts that the suites left (ct/hosts.sh) are taken down, also when the run is interrupted.
set -eu
cd "$(dirname "$0")/.."
[ -t 1 ] || export TERM=dumb # no colours in a log
report=${1:-/dev/stdout}
[ $# -eq 0 ] || shift
deadline=${HANDOVER_CT_DEADLINE:-900} # seconds, for all suites together

HANDOVER_CT_REPORT=$(mktemp)
HANDOVER_HOSTS_LIST=$(mktemp)
export HANDOVER_CT_REPORT HANDOVER_HOSTS_LIST

finish() {
    while read -r prefix; do ct/hosts.sh down "$prefix" || true; done <"$HANDOVER_HOSTS_LIST"
    rm -f "$HANDOVER_CT_REPORT" "$HANDOVER_HOSTS_LIST"
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
[ "$status" -ne 124 ] || fail "the run did not end within $deadline s"
grep -q '^\(ok\|FAIL\) ' "$HANDOVER_CT_REPORT" || fail "no case ran"
grep -qx 'done' "$HANDOVER_CT_REPORT" || fail "the run broke off, see above"
if [ "$status" -ne 0 ]; then
    grep -q '^FAIL ' "$HANDOVER_CT_REPORT" || fail "rebar3 ended with status $status, see above"
fi
grep -vx 'done' "$HANDOVER_CT_REPORT" >>"$report"
! grep -q '^FAIL ' "$HANDOVER_CT_REPORT"
