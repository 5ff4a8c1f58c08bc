%% Each process of handover is killed, or gets what it does not know: links stay, the name is back in EPMD, connections are handed
%% over again, and nothing spins meanwhile.
-module(handover_recovery_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [each_process_killed, messages_unknown, guard_without_net_sup, process_limit, not_listening, listen_off, stops_and_starts].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

%% The processes of A that must come back, by name.
process(A, What) ->
    call(A, handover_ct_work, process, [What]).

kill(A, carrier) -> handover_ct:kill(handover_ct:carrier(A), "KILL");
kill(A, What) -> true = call(A, erlang, exit, [process(A, What), kill]).

%% EPMD knows that node takes handovers, and one that connects to it is handed over.
recovers(A, B, Config) ->
    handover_ct:until(fun() -> handover_ct:extra(?config(epmd_port, Config), "a") =:= <<"handover/1">> end),
    handover_ct:until(fun() -> call(B, net_kernel, connect_node, [name(A)]) end),
    ?assertMatch(#{via := handover}, call(B, handover, info, [name(A)])),
    disconnect(B, A),
    handover_ct:until(fun() -> call(A, net_kernel, connect_node, [name(B)]) end),
    disconnect(A, B).

disconnect(P, Q) ->
    true = call(P, erlang, disconnect_node, [name(Q)]),
    [handover_ct:until(fun() -> not lists:member(name(Y), call(X, erlang, nodes, [connected])) end) || {X, Y} <- [{P, Q}, {Q, P}]].

each_process_killed(Config) ->
    with(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 Node = handover_ct:connect(A, C),
                 Link = handover_ct:dist_port(A, Node),
                 recovers(A, B, Config),
                 [begin
                      ct:log("~p", [What]),
                      Before = killed(What, A),
                      kill(A, What),
                      handover_ct:until(fun() -> is_replaced(Before, killed(What, A)) end),
                      recovers(A, B, Config),
                      ?assertEqual({What, Link}, {What, handover_ct:dist_port(A, Node)})
                  end || What <- [guard, worker, carrier, acceptor, accept_loop, guard, guard]],
                 ?assertEqual(pong, call(C, net_adm, ping, [name(A)]))
         end).

killed(carrier, A) -> maps:get(os_pid, call(A, handover, info, []), none);
killed(What, A) -> process(A, What).

is_replaced(_, none) -> false;
is_replaced(Before, Now) -> Before =/= Now.

%% Whoever calls, casts or sends nonsense gets an error at most.
messages_unknown(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Before = [process(A, What) || What <- [guard, worker, acceptor, accept_loop]],
                 [begin
                      ?assertEqual({error, unknown_call}, call(A, gen_server, call, [process(A, What), Call])),
                      ok = call(A, gen_server, cast, [process(A, What), Call])
                  end || What <- [guard, worker], Call <- [nonsense, which_children, {which_children, 1, 2}, {{a}, b}]],
                 [call(A, erlang, send, [P, Message]) || P <- Before, Message <- [nonsense, {a, b}, {'EXIT', self(), x}]],
                 recovers(A, B, Config),
                 ?assertEqual(Before, [process(A, What) || What <- [guard, worker, acceptor, accept_loop]])
         end).

%% While nobody can start a guard, net_kernel is not busy with it; a fallback connects.
guard_without_net_sup(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Acceptor = process(A, acceptor),
                 ok = call(A, sys, suspend, [net_sup]),
                 kill(A, guard),
                 handover_ct:until(fun() -> process(A, acceptor_waits) end),
                 ?assertMatch(#{carrier := down, epmd := down}, call(A, handover, info, [])),
                 ?assertEqual(none, process(A, guard)),
                 ?assertEqual(Acceptor, process(A, acceptor)),
                 ok = call(A, sys, resume, [net_sup]),
                 recovers(A, B, Config),
                 ?assertEqual(Acceptor, process(A, acceptor))
         end).

%% The carrier is killed while no process can be made.
process_limit(Config) ->
    Options = #{args => ["+P", "1024", "-handover", "telemetry", "handover_ct_telemetry"]},
    with(handover, [{a, Options}, b], Config,
         fun(A, B) ->
                 Guard = process(A, guard),
                 ok = call(A, handover_ct_work, kill_at_process_limit, [handover_ct:carrier(A), 300]),
                 recovers(A, B, Config),
                 ?assertEqual(Guard, process(A, guard))
         end).

%% Without net_kernel's acceptor the guard comes back with the first connection.
not_listening(Config) ->
    with(handover, [{a, #{args => ["-dist_listen", "false"]}}, b], Config,
         fun(A, B) ->
                 [begin
                      Before = process(A, guard),
                      kill(A, guard),
                      handover_ct:until(fun() -> process(A, guard) =/= Before end),
                      ?assertEqual({ok, name(B)}, call(A, handover, connect, [name(B)])),
                      ?assertMatch(#{via := handover}, call(A, handover, info, [name(B)])),
                      disconnect(A, B)
                  end || _ <- [1, 2]]
         end).

listen_off(Config) ->
    with(handover, [{a, #{env => [{"HANDOVER_LISTEN", "false"}]}}, b], Config,
         fun(A, B) ->
                 [begin
                      Before = process(A, What),
                      kill(A, What),
                      handover_ct:until(fun() -> is_replaced(Before, process(A, What)) end),
                      recovers(A, B, Config)
                  end || What <- [guard, acceptor]]
         end).

%% A guard that was started again does not keep the distribution from stopping.
stops_and_starts(Config) ->
    with(handover, [{p, #{undistributed => true}}], Config,
         fun(P) ->
                 ?assertEqual(ok, handover_ct:call(P, handover_ct_work, stop_and_start, [a, 100], 900000)),
                 ?assertEqual(nonode@nohost, name(P))
         end).
