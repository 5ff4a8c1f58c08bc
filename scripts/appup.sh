#!/bin/sh
# Writes handover.appup beside each handover.app that rebar3 has just built here, for releases that are upgraded while they
# run (`rebar3 relup`): from and to any version 0.x. rebar3 itself does nothing for appup files.
#
# All there is to do is to load the modules: no process of handover's stays in its code, but for the acceptor, which
# net_kernel starts again when it ends. soft_purge: should another one be in old code after all, it is a link's, and lives.
set -eu
cd "$(dirname "$0")/.."
vsn=$(sed -n 's/.*{vsn, *"\(.*\)"}.*/\1/p' erl/src/handover.app.src)

load() {
    comma=
    for file in erl/src/*.erl; do
        purge=soft_purge
        [ "$file" != erl/src/handover_acceptor.erl ] || purge=brutal_purge
        printf '%s\n   {load_module, %s, %s, %s, []}' "$comma" "$(basename "$file" .erl)" "$purge" "$purge"
        comma=,
    done
}

for dir in . "${REBAR_BUILD_DIR:-.}"/lib/handover "${REBAR_BUILD_DIR:-.}"/checkouts/handover; do
    [ -e "$dir/ebin/handover.app" ] || continue
    printf '{"%s",\n [{<<"0\\\\..*">>, [%s]}],\n [{<<"0\\\\..*">>, [%s]}]}.\n' "$vsn" "$(load)" "$(load)" >"$dir/ebin/handover.appup.new"
    mv "$dir/ebin/handover.appup.new" "$dir/ebin/handover.appup"
done
