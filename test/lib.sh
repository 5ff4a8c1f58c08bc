# Sourced by everything that runs tests, and by the demo.
# 1. It removes from the environment the caller's settings that change what make, rebar3, Erlang, a shell and handover's programs
#    do. go/internal/testkit has the same list for the Go tests.
# 2. verdict and try write the report of a part that is a script: a line for each test, `ok|skip|FAIL name [Reason]`, to the file
#    $report. The part makes a folder $work, sets failed=0 and exits with $failed.
# shellcheck shell=sh disable=SC2034,SC2154
for variable in $(env | sed -nE 's/^((MAKE[^=]*|MFLAGS|GNUMAKEFLAGS|PREFIX|DESTDIR|ERL[^=]*|HANDOVER[^=]*|EPMD[^=]*|RELEASE[^=]*|RELX[^=]*|REBAR[^=]*|MIX[^=]*|QUIET|DEBUG|NOTIFY_SOCKET|LISTEN_[^=]*|BASH_ENV|ENV|CDPATH|TMPDIR|LC_[^=]*|LANGUAGE)=).*/\2/p'); do
    unset "$variable"
done
export LANG=C.UTF-8

verdict() {
    echo "$1" >>"$report"
    [ "$report" = /dev/stdout ] || echo "$1"
}

# try NAME COMMAND …: shows the output of one that fails; status 77 is a skip, for the reason that was printed last
try() {
    name=$1
    shift
    status=0
    "$@" >"$work/output" 2>&1 || status=$?
    case $status in
    0) verdict "ok $name" ;;
    77) verdict "skip $name: $(tail -n 1 "$work/output")" ;;
    *)
        failed=1
        cat "$work/output"
        verdict "FAIL $name, see above"
        ;;
    esac
}
