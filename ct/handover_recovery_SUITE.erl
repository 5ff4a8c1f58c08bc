%% Each process of handover is killed, or gets messages that it does not know: links stay up, the node is registered
%% again, and connections are handed over again.
-module(handover_recovery_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, call/5, name/1, disconnect/2]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [each_process_killed, unknown_messages, guard_without_net_sup, process_limit, dist_listen_false, listen_off,
     stops_and_starts].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.


%% The pid of one of handover's processes on A, or none: guard, worker, acceptor or accept_loop.
process(A, What) ->
    call(A, handover_ct_work, process, [What]).

kill(A, carrier) -> handover_ct:signal(handover_ct:carrier_os_pid(A), "KILL");
kill(A, What) -> true = call(A, erlang, exit, [process(A, What), kill]).

%% Waits until A is registered as a node that takes handovers. Then links between A and B work in both directions, by
%% handover.
assert_recovers(A, B, Config) ->
    handover_ct:until(fun() ->
                              handover_ct:registered_extra(?config(epmd_port, Config), "a") =:= <<"handover/1">>
                      end),
    handover_ct:until(fun() -> call(B, net_kernel, connect_node, [name(A)]) end),
    ?assertMatch(#{via := handover}, call(B, handover, info, [name(A)])),
    disconnect(B, A),
    handover_ct:until(fun() -> call(A, net_kernel, connect_node, [name(B)]) end),
    disconnect(A, B).

each_process_killed(Config) ->
    with_cluster(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 Node = handover_ct:connect(A, C),
                 Link = handover_ct:dist_port(A, Node),
                 assert_recovers(A, B, Config),
                 [begin
                      ct:log("~p", [What]),
                      Before = identity(What, A),
                      kill(A, What),
                      handover_ct:until(fun() -> is_replaced(Before, identity(What, A)) end),
                      assert_recovers(A, B, Config),
                      ?assertEqual({What, Link}, {What, handover_ct:dist_port(A, Node)})
                  end || What <- [guard, worker, carrier, acceptor, accept_loop, guard, guard]],
                 ?assertEqual(pong, call(C, net_adm, ping, [name(A)]))
         end).

%% What changes when a process is replaced.
identity(carrier, A) -> maps:get(os_pid, call(A, handover, info, []), none);
identity(What, A) -> process(A, What).

is_replaced(_, none) -> false;
is_replaced(Before, Now) -> Before =/= Now.

%% Unknown calls get an error. Unknown casts and messages have no effect.
unknown_messages(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Before = [process(A, What) || What <- [guard, worker, acceptor, accept_loop]],
                 [begin
                      ?assertEqual({error, unknown_call}, call(A, gen_server, call, [process(A, What), Call])),
                      ok = call(A, gen_server, cast, [process(A, What), Call])
                  end || What <- [guard, worker], Call <- [nonsense, which_children, {which_children, 1, 2}, {{a}, b}]],
                 [call(A, erlang, send, [P, Message]) || P <- Before, Message <- [nonsense, {a, b}, {'EXIT', self(), x}]],
                 assert_recovers(A, B, Config),
                 ?assertEqual(Before, [process(A, What) || What <- [guard, worker, acceptor, accept_loop]])
         end).

%% While net_sup is suspended, no guard can be started. Only handover_acceptor waits for that. When net_sup continues,
%% the node recovers.
guard_without_net_sup(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Acceptor = process(A, acceptor),
                 ok = call(A, sys, suspend, [net_sup]),
                 kill(A, guard),
                 handover_ct:until(fun() -> call(A, handover_ct_work, is_acceptor_waiting, []) end),
                 ?assertMatch(#{carrier := down, epmd := down}, call(A, handover, info, [])),
                 ?assertEqual(none, process(A, guard)),
                 ?assertEqual(Acceptor, process(A, acceptor)),
                 ok = call(A, sys, resume, [net_sup]),
                 assert_recovers(A, B, Config),
                 ?assertEqual(Acceptor, process(A, acceptor))
         end).

%% The carrier is killed while the node can start no process.
process_limit(Config) ->
    Options = #{args => ["+P", "1024", "-handover", "telemetry", "handover_ct_telemetry"]},
    with_cluster(handover, [{a, Options}, b], Config,
         fun(A, B) ->
                 Guard = process(A, guard),
                 ok = call(A, handover_ct_work, kill_at_process_limit, [handover_ct:carrier_os_pid(A), 300]),
                 assert_recovers(A, B, Config),
                 ?assertEqual(Guard, process(A, guard))
         end).

%% With -dist_listen false there is no handover_acceptor. The next connect restarts the guard.
dist_listen_false(Config) ->
    with_cluster(handover, [{a, #{args => ["-dist_listen", "false"]}}, b], Config,
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

%% With listen false the node has no port of its own, but handover_acceptor still restarts the guard.
listen_off(Config) ->
    with_cluster(handover, [{a, #{env => [{"HANDOVER_LISTEN", "false"}]}}, b], Config,
         fun(A, B) ->
                 [begin
                      Before = process(A, What),
                      kill(A, What),
                      handover_ct:until(fun() -> is_replaced(Before, process(A, What)) end),
                      assert_recovers(A, B, Config)
                  end || What <- [guard, acceptor]]
         end).

%% A restarted guard does not prevent the distribution from stopping.
stops_and_starts(Config) ->
    with_cluster(handover, [{p, #{undistributed => true}}], Config,
         fun(P) ->
                 ?assertEqual(ok, call(P, handover_ct_work, stop_and_start, [a, 100], 900000)),
                 ?assertEqual(nonode@nohost, name(P))
         end).
