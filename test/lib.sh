# Every script that runs tests sources this file, and so does the demo.
# 1. It removes variables from the environment that would change the behaviour of make, rebar3, Erlang, a shell or handover's
#    programs. go/internal/testkit has the same list for the Go tests.
# 2. Its functions verdict and try append a line for each test, `ok|skip|FAIL name [Reason]`, to the file $report. The caller
#    must create a directory $work, set failed=0 before, and exit with status $failed.
# shellcheck shell=sh disable=SC2034,SC2154
for variable in $(env | sed -nE 's/^((MAKE[^=]*|MFLAGS|GNUMAKEFLAGS|PREFIX|DESTDIR|ERL[^=]*|HANDOVER[^=]*|EPMD[^=]*|RELEASE[^=]*|RELX[^=]*|REBAR[^=]*|MIX[^=]*|QUIET|DEBUG|NOTIFY_SOCKET|LISTEN_[^=]*|BASH_ENV|ENV|CDPATH|TMPDIR|LC_[^=]*|LANGUAGE)=).*/\2/p'); do
    unset "$variable"
done
export LANG=C.UTF-8

# verdict LINE: appends LINE to the report, and prints it
verdict() {
    echo "$1" >>"$report"
    [ "$report" = /dev/stdout ] || echo "$1"
}

# try NAME COMMAND …: runs COMMAND as a test, and prints its output if it fails. Status 77 means skipped; the last line of the
# output is the reason.
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
