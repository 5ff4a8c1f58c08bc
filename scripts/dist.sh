#!/bin/sh
# Builds the tarballs for other machines: handover-VERSION-linux-ARCHITECTURE-otpRELEASE.tar.gz, and SHA256SUMS. RELEASE is
# the OTP release that compiled the application; it runs on that release and on the two after it.
#   scripts/dist.sh [DIRECTORY [ARCHITECTURE …]]      default: dist amd64 arm64
# A tarball contains what `make install` installs below PREFIX=/usr/local. Its bin/ can be the HANDOVER_PREBUILT of another
# build. The same sources, Go and OTP give the same bytes: the script builds a copy without history, and all files have the
# time of the last commit (or SOURCE_DATE_EPOCH).
set -eu
cd "$(dirname "$0")/.."
to=${1:-dist}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- amd64 arm64
unset HANDOVER_PREBUILT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
ERL_COMPILER_OPTIONS=deterministic
export SOURCE_DATE_EPOCH ERL_COMPILER_OPTIONS
vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)
otp=$(erl -noinput -eval 'io:put_chars(erlang:system_info(otp_release)), halt().')
mkdir -p "$to"
to=$(cd "$to" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

# print_sums DIRECTORY: the SHA-256 sums of its files, sorted by path
print_sums() {
    (cd "$1" && find . -type f | LC_ALL=C sort | sed 's,^\./,,' | xargs -d '\n' sha256sum)
}

mkdir "$work/source"
git ls-files -co --exclude-standard | tar -cf - -T - | tar -xf - -C "$work/source"
cd "$work/source"
scripts/notices.sh >"$work/NOTICES"
for arch in "$@"; do
    name=handover-$vsn-linux-$arch-otp$otp
    rm -f priv/epmd priv/handover
    GOOS=linux GOARCH=$arch scripts/build-go.sh
    QUIET=1 rebar3 compile
    DESTDIR=$work/$arch PREFIX=/usr/local scripts/install.sh install
    mv "$work/$arch/usr/local" "$work/$name"
    doc=$work/$name/share/doc/handover
    install -m 644 "$work/NOTICES" "$doc"
    print_sums "$work/$name" >"$work/SHA256SUMS"
    install -m 644 "$work/SHA256SUMS" "$doc"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf "$work/$name.tar" "$name"
    gzip -n9 <"$work/$name.tar" >"$to/$name.tar.gz"
    echo "$to/$name.tar.gz"
done
(cd "$to" && sha256sum handover-*.tar.gz >SHA256SUMS)
