#!/bin/sh
# Builds and tests on other releases of OTP, in Debian chroots.
#   test/long/matrix.sh [SUITE …]      default: trixie (OTP 27) and sid (OTP 29)
# Needs root. A chroot is created once (about two minutes, 700 MB) in HANDOVER_MATRIX_DIR, by default ~/.cache/handover/matrix,
# and kept. The suites run in separate mount, pid and network namespaces, so a run leaves nothing behind, however it ends.
# The programs in priv/ are those of this machine, because they are static. Exit status 1 if a release failed.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
dir=${HANDOVER_MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/handover/matrix}
mirror=${HANDOVER_MATRIX_MIRROR:-http://deb.debian.org/debian}
packages='rebar3 erlang-base erlang-dev erlang-crypto erlang-ssl erlang-common-test erlang-eunit erlang-dialyzer
    erlang-tools erlang-src nftables iproute2 tcpdump bsdutils procps make'
[ $# -gt 0 ] || set -- trixie sid

if [ "$(id -u)" -ne 0 ]; then
    echo "matrix: creating chroots needs root; run this script with sudo" >&2
    exit 1
fi
work=$(mktemp -d)
child=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    # --kill-child: everything that runs in the chroot ends with it
    [ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# install_into ROOT SUITE: creates a Debian system in ROOT
install_into() {
    debootstrap --variant=minbase "$2" "$1" "$mirror" || return 1
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get -y install --no-install-recommends $packages
}

# prepare_chroot SUITE: creates the chroot unless it exists with these packages. An interrupted one is called .new and is
# created again.
prepare_chroot() {
    [ "$(cat "$dir/$1/packages" 2>/dev/null)" != "$packages" ] || return 0
    scripts/deps.sh debootstrap=debootstrap
    echo "matrix: creating $dir/$1"
    rm -rf "$dir/$1.new"
    mkdir -p "$dir"
    if ! install_into "$dir/$1.new" "$1" >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        return 1
    fi
    echo "$packages" >"$dir/$1.new/packages"
    rm -rf "${dir:?}/$1"
    mv "$dir/$1.new" "$dir/$1"
}

# run_inside ROOT COMMAND …: runs COMMAND in ROOT, with a copy of this repository at /tmp/handover
run_inside() {
    root=$1
    shift
    # ROOT becomes a mount point, because ip netns exec needs that of /. All mounts end with the namespace.
    # shellcheck disable=SC2016 # for the inner shell
    unshare --mount --pid --net --fork --kill-child sh -euc '
        root=$1; copy=$2; shift 2
        ip link set lo up
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount -t sysfs sysfs "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs tmpfs "$root/tmp"
        mount -t tmpfs tmpfs "$root/run"
        mkdir -p "$root/tmp/handover"
        # debootstrap creates no such file, and ip netns exec needs one to mount another over it
        [ -e "$root/etc/hosts" ] || printf "127.0.0.1 localhost %s\n::1 localhost\n" "$(uname -n)" >"$root/etc/hosts"
        mount --bind "$copy" "$root/tmp/handover"
        chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
    ' sh "$root" "$work/copy" "$@" &
    child=$! # a signal interrupts wait, but would not interrupt unshare in the foreground
    wait "$child"
}

copy_repository() {
    rm -rf "$work/copy"
    mkdir -p "$work/copy"
    { git ls-files -co --exclude-standard && echo priv/epmd && echo priv/handover; } |
        tar -cf - -T - | tar -xf - -C "$work/copy"
    CGO_ENABLED=0 go build -C test -o "$work/copy/_build/delayline" ./delayline
}

failed=0
for suite in "$@"; do
    prepare_chroot "$suite"
    copy_repository
    otp=$(run_inside "$dir/$suite" sh -c 'cat /usr/lib/erlang/releases/*/OTP_VERSION')
    echo "=== $suite: OTP $otp"
    # shellcheck disable=SC2016 # for the inner shell
    if run_inside "$dir/$suite" sh -ec 'cd /tmp/handover && rebar3 compile && exec scripts/test.sh ct' >"$work/log" 2>&1; then
        sed -n '/^== summary/,$p' "$work/log" | tail -n +2
    else
        failed=1
        cat "$work/log"
        echo "FAIL $suite: OTP $otp, see above"
    fi
done
exit "$failed"
