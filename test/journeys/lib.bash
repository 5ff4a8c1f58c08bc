# shellcheck shell=bash
# Functions that the journeys share. A journey is a script test/journeys/NAME.sh that follows the steps of a user, in a copy of
# examples/NAME outside the repository, with this checkout's HEAD as a git dependency. It sources this file, defines functions
# case_…, and ends with `journey NAME CASE …`.
#   test/journeys/NAME.sh [REPORT]
# Writes a line for each case to REPORT (default: stdout): `ok|skip|FAIL NAME.CASE [Reason]`. Exit status 1 if a case failed.
# The cases run one after another, each in a process of its own and with a deadline. If a case leaves a process running, it fails
# and the process is killed.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
test_script=$repository/test/journeys/$(basename "$0")
example=$repository/examples/$(basename "$0" .sh)
arguments=("$@")
case_limit=300 # seconds

# until_true SECONDS WHAT COMMAND …: runs COMMAND until it succeeds. It waits at least a minute, because the machine may be busy.
until_true() {
    local deadline=$((SECONDS + ($1 > 60 ? $1 : 60))) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$deadline" ] || { echo "timed out waiting for $what" && return 1; }
        sleep 0.2
    done
} 2>/dev/null

has_ended() { ! kill -0 "$1" 2>/dev/null; }

# fails COMMAND …: succeeds if COMMAND fails, but not by a timeout (124)
fails() {
    local status=0
    "$@" || status=$?
    [ "$status" -ne 0 ] && [ "$status" -ne 124 ]
}

skip() {
    echo "$*" >"$work/skipped"
    exit 77
}

free_port() {
    local port
    for _ in $(seq 100); do
        port=$((20000 + RANDOM % 10000))
        [ -n "$(ss -Hltn "sport = :$port")" ] || { echo "$port" && return; }
    done
    return 1
}

epmd() { "$repository/priv/epmd" -port "$ERL_EPMD_PORT" "$@"; }

# all_at_port_0 COUNT: succeeds if COUNT nodes are registered and none of them listens
all_at_port_0() { [ "$(epmd -names | grep -c ' at port 0$')" -eq "$1" ] && [ "$(epmd -names | grep -c '^name ')" -eq "$1" ]; }

# end_epmd ends the EPMD that the nodes started. EPMD refuses until it has unregistered all nodes.
end_epmd() {
    until_true 10 "the end of EPMD" kill_epmd
}
kill_epmd() {
    epmd -kill
    ! epmd -names
}

# An expression that gives the list of a node's links: `{Node, {Ip, Port}}` with the remote address.
# shellcheck disable=SC2034 # the journeys use it
links='[{N, element(2, inet:peername(P))} || {N, P} <- erlang:system_info(dist_ctrl)].'

# console LOG COMMAND LINE …: runs COMMAND on a terminal, types each LINE at a prompt `N>`, and quits with ^G q. LOG gets what
# the terminal shows.
console() {
    local log=$1 command=$2 pid prompt=1
    shift 2
    rm -f "$log" "$log.in" && mkfifo "$log.in"
    TERM=xterm script -qfec "$command" "$log" <"$log.in" >/dev/null 2>&1 &
    pid=$!
    exec 9>"$log.in"
    for line in "$@"; do
        until_true 30 "prompt $prompt" grep -q "$prompt>" "$log" || { cat "$log" && return 1; }
        printf '%s\n' "$line" >&9
        prompt=$((prompt + 1))
    done
    until_true 30 "prompt $prompt" grep -q "$prompt>" "$log" || { cat "$log" && return 1; }
    printf '\007' >&9
    until_true 10 "the prompt after ^G" grep -q -e '-->' "$log" || { cat "$log" && return 1; }
    printf 'q\n' >&9
    until_true 20 "the end of the console" has_ended "$pid" || { cat "$log" && return 1; }
    exec 9>&-
    cat "$log"
}

# left_behind prints the pids of all processes that a case started. They have this run's directory in their environment.
left_behind() { grep -lsF "JOURNEY_FOLDER=$work" /proc/[0-9]*/environ | cut -d / -f 3; }

# shellcheck disable=SC2317 # the trap calls it
finish() {
    for pid in $(left_behind); do kill -KILL "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}

# prepare creates the user's directory and environment. git resolves the URL in the examples to a repository whose branch main
# is this checkout's HEAD.
prepare() {
    # shellcheck source=test/lib.sh
    . "$repository"/test/lib.sh
    report=${arguments[0]:-/dev/stdout}
    work=$(mktemp -d /tmp/journey.XXXXXX)
    trap finish EXIT
    trap 'exit 130' INT TERM HUP
    [ -x "$repository/priv/epmd" ] || "$repository/scripts/build-go.sh"
    mkdir "$work/home" "$work/tmp" "$work/project"
    git init -q --bare -b main "$work/handover.git"
    git -C "$work/handover.git" fetch -q --update-shallow "file://$repository" HEAD
    git -C "$work/handover.git" update-ref refs/heads/main FETCH_HEAD
    (cd "$example" && git ls-files -z -co --exclude-standard . | xargs -0 cp --parents -t "$work/project")
    ERL_EPMD_PORT=$(free_port)
    GOCACHE=$(go env GOCACHE)
    GOMODCACHE=$(go env GOMODCACHE)
    export ERL_EPMD_PORT GOCACHE GOMODCACHE
    export HOME=$work/home TMPDIR=$work/tmp LANG=C.UTF-8 TERM=dumb ERL_CRASH_DUMP=/dev/null
    export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0="url.file://$work/handover.git.insteadOf" \
        GIT_CONFIG_VALUE_0=https://example.org/handover.git
}

# end_left_behind waits for all processes of a case to end. It prints and kills those that stay, and then fails.
end_left_behind() {
    until_true 10 "the end of all processes" none_left_behind && return
    for pid in $(left_behind); do
        echo "left behind, process $pid: $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | cut -c 1-200)"
        kill -KILL "$pid" 2>/dev/null || true
    done
    return 1
} 2>/dev/null
none_left_behind() { [ -z "$(left_behind)" ]; }

journey() {
    local name=$1 status failed=0 started
    shift
    if [ "${arguments[0]:-}" = --case ]; then
        work=$JOURNEY_FOLDER
        cd "$work/project"
        set -x
        "case_${arguments[1]}"
        exit
    fi
    [ $# -gt 0 ]
    prepare
    for case in "$@"; do
        status=0
        started=$SECONDS
        JOURNEY_FOLDER=$work timeout -k 5 "$case_limit" "$test_script" --case "$case" >"$work/log" 2>&1 </dev/null || status=$?
        end_left_behind >>"$work/log" || [ "$status" -ne 0 ] || status=1
        case $status in
        0) verdict "ok $name.$case" ;;
        77) verdict "skip $name.$case: $(cat "$work/skipped")" ;;
        *)
            failed=1
            grep -v 'Source code not found' "$work/log" | tail -n 50
            [ "$status" -ne 124 ] || echo "stopped after $case_limit s"
            verdict "FAIL $name.$case after $((SECONDS - started)) s, status $status, see above"
            ;;
        esac
    done
    exit "$failed"
}
