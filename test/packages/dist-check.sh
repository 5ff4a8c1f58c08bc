#!/bin/sh
# Builds the tarballs, checks their contents, builds one a second time and compares the bytes, and runs the programs for arm64.
#   test/packages/dist-check.sh [REPORT]
# Writes a line for each test to REPORT (default: stdout). Exit status 1 if a test failed.
# shellcheck disable=SC2317 # try calls the functions
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/lib.sh
. test/lib.sh
report=${1:-/dev/stdout}
failed=0
work=$(mktemp -d)
epmd=
finish() {
    [ -z "$epmd" ] || kill "$epmd" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# The sums are right, the programs are static, and no path of this machine is in them.
check_contents() {
    (cd "$work/1" && sha256sum --quiet -c SHA256SUMS) || return 1
    mkdir "$work/tree"
    for tarball in "$work"/1/*.tar.gz; do
        tar -C "$work/tree" -xzf "$tarball" || return 1
    done
    for tree in "$work"/tree/*; do
        (cd "$tree" && sha256sum --quiet -c share/doc/handover/SHA256SUMS) || return 1
        if grep -rlF -e "$PWD/" -e "${TMPDIR:-/tmp}/tmp." -e "$HOME/" "$tree/bin" "$tree/lib"; then
            echo 'the files above contain a path of this machine'
            return 1
        fi
        if readelf -l "$tree"/bin/* | grep INTERP; then
            echo "$tree: a program is not static"
            return 1
        fi
    done
}

# A build in another directory and without a build cache gives the same bytes.
check_same_bytes() {
    GOCACHE=$work/cache scripts/dist.sh "$work/2" amd64 || return 1
    cmp "$work"/1/*-amd64-*.tar.gz "$work"/2/*-amd64-*.tar.gz
}

# The programs print the version that scripts/build-go.sh requires of HANDOVER_PREBUILT.
check_version() {
    vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)
    bin=$(echo "$work"/tree/*-"$(go env GOARCH)"-*/bin)
    "$bin/handover" version | grep -xF "handover $vsn"
}

# A node registers with an epmd for arm64.
test_arm64() {
    command -v qemu-aarch64-static >/dev/null || {
        echo 'qemu-aarch64-static is not installed (Debian: apt install qemu-user-static)'
        return 77
    }
    bin=$(echo "$work"/tree/*-arm64-*/bin)
    port=$(erl -noinput -eval '{ok, S} = gen_tcp:listen(0, []), {ok, P} = inet:port(S), io:write(P), halt().')
    qemu-aarch64-static "$bin/epmd" -port "$port" -address 127.0.0.1 >"$work/epmd" 2>&1 &
    epmd=$!
    deadline=$(($(date +%s) + 60))
    until qemu-aarch64-static "$bin/epmd" -port "$port" -names; do
        [ "$(date +%s)" -lt "$deadline" ] || { cat "$work/epmd" && return 1; }
        sleep 0.2
    done
    ERL_EPMD_PORT=$port erl -noinput -sname arm -start_epmd false -eval 'halt().' || return 1
    ERL_EPMD_PORT=$port qemu-aarch64-static "$bin/handover" status --json | jq -e '.requests.register.ok == 1'
}

scripts/deps.sh qemu-aarch64-static=qemu-user-static readelf=binutils || true # test_arm64 is skipped without qemu
try 'dist builds' scripts/dist.sh "$work/1"
try 'dist sums, static, no paths' check_contents
try 'dist version' check_version
try 'dist the same bytes again' check_same_bytes
try 'dist arm64 runs' test_arm64
exit "$failed"
