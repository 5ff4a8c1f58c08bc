#!/bin/sh
# Builds priv/epmd and priv/handover: static, and without paths of this machine in them. Does nothing if both are newer than
# every source, so a machine that has the programs needs no Go. rebar3 and mix call this script before they compile.
#   HANDOVER_PREBUILT=/dir    copy the programs from /dir instead of building them
set -eu
cd "$(dirname "$0")/.."

refuse() {
    echo "handover: $*" >&2
    exit 1
}

current() {
    [ -x priv/epmd ] && [ -x priv/handover ] &&
        [ -z "$(find go go.mod go.sum ! -name '*_test.go' -type f -newer priv/epmd)" ] &&
        [ -z "$(find go go.mod go.sum ! -name '*_test.go' -type f -newer priv/handover)" ]
}

find_go() {
    command -v go && return
    [ -x /usr/local/go/bin/go ] && echo /usr/local/go/bin/go && return
    refuse 'go was not found. The programs priv/epmd and priv/handover are written in Go.
Install Go 1.26 or newer (https://go.dev/dl) and add it to the PATH. Or build them on another machine, where they are
in the directory priv/ of handover, copy both to a directory here, and set HANDOVER_PREBUILT=/dir to it.'
}

# from_prebuilt DIR: copies the programs. They must be handover's, run on this machine, and have the application's version.
from_prebuilt() {
    dir=$1
    case $dir in
    /*) [ -d "$dir" ] || refuse "HANDOVER_PREBUILT=$dir is not a directory" ;;
    *) refuse "HANDOVER_PREBUILT=$dir must be an absolute path" ;;
    esac
    for program in epmd handover; do
        [ -f "$dir/$program" ] || refuse "HANDOVER_PREBUILT=$dir has no program $program"
        [ -x "$dir/$program" ] || refuse "$dir/$program is not executable"
    done
    wanted="handover $(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)"
    found=$("$dir/handover" version 2>&1) || refuse "$dir/handover does not run here: $found"
    [ "$found" = "$wanted" ] || refuse "$dir/handover has the wrong version: \`handover version\` prints \"$found\", not \"$wanted\""
    # only handover's epmd has -upgrade in its usage text, which an unknown option prints
    case $("$dir/epmd" -help 2>&1) in
    *-upgrade*) ;;
    *) refuse "$dir/epmd is not handover's epmd, or does not run here" ;;
    esac
    for program in epmd handover; do
        cmp -s "$dir/$program" "priv/$program" && continue
        echo "handover: copying priv/$program from $dir"
        install -m 755 "$dir/$program" "priv/$program"
    done
    touch priv/epmd priv/handover
}

if [ -n "${HANDOVER_PREBUILT:-}" ]; then
    from_prebuilt "$HANDOVER_PREBUILT"
    exit 0
fi
if current; then exit 0; fi
go=$(find_go)
echo "handover: building priv/epmd and priv/handover"
CGO_ENABLED=0 "$go" build -trimpath -buildvcs=false -ldflags '-s -w' -o priv/ ./go/cmd/epmd ./go/cmd/handover
touch priv/epmd priv/handover
