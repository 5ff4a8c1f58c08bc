#!/bin/sh
# Builds the tarballs, once more for the same bytes, looks into them, and runs the programs of another processor.
#   test/packages/dist-check.sh [REPORT]      default: stdout. Exit status 1 if a test failed.
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

# the sums are right, the programs static, no folder of this machine is in them
sound() {
    (cd "$work/1" && sha256sum --quiet -c SHA256SUMS) || return 1
    mkdir "$work/tree"
    for tarball in "$work"/1/*.tar.gz; do
        tar -C "$work/tree" -xzf "$tarball" || return 1
    done
    for tree in "$work"/tree/*; do
        (cd "$tree" && sha256sum --quiet -c share/doc/handover/SHA256SUMS) || return 1
        if grep -rlF -e "$PWD/" -e "${TMPDIR:-/tmp}/tmp." -e "$HOME/" "$tree/bin" "$tree/lib"; then
            echo 'a path of this machine is in the files above'
            return 1
        fi
        if readelf -l "$tree"/bin/* | grep INTERP; then
            echo "$tree: not static"
            return 1
        fi
    done
}

# from another folder and with nothing compiled before
same_bytes() {
    GOCACHE=$work/cache scripts/dist.sh "$work/2" amd64 || return 1
    cmp "$work"/1/*-amd64-*.tar.gz "$work"/2/*-amd64-*.tar.gz
}

# what another build takes as HANDOVER_PREBUILT
names_its_version() {
    vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)
    bin=$(echo "$work"/tree/*-"$(go env GOARCH)"-*/bin)
    "$bin/handover" version | grep -xF "handover $vsn"
}

# a node registers with an epmd of another processor
arm64() {
    command -v qemu-aarch64-static >/dev/null || {
        echo 'no qemu-aarch64-static (Debian: apt install qemu-user-static)'
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

scripts/deps.sh qemu-aarch64-static=qemu-user-static readelf=binutils || true # arm64 says what is missing
try 'dist builds' scripts/dist.sh "$work/1"
try 'dist sums, static, no paths' sound
try 'dist version' names_its_version
try 'dist the same bytes again' same_bytes
try 'dist arm64 runs' arm64
exit "$failed"
