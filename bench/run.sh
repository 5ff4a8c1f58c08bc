#!/bin/sh
# Measures handover next to its rivals, OTP's inet_tcp, inet_tls and epmd, alternately in one run. Takes about 20 minutes.
#   bench/run.sh [PART …]      PART: path, connect, ends, mesh, epmd, handovers or rest; default: all
# With all parts, it writes bench/results.json, bench/RESULTS.md and the plots in docs/img; otherwise it only prints the results.
# As root it also measures over a delay line. At the end, also after an interrupt, it ends everything that it started.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
HANDOVER_BENCH_HOSTS=hbench-$$
export HANDOVER_BENCH_HOSTS ERL_CRASH_DUMP=/dev/null
beam=

# shellcheck disable=SC2317 # the trap calls it
finish() {
    [ -z "$beam" ] || kill -KILL "$beam" 2>/dev/null || true
    mark=HANDOVER_BENCH_HOSTS=$HANDOVER_BENCH_HOSTS
    hosts=$HANDOVER_BENCH_HOSTS
    unset HANDOVER_BENCH_HOSTS # otherwise grep would find itself
    grep -lsF "$mark" /proc/[0-9]*/environ | cut -d / -f 3 | while read -r pid; do
        kill -KILL "$pid" 2>/dev/null || true
    done
    [ "$(id -u)" -ne 0 ] || ct/hosts.sh down "$hosts" || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

go build -C bench -o "$work/epmdbench" ./epmdbench
go build -C test -o "$work/delayline" ./delayline
erlc -o "$work" bench/handover_bench.erl ct/handover_ct.erl ct/handover_ct_work.erl ct/handover_ct_logs.erl
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
cat "$work/cert.pem" "$work/key.pem" >"$work/tls.pem"

# in the background, so that the shell handles a signal at once
erl -noinput -pa "$work" _build/default/lib/handover/ebin -run handover_bench main "$work" "$@" &
beam=$!
wait "$beam"
beam=
[ $# -eq 0 ] || exit 0
cp "$work/results.json" bench/results.json
(cd bench && go run ./report results.json RESULTS.md ../docs/img)
