#!/usr/bin/env bash
# Measures handover beside its rivals: OTP's inet_tcp, inet_tls and epmd, in the same run, in turns. Under ten minutes.
# Writes bench/results.json, bench/RESULTS.md and the plots in docs/img. As root it also measures over a delay line.
set -eu
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

go build -o "$work/epmdbench" ./go/cmd/epmdbench
go build -o "$work/delayline" ./go/cmd/delayline
erlc -o "$work" bench/handover_bench.erl ct/handover_ct.erl ct/handover_ct_work.erl ct/handover_ct_logs.erl
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=bench \
    -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
cat "$work/cert.pem" "$work/key.pem" >"$work/tls.pem"

export ERL_CRASH_DUMP=/dev/null
ulimit -n "$(ulimit -Hn)" # 10,000 names are 10,000 connections
erl -noinput -pa "$work" _build/default/lib/handover/ebin -run handover_bench main "$work"
cp "$work/results.json" bench/results.json
(cd bench/report && go run . ../results.json ../RESULTS.md ../../docs/img)
