#!/bin/sh
# Writes handover.appup next to each handover.app that rebar3 has just built here, so that a running release can be upgraded
# (`rebar3 relup`) from and to any version 0.x. rebar3 itself does not handle appup files.
#
# The appup only loads the modules, because no process of handover stays in old code except the acceptor. brutal_purge ends
# the acceptor, and net_kernel starts it again. soft_purge for all other modules: if a process of a link should be in old code,
# it must not be killed.
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
