#!/usr/bin/env bash
# shellcheck disable=SC2154,SC1091,SC2164 # lib.bash sets variables, and -e
#
# The journey of an Elixir user, from the dependency to a release. test/journeys/lib.bash explains journeys.
. "$(dirname "$0")/lib.bash"
MIX_REBAR3=$(type -P rebar3)
export MIX_REBAR3 RELEASE_DISTRIBUTION=name RELEASE_COOKIE=journey
ports='IO.inspect(for {n, p} <- :erlang.system_info(:dist_ctrl), do: {n, elem(:inet.peername(p), 1)})'

needs_elixir() { command -v mix >/dev/null || skip "mix is not installed: apt-get install elixir"; }

case_compile() {
    needs_elixir
    mix deps.get
    mix compile
    [ -x _build/dev/lib/handover/priv/epmd ] && [ -x _build/dev/lib/handover/priv/handover ]
}

# Without MIX_REBAR3, mix wants its own copy of rebar3, which it can install from a file instead of the network.
case_local_rebar() {
    needs_elixir
    unset MIX_REBAR3
    rm -rf _build deps
    mix local.rebar --force rebar3 "$(type -P rebar3)"
    mix deps.get
    mix compile
    [ -x _build/dev/lib/handover/priv/epmd ]
}

case_iex() {
    needs_elixir
    export ERL_LIBS=$PWD/_build/dev/lib
    export ERL_FLAGS='-proto_dist handover_tcp -start_epmd false -handover listen false'
    mkfifo one.in
    elixir --name one@127.0.0.1 --cookie journey -S mix run --no-halt >one.log 2>&1 &
    until_true 30 'node one' one_is_registered
    console two.log 'iex --name two@127.0.0.1 --cookie journey -S mix' 'Greeter.greet(:"one@127.0.0.1", :me)' "$ports"
    grep -F "\"one@127.0.0.1\": {{127, 0, 0, 1}, $ERL_EPMD_PORT}" two.log
    kill -TERM %1
    wait || true
    end_epmd
}
one_is_registered() { epmd -names | grep '^name one at port 0$'; }

# greeter HOST COMMAND …: calls bin/greeter of the release in the directory HOST, which stands for a host
greeter() {
    local host=$1
    shift
    RELEASE_NODE=$host@127.0.0.1 timeout 60 "$host/bin/greeter" "$@"
}
runs_handover() { greeter "$1" rpc 'IO.puts(:handover.info().epmd)' | grep -x handover; }

case_release() {
    needs_elixir
    MIX_ENV=prod mix release --quiet
    rm -rf a b
    cp -r _build/prod/rel/greeter a
    cp -r _build/prod/rel/greeter b
    test -x "$(echo a/lib/handover-*/priv/epmd)"
    greeter a daemon
    greeter b start >b.log 2>&1 &
    until_true 40 'node a' runs_handover a
    until_true 40 'node b' runs_handover b
    [ "$(greeter a rpc 'IO.puts(Greeter.greet(:"b@127.0.0.1", :me))')" = 1 ]
    greeter a rpc "$ports" | grep -F "\"b@127.0.0.1\": {{127, 0, 0, 1}, $ERL_EPMD_PORT}"
    all_at_port_0 2
    RELEASE_NODE=b@127.0.0.1 console remote.log 'b/bin/greeter remote' 'Greeter.greet(node(), :you)' 'Node.list()'
    tr -d '\r' <remote.log | sed 's/\x1b\[[0-9;]*m//g' | grep -x 2
    kill -0 "$(greeter a pid)"
    greeter a stop
    greeter b stop
    end_epmd
}

journey elixir compile local_rebar iex release
