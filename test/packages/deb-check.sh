#!/bin/sh
# Builds the Debian package, checks it with lintian, and tests it in a copy of this machine.
#   [ROOT=/] test/packages/deb-check.sh [REPORT]
# Writes a line for each test to REPORT (default: stdout). Exit status 1 if a test failed. To test in a copy of a chroot instead,
# set ROOT to one with erlang-base.
# shellcheck disable=SC2317 # try calls the function
set -eu
cd "$(dirname "$0")/../.."
# shellcheck source=test/lib.sh
. test/lib.sh
report=${1:-/dev/stdout}
failed=0
root=${ROOT:-/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

scripts/deps.sh dh=debhelper dpkg-buildpackage=dpkg-dev /usr/share/build-essential/list=build-essential lintian=lintian
test_boot() {
    test/packages/scratch.sh "$root" "$work" sh /mnt/deb-boot.sh || status=$?
    [ ! -e "$work/boot.log" ] || cat "$work/boot.log"
    [ "$status" -ne 77 ] || return 77
    [ "$(cat "$work/boot.status")" = 0 ]
}

try 'deb builds' scripts/deb.sh "$work"
try 'deb lintian' lintian --allow-root --fail-on error,warning "$work"/*.deb
mv "$work"/*.deb "$work/handover.deb"
cp test/packages/deb-test.sh test/packages/deb-boot.sh "$work"
try 'deb installed, used, upgraded, removed' test/packages/scratch.sh "$root" "$work" sh /mnt/deb-test.sh
try 'deb under systemd' test_boot
exit "$failed"
