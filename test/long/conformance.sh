#!/bin/sh
# Runs OTP's own test suites without and with handover, and compares the results case by case.
#   test/long/conformance.sh [SUITE …]
# There are two sides. On the stock side, nodes use inet_tcp and the stock epmd; on the handover side, -proto_dist handover_tcp
# and priv/epmd. Nodes that a suite starts take the flags from the environment. epmd_SUITE tests the epmd of each side.
# If a case has a worse result on the handover side, it is repeated five times on both sides. It fails if the five together are
# worse too.
# test/long/conformance/excused lists the cases that test flags of the stock programs, with the reason. They are skipped.
# The suites are those of the installed release, from Debian's source package erlang (48 MB). It is fetched once, with separate
# package lists, and kept compiled in HANDOVER_CONFORMANCE_DIR, by default ~/.cache/handover/conformance.
# The system is not changed, and each run has namespaces of its own. Needs root. All suites take about two hours.
# The last line is `N passed, N failed`; the cases that are worse on the handover side have failed.
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/test/long/conformance
PATH=$PATH:/usr/sbin:/sbin
mirror=${HANDOVER_CONFORMANCE_MIRROR:-http://deb.debian.org/debian}
deadline=${HANDOVER_CONFORMANCE_DEADLINE:-5400} # seconds, for a suite
repeats=5

kernel='erl_distribution_SUITE erl_distribution_wb_SUITE global_SUITE global_group_SUITE pg_SUITE rpc_SUITE erpc_SUITE
    application_SUITE'
emulator='distribution_SUITE node_container_SUITE'
# The parts of mnesia_SUITE that need several nodes. The others use one node, or measure.
mnesia='mnesia_install_test mnesia_nice_coverage_test mnesia_atomicity_test mnesia_isolation_test mnesia_durability_test
    mnesia_recovery_test mnesia_consistency_test mnesia_majority_test'
# shellcheck disable=SC2086 # lists of words
[ $# -gt 0 ] || set -- epmd_SUITE $kernel $emulator peer_SUITE $mnesia

if [ "$(id -u)" -ne 0 ]; then
    echo "conformance: creating namespaces needs root; run this script with sudo" >&2
    exit 1
fi
work=$(mktemp -d)
children=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    # --kill-child: everything that a suite started ends with it
    for child in $children; do kill -KILL "$child" 2>/dev/null || true; done
    [ ! -e "$work/log" ] || tail -n 40 "$work/log" >&2 # the script ended while it fetched or built the suites
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# private_apt OPTIONS …: apt-get with sources and lists apart from the system's
private_apt() {
    apt-get -q -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

# fetch_suites VERSION: unpacks the source package of that version in $work/apt/otp, and os_mon, with which two suites measure
# memory
fetch_suites() (
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/otp"
    printf '%s %s %s main\n' deb "$mirror" "$codename" deb-src "$mirror" "$codename" >"$work/apt/sources.list"
    cd "$work/apt"
    private_apt update
    private_apt source --download-only "erlang=$1"
    private_apt download "erlang-os-mon=$1"
    for tarball in erlang_*.orig.tar.*; do
        tar -xf "$tarball" -C otp --strip-components=1 --wildcards '*/test/*' '*/common_test/test_server/*' \
            '*/kernel/examples/*' '*/mnesia/examples/*' '*/mnesia/doc/src/*'
    done
    dpkg-deb -x erlang-os-mon_*.deb os_mon
) >"$work/log" 2>&1

# build_suites DIRECTORY: compiles the suites and what they need to DIRECTORY, and puts os_mon next to them
build_suites() (
    cd "$work/apt/otp"
    mkdir -p "$work/made/tests" "$work/made/lib"
    cp -r ../os_mon/usr/lib/erlang/lib/os_mon-* "$work/made/lib/"
    tests=$work/made/tests
    cp lib/common_test/test_server/ts_install_cth.erl erts/epmd/test/epmd_SUITE.erl lib/stdlib/test/peer_SUITE.erl "$tests"
    cp lib/kernel/examples/gen_tcp_dist/src/*.erl lib/kernel/examples/erl_uds_dist/src/*.erl "$tests" # for erl_distribution_SUITE
    for suite in $kernel; do cp -r "lib/kernel/test/$suite"* "$tests"; done
    for suite in $emulator; do cp -r "erts/emulator/test/$suite"* "$tests"; done
    cp -r erts/emulator/test/erts_test_utils.erl lib/kernel/test/kernel_test_lib.?rl lib/kernel/test/*[aA]pp* lib/kernel/test/ch*.erl "$tests"
    cp lib/mnesia/examples/*.?rl "$tests"
    cp lib/mnesia/test/*.?rl "$tests"
    cd "$tests"
    erlc +nowarn_deprecated_function -- *.erl
    for data in *_data; do
        (cd "$data" && for source in *.erl */*.erl; do if [ -f "$source" ]; then erlc -o "${source%/*.erl}" "$source" || echo "not compiled: $source"; fi; done)
    done
    lib=$(erl -noinput -eval 'io:put_chars(code:lib_dir(erl_interface)), halt().')
    gcc -D_REENTRANT -I"$lib/include" -o erpc_SUITE_data/fwd_node erpc_SUITE_data/fwd_node.c -L"$lib/lib" -lei -lpthread
    mkdir -p "$(dirname "$1")"
    mv "$work/made" "$1"
) >>"$work/log" 2>&1

version=$(dpkg-query -W -f '${source:Version}' erlang-base)
# without the epoch, because a colon separates the directories of ERL_LIBS
cache=${HANDOVER_CONFORMANCE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/handover/conformance}/${version#*:}
built=$cache/suites
if [ ! -d "$built" ]; then
    echo "conformance: fetching and compiling the suites of the source package erlang $version"
    fetch_suites "$version"
    build_suites "$built"
    rm -rf "$work/apt" "$work/log"
fi
stock=$(readlink -f "$(command -v epmd)")
[ -x priv/epmd ] || { echo "conformance: priv/epmd does not exist; run make go first" >&2 && exit 1; }
erlc -o "$work" "$here/conformance.erl"

# run_side SIDE FOLDER SUITE [GROUP CASE]: runs the suite on one side and writes FOLDER/report
run_side() {
    side=$1 folder=$2
    shift 2
    mkdir -p "$folder/bin" "$folder/logs"
    cp -r "$built/tests" "$folder/tests"
    cp "$work/conformance.beam" "$here/excused" "$folder/tests"
    libs=$built/lib epmd=$stock flags=
    if [ "$side" = handover ]; then
        epmd=$PWD/priv/epmd
        if [ "$1" != epmd_SUITE ]; then
            libs=$libs:$PWD/_build/default/lib flags='-proto_dist handover_tcp -start_epmd false'
        fi
    fi
    ln -s "$epmd" "$folder/bin/epmd"
    # shellcheck disable=SC2016 # for the inner shell
    exec env HOME="$folder" ERL_LIBS="$libs" ERL_AFLAGS="$flags" DEADLINE="$deadline" \
        unshare --net --mount --pid --mount-proc --fork --kill-child sh -euc '
        ip link set lo up
        cd "$1"
        name="-sname conformance"
        [ "$2" != epmd_SUITE ] || name=
        [ -z "$name" ] || bin/epmd -daemon
        # shellcheck disable=SC2086 # words
        timeout -k 10 "$DEADLINE" erl -noinput $name -pa "$1/tests" -s conformance start -extra "$@" || true
        [ -z "$name" ] || bin/epmd -status --json >status 2>/dev/null || true
    ' sh "$folder" "$@" </dev/null >"$folder/output" 2>&1
}

# run_both FOLDER SUITE [GROUP CASE]: runs the suite on both sides at the same time. FOLDER/SIDE.ends gets a line for each case:
# name, result, reason
run_both() {
    into=$1
    shift
    mkdir -p "$into"
    for side in stock handover; do
        (run_side "$side" "$into/$side" "$@") &
        children="$children $!"
    done
    # the results are in the reports, not in the exit statuses
    for child in $children; do wait "$child" || true; done
    children=
    for side in stock handover; do
        rm -rf "$into/$side/tests"
        # if a case ran twice, its worse result counts
        awk -v name=. '
            BEGIN {rank["ok"] = 2; rank["skip"] = 1; rank["FAIL"] = 0}
            !($1 in rank) {next}
            !($2 in how) || rank[$1] < rank[how[$2]] {how[$2] = $1; why[$2] = $0; sub(/^[^ ]* [^ ]* /, "", why[$2])}
            END {for (name in how) print name, how[name], why[name]}
        ' "$into/$side/report" | sort >"$into/$side.ends"
    done
}

# result_of FOLDER SIDE CASE: prints ok, skip, FAIL, or none if the case did not run
result_of() {
    awk -v name="$3" '$1 == name {print $2; found = 1} END {if (!found) print "none"}' "$1/$2.ends"
}

# reason_of FOLDER SIDE CASE: prints why the case failed or was skipped
reason_of() {
    awk -v name="$3" '$1 == name {sub(/^[^ ]* [^ ]* /, ""); print}' "$1/$2.ends"
}

# points RESULT: prints a number; more is better
points() {
    case $1 in ok) echo 2 ;; skip) echo 1 ;; *) echo 0 ;; esac
}

print_sums() {
    awk '{n[$2]++} END {printf "%d ok, %d failed, %d skipped", n["ok"], n["FAIL"], n["skip"]}' "$1"
}

# check_run FOLDER SIDE SUITE: checks that the suite ran with the epmd and the protocol of its side, and reports if it ended early
check_run() {
    if ! grep -q ' ok ' "$1/$2.ends"; then
        tail -n 40 "$1/$2/output"
        echo "conformance: no case of $3 passed on the $2 side, see above" >&2
        exit 1
    fi
    protocol=inet_tcp
    [ "$2" = stock ] || [ "$3" = epmd_SUITE ] || protocol=handover_tcp
    if ! grep -qxF "run $1/$2/bin/epmd $protocol" "$1/$2/report"; then
        grep '^run ' "$1/$2/report" || true
        echo "conformance: $3 did not run with the epmd and the protocol of the $2 side" >&2
        exit 1
    fi
    grep -qxF "end $3" "$1/$2/report" || echo "   $3 ended early on the $2 side: $(tail -n 1 "$1/$2/output")"
}

row() { printf '   %-62s %-9s %-9s %s\n' "$@"; }

# repeat_case FOLDER CASE: repeats the case on both sides; succeeds if it is not worse on the handover side
repeat_case() {
    suite=${2%%:*} rest=${2#*:}
    repeated=0 stock_points=0 our_points=0 stock_ok=0 our_ok=0 reason=
    while [ "$repeated" -lt "$repeats" ]; do
        repeated=$((repeated + 1))
        run_both "$1/$rest.$repeated" "$suite" "${rest%:*}" "${rest#*:}"
        end=$(result_of "$1/$rest.$repeated" stock "$2")
        stock_points=$((stock_points + $(points "$end")))
        [ "$end" != ok ] || stock_ok=$((stock_ok + 1))
        end=$(result_of "$1/$rest.$repeated" handover "$2")
        our_points=$((our_points + $(points "$end")))
        if [ "$end" = ok ]; then our_ok=$((our_ok + 1)); else reason=$(reason_of "$1/$rest.$repeated" handover "$2"); fi
    done
    verdict='not worse'
    [ "$our_points" -ge "$stock_points" ] || verdict=WORSE
    row "$2" "$stock_ok of $repeats" "$our_ok of $repeats" "$verdict${reason:+: $reason}"
    [ "$verdict" != WORSE ]
}

passed=0 failed=0
for suite; do
    folder=$cache/logs/$suite
    rm -rf "$folder"
    started=$(date +%s)
    run_both "$folder" "$suite"
    check_run "$folder" stock "$suite"
    check_run "$folder" handover "$suite"
    echo "-- $suite: stock $(print_sums "$folder/stock.ends"); handover $(print_sums "$folder/handover.ends");" \
        "$(jq -r '.handovers.ok // empty' "$folder/handover/status" 2>/dev/null || true) handovers, $(($(date +%s) - started)) s"
    cut -d ' ' -f 1 "$folder/stock.ends" "$folder/handover.ends" | sort -u >"$folder/names"
    while read -r name; do
        stock_end=$(result_of "$folder" stock "$name") our_end=$(result_of "$folder" handover "$name")
        if [ "$(points "$our_end")" -ge "$(points "$stock_end")" ]; then
            [ "$our_end" != ok ] || passed=$((passed + 1))
            [ "$our_end" = "$stock_end" ] || row "$name" "$stock_end" "$our_end" better
            [ "$our_end" = "$stock_end" ] && [ "$our_end" != ok ] && row "$name" "$stock_end" "$our_end" "on both: $(reason_of "$folder" handover "$name")"
        else
            row "$name" "$stock_end" "$our_end" "repeated $repeats times: $(reason_of "$folder" handover "$name")"
            if repeat_case "$folder" "$name"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        fi
    done <"$folder/names"
done
[ "$failed" -eq 0 ] || echo "conformance: the logs of each run are in $cache/logs"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
