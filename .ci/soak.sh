#!/bin/sh
# Loads the daemon for longer than the tests may take, and prints what it held.
#   .ci/soak.sh
# SOAKTIME (default 3m): how long each part runs. Part 1: 10,000 nodes, lookups by 64 clients, nodes that come and go, silent
# and slow connections. Part 2: generated streams, compared with the stock epmd. Exit status 1 if anything failed.
set -eu
cd "$(dirname "$0")/.."
SOAKTIME=${SOAKTIME:-3m}
export SOAKTIME
exec nice -n 5 go test -tags soak -p 1 -count 1 -timeout 0 -v -run '^TestSoak' ./go/cmd/epmd ./go/internal/epmd
