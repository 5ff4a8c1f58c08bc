# Sourced by the parts that are scripts. A report has a line a test, `ok|skip|FAIL name [Reason]`.
# They have a folder of their own in $work, and exit with $failed.
# shellcheck shell=sh disable=SC2034,SC2154
report=${1:-/dev/stdout}
failed=0

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
