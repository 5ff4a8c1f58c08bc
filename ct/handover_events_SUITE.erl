%% What a node says of its connections: to the logger, in counters, through the callback, for a single node.
-module(handover_events_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [handed_over, direct, acceptance_failed, quiet, node_info, telemetry, bad_telemetry, hanging_telemetry].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

event(Logs, Event) ->
    handover_ct:until(fun() -> [E || #{event := E} <- Logs(), E =:= Event] =/= [] end),
    [Report | _] = [R || #{event := E} = R <- Logs(), E =:= Event],
    Report.

text(Report) ->
    {Format, Args} = handover_log:format(Report),
    lists:flatten(io_lib:format(Format, Args)).

counters(Peer) -> maps:filter(fun(_, N) -> N > 0 end, maps:get(counters, call(Peer, handover, info, []))).

handed_over(Config) ->
    Port = ?config(epmd_port, Config),
    with(handover, [a, b], Config,
         fun(A, B) ->
                 {LogsA, LogsB} = {handover_ct:logs(A), handover_ct:logs(B)},
                 {NameA, NameB} = {name(A), handover_ct:connect(A, B)},
                 #{node := NameB, via := handover, peer := {{127,0,0,1}, Port}, duration := D} = Connected = event(LogsA, connected),
                 ?assert(is_integer(D) andalso D > 0),
                 ?assertMatch({match, _}, re:run(text(Connected), "^handover: connected to b@127.0.0.1, handed over, "
                                                                  "127.0.0.1:\\d+, in \\d+ ms$")),
                 #{node := NameA, via := handover, peer := {{127,0,0,1}, _}} = Accepted = event(LogsB, accepted),
                 ?assertMatch({match, _}, re:run(text(Accepted), "^handover: a@127.0.0.1 connected to this node, handed over")),
                 ?assertEqual(#{connected_handover => 1}, counters(A)),
                 ?assertEqual(#{accepted_handover => 1}, counters(B))
         end).

%% The stock EPMD: both ways of it are told, with the reason.
direct(Config) ->
    with(stock, [a, b], Config,
         fun(A, B) ->
                 {LogsA, LogsB} = {handover_ct:logs(A), handover_ct:logs(B)},
                 NameB = handover_ct:connect(A, B),
                 ?assertMatch(#{node := NameB, reason := stock_epmd}, event(LogsA, fell_back)),
                 ?assertMatch(#{node := NameB, via := direct}, event(LogsA, connected)),
                 ?assertMatch(#{via := direct}, event(LogsB, accepted)),
                 ?assertEqual(#{connected_direct => 1, fell_back => 1}, counters(A)),
                 ?assertEqual(#{accepted_direct => 1}, counters(B))
         end).

acceptance_failed(Config) ->
    with(handover, [a, {b, #{args => ["-setcookie", "other"]}}], Config,
         fun(A, B) ->
                 Logs = handover_ct:logs(B),
                 ?assertMatch({error, {handshake, _}}, call(A, handover, connect, [name(B)])),
                 #{via := handover, peer := {{127,0,0,1}, _}, reason := Reason} = Report = event(Logs, acceptance_failed),
                 ?assertMatch({recv_challenge_reply_failed, bad_cookie}, Reason),
                 ?assertMatch({match, _}, re:run(text(Report), "^handover: a connection to this node, handed over, 127.0.0.1:\\d+, "
                                                               "ended before the handshake was done \\(.*bad_cookie")),
                 ?assertEqual(#{acceptance_failed => 1}, counters(B)),
                 ?assertEqual(#{setup_failed => 1}, counters(A))
         end).

%% What goes well is below the level that OTP prints by default, which is notice.
quiet(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Logs = handover_ct:logs(A),
                 ok = call(A, logger, set_primary_config, [level, notice]),
                 Node = handover_ct:connect(A, B),
                 handover_ct:until(fun() -> counters(A) =:= #{connected_handover => 1} end),
                 true = call(A, erlang, disconnect_node, [Node]),
                 ?assertEqual([], Logs())
         end).

node_info(Config) ->
    Port = ?config(epmd_port, Config),
    with(handover, [a, b], Config,
         fun(A, B) ->
                 {NameA, NameB} = {name(A), name(B)},
                 ?assertEqual(#{connected => false, route => {name, "127.0.0.1", Port}}, call(A, handover, info, [NameB])),
                 ?assertEqual(#{connected => false}, call(A, handover, info, [nonsense])),
                 {ok, NameB} = call(A, handover, connect, [NameB]),
                 handover_ct:until(fun() -> maps:is_key(since, call(A, handover, info, [NameB])) end),
                 handover_ct:until(fun() -> maps:is_key(since, call(B, handover, info, [NameA])) end),
                 #{octets := {In, Out}, since := Since} = Info = call(A, handover, info, [NameB]),
                 ?assertMatch(#{connected := true, via := handover, direction := out, peer := {{127,0,0,1}, Port}}, Info),
                 ?assert(In > 0 andalso Out > 0 andalso abs(erlang:system_time(second) - Since) < 60),
                 ?assertMatch(#{connected := true, via := handover, direction := in}, call(B, handover, info, [NameA])),
                 true = call(A, erlang, disconnect_node, [NameB]),
                 ?assertEqual(#{connected => false, route => {name, "127.0.0.1", Port}}, call(A, handover, info, [NameB])),
                 {error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']),
                 ?assertMatch(#{last_failure := {0, no_such_node, _}}, call(A, handover, info, ['x@127.0.0.1']))
         end).

%% The form that the telemetry library's execute/3 has.
telemetry(Config) ->
    with(handover, [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}}, b], Config,
         fun(A, B) ->
                 _ = handover_ct:logs(A),
                 Node = handover_ct:connect(A, B),
                 {error, _} = call(A, handover, connect, ['x@127.0.0.1']),
                 Got = fun(Event) -> [{M, D} || {E, M, D} <- call(A, handover_ct_telemetry, got, []), E =:= [handover, Event]] end,
                 handover_ct:until(fun() -> Got(connected) =/= [] andalso Got(setup_failed) =/= [] end),
                 ?assertMatch([{#{count := 1, duration := _}, #{node := Node, via := handover, peer := {_, _}}}], Got(connected)),
                 ?assertMatch([{#{count := 1, duration := _}, #{node := 'x@127.0.0.1', reason := no_such_node}}], Got(setup_failed))
         end).

%% A callback that is no good: one line in the log, the rest is counted, connections are as ever.
bad_telemetry(Config) ->
    with(handover, [{a, #{args => ["-handover", "telemetry", "no_such_module"]}}, b], Config,
         fun(A, B) ->
                 Logs = handover_ct:logs(A),
                 Node = handover_ct:connect(A, B),
                 {error, _} = call(A, handover, connect, ['x@127.0.0.1']),
                 handover_ct:until(fun() -> maps:get(telemetry_failed, counters(A), 0) > 1 end),
                 ?assertMatch([#{module := no_such_module, reason := {error, undef}}],
                              [R || #{event := telemetry_failed} = R <- Logs()]),
                 ?assertEqual(pong, call(A, net_adm, ping, [Node]))
         end).

%% More than 100 that hang are not started; when they are let go, events go through again.
hanging_telemetry(Config) ->
    with(handover, [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}}], Config,
         fun(A) ->
                 _ = handover_ct:logs(A),
                 Mode = fun(M) -> ok = call(A, application, set_env, [kernel, handover_ct_telemetry, M]) end,
                 Mode(hang),
                 Processes = call(A, erlang, system_info, [process_count]),
                 [ok = call(A, handover_log, event, [info, epmd_up, #{kind => handover}]) || _ <- lists:seq(1, 150)],
                 ?assertEqual(50, maps:get(telemetry_failed, counters(A))),
                 ?assert(call(A, erlang, system_info, [process_count]) < Processes + 110),
                 ok = call(A, handover_ct_telemetry, release, []),
                 Mode(keep),
                 handover_ct:until(fun() ->
                                           ok = call(A, handover_log, event, [info, epmd_up, #{kind => stock}]),
                                           call(A, handover_ct_telemetry, got, []) =/= []
                                   end)
         end).
