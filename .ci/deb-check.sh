#!/bin/sh
# Builds the Debian package, shows it to lintian, and tries it on a copy of this machine.
#   .ci/deb-check.sh [REPORT]      default: stdout. Exit status 1 if a test failed.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP
# shellcheck source=.ci/verdict.sh
. .ci/verdict.sh

.ci/deps.sh dh=debhelper dpkg-buildpackage=dpkg-dev lintian=lintian
try 'deb builds' .ci/deb.sh "$work"
try 'deb lintian' lintian --allow-root --fail-on error,warning "$work"/*.deb
try 'deb installed, used, upgraded, removed' .ci/deb-test.sh "$work"/*.deb
exit "$failed"
