#!/bin/sh
# Builds priv/epmd and priv/handover, static and free of paths. Does nothing where both are newer than every source, so a
# machine that has the programs needs no Go. rebar3 and mix call it, by `make go`, before they compile.
set -eu
cd "$(dirname "$0")/.."

current() {
    [ -x priv/epmd ] && [ -x priv/handover ] &&
        [ -z "$(find go go.mod go.sum ! -name '*_test.go' -type f -newer priv/epmd)" ] &&
        [ -z "$(find go go.mod go.sum ! -name '*_test.go' -type f -newer priv/handover)" ]
}

find_go() {
    command -v go && return
    [ -x /usr/local/go/bin/go ] && echo /usr/local/go/bin/go && return
    cat >&2 <<'EOF'
handover: `go` was not found. Its two programs, priv/epmd and priv/handover, are written in Go.
Install Go 1.26 or newer (https://go.dev/dl) and have `go` in the PATH, or copy built programs into priv/.
EOF
    return 1
}

if current; then exit 0; fi
go=$(find_go)
echo "handover: building priv/epmd and priv/handover"
CGO_ENABLED=0 "$go" build -trimpath -ldflags '-s -w' -o priv/ ./go/cmd/epmd ./go/cmd/handover
touch priv/epmd priv/handover
