#!/bin/sh
# Builds the Debian package for this machine's release and architecture, from a copy of the repository without its history.
#   scripts/deb.sh [DIRECTORY]      writes the package to DIRECTORY, by default dist
set -eu
cd "$(dirname "$0")/.."
to=${1:-dist}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

mkdir "$work/handover"
git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C "$work/handover"
mv "$work/handover/packaging/debian" "$work/handover/debian"
if ! (cd "$work/handover" && dpkg-buildpackage -us -uc -b) >"$work/log" 2>&1; then
    cat "$work/log" >&2
    exit 1
fi
mkdir -p "$to"
for package in "$work"/*.deb; do
    install -m 644 "$package" "$to"
    echo "$to/$(basename "$package")"
done
