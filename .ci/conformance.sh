#!/bin/sh
# Runs OTP's own epmd_SUITE against the stock epmd and against priv/epmd, and compares them case by case.
#   .ci/conformance.sh
# The suite is the one of the installed release: Debian's source package erlang, of which it takes one file, unchanged.
# The package (48 MB) is fetched once, with package lists of its own beside the system's, and the suite is kept in
# HANDOVER_CONFORMANCE_DIR, by default ~/.cache/handover/conformance. Nothing of the system is changed: the suite starts the
# `epmd` that is first in its PATH (behind `erl`, which puts its own first), each run has a network namespace of its own. Needs root. About four minutes.
# Last line: `N passed, N failed`, where a case that ends otherwise than with the stock epmd has failed.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
mirror=${HANDOVER_CONFORMANCE_MIRROR:-http://deb.debian.org/debian}
if [ "$(id -u)" -ne 0 ]; then
    echo "conformance: network namespaces need root; run it with sudo" >&2
    exit 1
fi
work=$(mktemp -d)
children=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    # --kill-child: all that the suite started ends with it
    for child in $children; do kill -KILL "$child" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# private OPTIONS …: apt-get with sources and lists that are not the system's
private() {
    apt-get -q -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

# fetch_suite VERSION FILE: epmd_SUITE.erl of the source package of that version
fetch_suite() (
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    printf 'deb-src %s %s main\n' "$mirror" "$codename" >"$work/apt/sources.list"
    echo "conformance: fetching the source package erlang $1 of $codename"
    if ! { private update && cd "$work/apt" && private source --download-only "erlang=$1"; } >"$work/log" 2>&1; then
        cat "$work/log" >&2
        return 1
    fi
    for tarball in "$work"/apt/erlang_*.orig.tar.*; do
        tar -xf "$tarball" -C "$work/apt" --wildcards --strip-components=4 '*/erts/epmd/test/epmd_SUITE.erl'
    done
    mkdir -p "$(dirname "$2")"
    mv "$work/apt/epmd_SUITE.erl" "$2"
)

# The suite names the hook ts_install_cth, of OTP's own build system. This one has its name and writes down how the
# cases end.
write_hook() {
    cat >"$1/ts_install_cth.erl" <<'ERL'
-module(ts_install_cth).
-export([init/2, post_end_per_testcase/5, on_tc_skip/4]).
init(_Id, _Opts) ->
    File = os:getenv("CONFORMANCE_REPORT"),
    {ok, say("program", os:find_executable("epmd"), File)}.
post_end_per_testcase(_Suite, _Case, _Config, {skip, _} = R, File) -> {R, File}; % on_tc_skip comes after
post_end_per_testcase(_Suite, _Case, _Config, {skipped, _} = R, File) -> {R, File};
post_end_per_testcase(_Suite, Case, Config, R, File) ->
    Bad = proplists:get_value(tc_status, Config, ok) =/= ok orelse (is_tuple(R) andalso element(1, R) =:= error),
    {R, say(case Bad of true -> "FAIL"; false -> "ok" end, Case, File)}.
on_tc_skip(_Suite, {Case, _Group}, _Reason, File) -> say("skip", Case, File);
on_tc_skip(_Suite, Case, _Reason, File) -> say("skip", Case, File).
say(How, Case, File) ->
    ok = file:write_file(File, io_lib:format("~s ~s~n", [How, Case]), [append]),
    File.
ERL
}

# run_suite NAME EPMD: the suite with that program as `epmd`; its report is NAME.report
run_suite() {
    mkdir -p "$work/$1/bin" "$work/$1/logs"
    ln -s "$2" "$work/$1/bin/epmd"
    cp "$suite" "$work/$1/"
    write_hook "$work/$1"
    # shellcheck disable=SC2016 # for the inner shell
    exec unshare --net --pid --fork --kill-child sh -euc '
        ip link set lo up
        cd "$1"
        erlc ts_install_cth.erl
        exec env HOME="$1" CONFORMANCE_REPORT="$1/report" \
            erl -noinput -pa "$1" -eval "os:putenv(\"PATH\", \"$1/bin:\" ++ os:getenv(\"PATH\")),
            ct:run_test([{dir, \"$1\"}, {suite, epmd_SUITE}, {logdir, \"$1/logs\"}, {auto_compile, true}]), halt()."
    ' sh "$work/$1" </dev/null >"$work/$1/output" 2>&1
}

version=$(dpkg-query -W -f '${source:Version}' erlang-base)
cache=${HANDOVER_CONFORMANCE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/handover/conformance}
suite=$cache/$version/epmd_SUITE.erl
[ -f "$suite" ] || fetch_suite "$version" "$suite"
stock=$(command -v epmd)
[ -x priv/epmd ] || { echo "conformance: no priv/epmd; make go" >&2 && exit 1; }

(run_suite stock "$(readlink -f "$stock")") &
children="$children $!"
(run_suite ours "$PWD/priv/epmd") &
children="$children $!"
# the verdict is in the reports
for child in $children; do wait "$child" || true; done
children=

sum() { awk '{n[$1]++} END {printf "%d ok, %d failed, %d skipped\n", n["ok"], n["FAIL"], n["skip"]}' "$1"; }
for side in stock ours; do
    if ! grep -q '^ok ' "$work/$side/report" 2>/dev/null; then
        cat "$work/$side/output"
        echo "conformance: nothing passed with the $side epmd, see above" >&2
        exit 1
    fi
    if ! grep -qxF "program $work/$side/bin/epmd" "$work/$side/report"; then
        grep '^program ' "$work/$side/report" || true
        echo "conformance: the suite did not start the $side epmd" >&2
        exit 1
    fi
    grep -v '^program ' "$work/$side/report" | sort -k 2 >"$work/$side.report"
    echo "-- epmd_SUITE ($version), $side epmd: $(sum "$work/$side.report")"
done
grep '^skip ' "$work/ours.report" || true
if ! diff "$work/stock.report" "$work/ours.report" >"$work/difference"; then
    echo 'cases that end otherwise (<: stock, >: ours):'
    cat "$work/difference"
fi
# a line a case and side, so that equal ones come twice
sort "$work/stock.report" "$work/ours.report" | uniq -c | awk '
    $1 == 2 && $2 != "skip" {passed++}
    $1 == 1 {other[$3] = 1}
    END {for (i in other) failed++; printf "%d passed, %d failed\n", passed, failed; exit failed > 0 || passed == 0}'
