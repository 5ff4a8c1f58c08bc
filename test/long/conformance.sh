#!/bin/sh
# Runs OTP's own test suites on what OTP has and on handover, and compares them case by case.
#   test/long/conformance.sh [SUITE …]
# epmd_SUITE runs against the stock epmd and against priv/epmd. The others run on nodes with inet_tcp and the stock epmd, and
# on nodes with -proto_dist handover_tcp and priv/epmd: theirs too, which take the flags from the environment.
# A case that ends worse on handover is repeated five times on both, and has failed where it is worse again.
# test/long/conformance/excused lists the cases that are about stock's own flags, with the reason. They are skipped.
# The suites are those of the installed release: Debian's source package erlang (48 MB), fetched once with package lists of
# its own beside the system's, and kept compiled in HANDOVER_CONFORMANCE_DIR, by default ~/.cache/handover/conformance.
# Nothing of the system is changed; each run has namespaces of its own. Needs root. All suites take about two hours.
# Last line: `N passed, N failed`, where a case that ends worse than on the stock side has failed.
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
# What mnesia_SUITE is made of, as far as it is about several nodes. The other parts never leave one node, or measure.
mnesia='mnesia_install_test mnesia_nice_coverage_test mnesia_atomicity_test mnesia_isolation_test mnesia_durability_test
    mnesia_recovery_test mnesia_consistency_test mnesia_majority_test'
# shellcheck disable=SC2086 # lists of words
[ $# -gt 0 ] || set -- epmd_SUITE $kernel $emulator peer_SUITE $mnesia

if [ "$(id -u)" -ne 0 ]; then
    echo "conformance: namespaces need root; run it with sudo" >&2
    exit 1
fi
work=$(mktemp -d)
children=
# shellcheck disable=SC2317 # the trap calls it
finish() {
    # --kill-child: all that a suite started ends with it
    for child in $children; do kill -KILL "$child" 2>/dev/null || true; done
    [ ! -e "$work/log" ] || tail -n 40 "$work/log" >&2 # fetching or building ended the script
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# private OPTIONS …: apt-get with sources and lists that are not the system's
private() {
    apt-get -q -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

# fetch VERSION: the packages of that version, unpacked in $work/apt/otp; os_mon, which two suites ask for memory
fetch() (
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/apt/otp"
    printf '%s %s %s main\n' deb "$mirror" "$codename" deb-src "$mirror" "$codename" >"$work/apt/sources.list"
    cd "$work/apt"
    private update
    private source --download-only "erlang=$1"
    private download "erlang-os-mon=$1"
    for tarball in erlang_*.orig.tar.*; do
        tar -xf "$tarball" -C otp --strip-components=1 --wildcards '*/test/*' '*/common_test/test_server/*' \
            '*/kernel/examples/*' '*/mnesia/examples/*' '*/mnesia/doc/src/*'
    done
    dpkg-deb -x erlang-os-mon_*.deb os_mon
) >"$work/log" 2>&1

# build FOLDER: the suites with what they need, compiled; beside them os_mon
build() (
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
# without the epoch: a colon parts the folders of ERL_LIBS
cache=${HANDOVER_CONFORMANCE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/handover/conformance}/${version#*:}
built=$cache/suites
if [ ! -d "$built" ]; then
    echo "conformance: fetching and compiling the suites of the source package erlang $version"
    fetch "$version"
    build "$built"
    rm -rf "$work/apt" "$work/log"
fi
stock=$(readlink -f "$(command -v epmd)")
[ -x priv/epmd ] || { echo "conformance: no priv/epmd; make go" >&2 && exit 1; }
erlc -o "$work" "$here/conformance.erl"

# run SIDE FOLDER SUITE [GROUP CASE]: leaves FOLDER/report
run() {
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

# both FOLDER SUITE [GROUP CASE]: on the two sides at once; FOLDER/SIDE.ends has a line a case: name, how it ended, why
both() {
    into=$1
    shift
    mkdir -p "$into"
    for side in stock handover; do
        (run "$side" "$into/$side" "$@") &
        children="$children $!"
    done
    # the verdict is in the reports
    for child in $children; do wait "$child" || true; done
    children=
    for side in stock handover; do
        rm -rf "$into/$side/tests"
        # of a case that ran twice the worse end
        awk -v name=. '
            BEGIN {rank["ok"] = 2; rank["skip"] = 1; rank["FAIL"] = 0}
            !($1 in rank) {next}
            !($2 in how) || rank[$1] < rank[how[$2]] {how[$2] = $1; why[$2] = $0; sub(/^[^ ]* [^ ]* /, "", why[$2])}
            END {for (name in how) print name, how[name], why[name]}
        ' "$into/$side/report" | sort >"$into/$side.ends"
    done
}

# how FOLDER SIDE CASE: ok, skip, FAIL, or none if it did not run
how() {
    awk -v name="$3" '$1 == name {print $2; found = 1} END {if (!found) print "none"}' "$1/$2.ends"
}

# why FOLDER SIDE CASE
why() {
    awk -v name="$3" '$1 == name {sub(/^[^ ]* [^ ]* /, ""); print}' "$1/$2.ends"
}

points() {
    case $1 in ok) echo 2 ;; skip) echo 1 ;; *) echo 0 ;; esac
}

sum() {
    awk '{n[$2]++} END {printf "%d ok, %d failed, %d skipped", n["ok"], n["FAIL"], n["skip"]}' "$1"
}

# check_run FOLDER SIDE SUITE: that it ran to its end, with what it is about
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
    grep -qxF "end $3" "$1/$2/report" || echo "   $3 broke off on the $2 side: $(tail -n 1 "$1/$2/output")"
}

row() { printf '   %-62s %-9s %-9s %s\n' "$@"; }

# judge FOLDER CASE: repeats it on both sides; true if it is not worse on handover
judge() {
    suite=${2%%:*} rest=${2#*:}
    repeated=0 stock_points=0 our_points=0 stock_ok=0 our_ok=0 reason=
    while [ "$repeated" -lt "$repeats" ]; do
        repeated=$((repeated + 1))
        both "$1/$rest.$repeated" "$suite" "${rest%:*}" "${rest#*:}"
        end=$(how "$1/$rest.$repeated" stock "$2")
        stock_points=$((stock_points + $(points "$end")))
        [ "$end" != ok ] || stock_ok=$((stock_ok + 1))
        end=$(how "$1/$rest.$repeated" handover "$2")
        our_points=$((our_points + $(points "$end")))
        if [ "$end" = ok ]; then our_ok=$((our_ok + 1)); else reason=$(why "$1/$rest.$repeated" handover "$2"); fi
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
    both "$folder" "$suite"
    check_run "$folder" stock "$suite"
    check_run "$folder" handover "$suite"
    echo "-- $suite: stock $(sum "$folder/stock.ends"); handover $(sum "$folder/handover.ends");" \
        "$(jq -r '.handovers.ok // empty' "$folder/handover/status" 2>/dev/null || true) handovers, $(($(date +%s) - started)) s"
    cut -d ' ' -f 1 "$folder/stock.ends" "$folder/handover.ends" | sort -u >"$folder/names"
    while read -r name; do
        stock_end=$(how "$folder" stock "$name") our_end=$(how "$folder" handover "$name")
        if [ "$(points "$our_end")" -ge "$(points "$stock_end")" ]; then
            [ "$our_end" != ok ] || passed=$((passed + 1))
            [ "$our_end" = "$stock_end" ] || row "$name" "$stock_end" "$our_end" better
            [ "$our_end" = "$stock_end" ] && [ "$our_end" != ok ] && row "$name" "$stock_end" "$our_end" "both: $(why "$folder" handover "$name")"
        else
            row "$name" "$stock_end" "$our_end" "repeated $repeats times: $(why "$folder" handover "$name")"
            if judge "$folder" "$name"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
        fi
    done <"$folder/names"
done
[ "$failed" -eq 0 ] || echo "conformance: the logs of each run are in $cache/logs"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
