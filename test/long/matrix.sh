#!/bin/sh
# Builds and tests on other releases of OTP, in Debian chroots.
#   test/long/matrix.sh [SUITE …]      default: trixie (OTP 27) and sid (OTP 29)
# A chroot is made once (about two minutes, 700 MB) in HANDOVER_MATRIX_DIR, by default ~/.cache/handover/matrix, and kept.
# The suites run in mount, pid and network namespaces of their own: nothing of a run stays, however it ends.
# The programs in priv/ are the host's: they are static. Needs root. Exit status 1 if a release failed.
set -eu
cd "$(dirname "$0")/../.."
PATH=$PATH:/usr/sbin:/sbin
dir=${HANDOVER_MATRIX_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/handover/matrix}
mirror=${HANDOVER_MATRIX_MIRROR:-http://deb.debian.org/debian}
packages='rebar3 erlang-base erlang-dev erlang-crypto erlang-ssl erlang-common-test erlang-eunit erlang-dialyzer
    erlang-tools erlang-src nftables iproute2 tcpdump bsdutils procps make'
[ $# -gt 0 ] || set -- trixie sid

if [ "$(id -u)" -ne 0 ]; then
    echo "matrix: chroots need root; run it with sudo" >&2
    exit 1
fi
work=$(mktemp -d)
child=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    # --kill-child: all that runs in the chroot ends with it
    [ -z "$child" ] || kill -KILL "$child" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

install_into() {
    debootstrap --variant=minbase "$2" "$1" "$mirror" || return 1
    # shellcheck disable=SC2086 # a list of words
    DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get -y install --no-install-recommends $packages
}

# chroot_of SUITE: makes it unless it is there, with these packages; one that was broken off is called .new and made again
chroot_of() {
    [ "$(cat "$dir/$1/packages" 2>/dev/null)" != "$packages" ] || return 0
    scripts/deps.sh debootstrap=debootstrap
    echo "matrix: making $dir/$1"
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

# inside ROOT COMMAND …: in ROOT, with this repository's copy at /handover
inside() {
    root=$1
    shift
    # ROOT becomes a mount point (ip netns exec asks that of /); all mounts end with the namespace
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
        # debootstrap makes none, and ip netns exec puts others over it
        [ -e "$root/etc/hosts" ] || printf "127.0.0.1 localhost %s\n::1 localhost\n" "$(uname -n)" >"$root/etc/hosts"
        mount --bind "$copy" "$root/tmp/handover"
        chroot "$root" env -i HOME=/root LANG=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
    ' sh "$root" "$work/copy" "$@" &
    child=$! # a signal ends wait, and would not end unshare
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
    chroot_of "$suite"
    copy_repository
    otp=$(inside "$dir/$suite" sh -c 'cat /usr/lib/erlang/releases/*/OTP_VERSION')
    echo "=== $suite: OTP $otp"
    # shellcheck disable=SC2016 # for the inner shell
    if inside "$dir/$suite" sh -ec 'cd /tmp/handover && rebar3 compile && exec scripts/test.sh ct' >"$work/log" 2>&1; then
        sed -n '/^== summary/,$p' "$work/log" | tail -n +2
    else
        failed=1
        cat "$work/log"
        echo "FAIL $suite: OTP $otp, see above"
    fi
done
exit "$failed"
