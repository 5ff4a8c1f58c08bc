%% What a node reports about its connections: log events, counters, the telemetry callback, handover:info/1.
-module(handover_events_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1, await_report/2, report_text/1]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [handed_over, direct, acceptance_failed, success_is_below_notice, node_info, info_at_nodeup, control_characters,
     control_characters_from_a_peer, names, repeated_events, many_different_events, telemetry, missing_telemetry_module,
     hanging_telemetry].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.



%% The counters that are not 0.
counters(Peer) -> maps:filter(fun(_, N) -> N > 0 end, maps:get(counters, call(Peer, handover, info, []))).

handed_over(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 {ReportsA, ReportsB} = {handover_ct:record_reports(A), handover_ct:record_reports(B)},
                 {NameA, NameB} = {name(A), handover_ct:connect(A, B)},
                 Connected = await_report(ReportsA, connected),
                 #{node := NameB, via := handover, peer := {{127,0,0,1}, Port}, duration := D} = Connected,
                 ?assert(is_integer(D) andalso D > 0),
                 ?assertMatch({match, _}, re:run(report_text(Connected),
                                                 "^handover: connected to b@127.0.0.1, handed over, "
                                                 "127.0.0.1:\\d+, in \\d+ ms$")),
                 Accepted = await_report(ReportsB, accepted),
                 #{node := NameA, via := handover, peer := {{127,0,0,1}, _}} = Accepted,
                 ?assertMatch({match, _}, re:run(report_text(Accepted),
                                                 "^handover: a@127.0.0.1 connected to this node, handed over")),
                 ?assertEqual(#{connected_handover => 1}, counters(A)),
                 ?assertEqual(#{accepted_handover => 1}, counters(B))
         end).

%% With the stock EPMD, both nodes report a direct link, and the initiator the reason for the fallback.
direct(Config) ->
    with_cluster(stock, [a, b], Config,
         fun(A, B) ->
                 {ReportsA, ReportsB} = {handover_ct:record_reports(A), handover_ct:record_reports(B)},
                 NameB = handover_ct:connect(A, B),
                 ?assertMatch(#{node := NameB, reason := stock_epmd}, await_report(ReportsA, fell_back)),
                 ?assertMatch(#{node := NameB, via := direct}, await_report(ReportsA, connected)),
                 ?assertMatch(#{via := direct}, await_report(ReportsB, accepted)),
                 ?assertEqual(#{connected_direct => 1, fell_back => 1}, counters(A)),
                 ?assertEqual(#{accepted_direct => 1}, counters(B))
         end).

%% The node that was dialled reports why the handshake failed.
acceptance_failed(Config) ->
    with_cluster(handover, [a, {b, #{args => ["-setcookie", "other"]}}], Config,
         fun(A, B) ->
                 Reports = handover_ct:record_reports(B),
                 ?assertMatch({error, {handshake, _}}, call(A, handover, connect, [name(B)])),
                 Report = await_report(Reports, acceptance_failed),
                 #{via := handover, peer := {{127,0,0,1}, _}, reason := Reason} = Report,
                 ?assertMatch({recv_challenge_reply_failed, bad_cookie}, Reason),
                 ?assertMatch({match, _}, re:run(report_text(Report),
                                                 "^handover: a connection to this node, handed over, 127.0.0.1:\\d+, "
                                                 "ended during the handshake \\(.*bad_cookie")),
                 ?assertEqual(#{acceptance_failed => 1}, counters(B)),
                 ?assertEqual(#{setup_failed => 1}, counters(A))
         end).

%% A successful connect logs nothing at notice, OTP's default level, or above.
success_is_below_notice(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Reports = handover_ct:record_reports(A),
                 ok = call(A, logger, set_primary_config, [level, notice]),
                 Node = handover_ct:connect(A, B),
                 handover_ct:until(fun() -> counters(A) =:= #{connected_handover => 1} end),
                 true = call(A, erlang, disconnect_node, [Node]),
                 ?assertEqual([], Reports())
         end).

%% handover:info/1 before, during and after a link, and after a failure.
node_info(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 {NameA, NameB} = {name(A), name(B)},
                 ?assertEqual(#{connected => false, route => {name, "127.0.0.1", Port}}, call(A, handover, info, [NameB])),
                 ?assertEqual(#{connected => false}, call(A, handover, info, [nonsense])),
                 {ok, NameB} = call(A, handover, connect, [NameB]),
                 %% B completes the handshake a moment later.
                 handover_ct:until(fun() -> call(B, erlang, nodes, []) =:= [NameA] end),
                 #{octets := {In, Out}, since := Since} = Info = call(A, handover, info, [NameB]),
                 ?assertMatch(#{connected := true, via := handover, direction := out, peer := {{127,0,0,1}, Port}}, Info),
                 ?assert(In > 0 andalso Out > 0 andalso abs(erlang:system_time(second) - Since) < 60),
                 ?assertMatch(#{connected := true, via := handover, direction := in}, call(B, handover, info, [NameA])),
                 true = call(A, erlang, disconnect_node, [NameB]),
                 ?assertEqual(#{connected => false, route => {name, "127.0.0.1", Port}}, call(A, handover, info, [NameB])),
                 {error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']),
                 ?assertMatch(#{last_failure := {_, no_such_node, <<>>}}, call(A, handover, info, ['x@127.0.0.1']))
         end).

%% At nodeup, handover:info/1 already has how the node is connected.
info_at_nodeup(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 [ok = call(P, handover_ct_work, watch_nodeups, []) || P <- [A, B]],
                 Links = call(A, handover_ct_work, links_at_nodeup, [name(B), 100]),
                 ?assertEqual(200, length(Links)),
                 ?assertEqual([], [L || L <- Links, not lists:member(L, [{handover, in}, {handover, out}])])
         end).

-define(EVIL, "x\e[2J\n=ERROR REPORT==== all is well \r\x{9b}31m\x{202e}\x{2028}\0\x7f").

%% Control characters that come from a peer are escaped in the text of each event: it stays one line and does not move
%% the cursor.
control_characters(_) ->
    Peer = {{127,0,0,1}, 1},
    Evil = unicode:characters_to_binary(?EVIL),
    Atom = list_to_atom("x@" ++ ?EVIL),
    Events = [{connected, #{node => Atom, via => handover, peer => Peer, duration => 1}},
              {accepted, #{node => Atom, via => direct, peer => unknown, duration => 1}},
              {acceptance_failed, #{via => direct, peer => Peer, reason => {bad, Evil}}},
              {acceptance_failed, #{via => direct, peer => Peer, reason => {bad, ?EVIL}}},
              {other_name, #{node => Atom, name => ?EVIL, peer => Peer}},
              {telemetry_failed, #{module => Atom, reason => Evil}},
              {setup_failed, #{node => Atom, reason => handshake, detail => Evil}},
              {setup_failed, #{node => Atom, reason => {odd, Evil}, detail => [?EVIL, [Evil]]}},
              {setup_failed, #{node => Atom, reason => handshake, detail => <<255, 27, 10>>}},
              {fell_back, #{node => Atom, reason => no_handover}},
              {carrier_ended, #{reason => {refused, x, Evil}, restart_ms => 1}},
              {carrier_log, #{text => Evil, fields => [{peer, Evil}, {Atom, 1}, {list, ?EVIL}]}},
              {directory_gone, #{}},
              {repeated, #{text => Evil, count => 2}},
              {stock_epmd, #{port => 1}},
              {epmd_down, #{detail => ["closed: ", Evil]}},
              {epmd_up, #{kind => Atom}},
              {not_registered, #{name => Atom, reason => {epmd_bad_answer, Evil}}},
              {bad_message, #{message => {Evil, ?EVIL}}},
              {bad_fd, #{reason => {bad_connection, Evil}}},
              {unsupported_option, #{option => {Evil, 1}, reason => Atom}}],
    [?assertEqual({Event, Fields, ""}, {Event, Fields, harmful(report_text(Fields#{label => {handover, Event}}))})
     || {Event, Fields} <- Events],
    ?assert(length(report_text(#{label => {handover, epmd_down}, detail => binary:copy(Evil, 1000)})) < 2200).

%% The characters of a text that may not be in it. ÿ is one of the bytes of a detail above.
harmful(Text) ->
    [C || C <- unicode:characters_to_list(Text), not (C >= $\s andalso C < 16#7f orelse C =:= $ÿ)].

%% The same with real peers: the answer of a program that is no EPMD, and the name of a node. Both are in the reason
%% that handover:connect/1 returns, and in the log.
control_characters_from_a_peer(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Reports = handover_ct:record_reports(A),
                 Evil = <<"\e[2Jx\n">>,
                 Name = <<"x@h.", Evil/binary>>,
                 Details = [handover_ct:with_server({127,0,0,3}, ?config(epmd_port, Config), Answer,
                                                    fun() ->
                                                            {error, {_, Detail}} = call(A, handover, connect, ['x@127.0.0.3']),
                                                            Detail
                                                    end)
                            || Answer <- [Evil, handover_ct:handshake_answer(Name)]],
                 Texts = [report_text(R) || R <- handover_ct:await_reports(Reports, setup_failed, 2)],
                 ?assertMatch([_, _], Texts),
                 [?assertEqual("", harmful(Text)) || Text <- Texts ++ Details],
                 ?assertMatch({match, _}, re:run(lists:last(Texts), "calls itself \"x@h[.]\\\\e\\[2Jx\\\\n\""))
         end).

%% A plain name is logged as it is, any other name in quotes and escaped.
names(_) ->
    [?assertEqual({Name, unicode:characters_to_binary(Printed)}, {Name, handover_log:name(Name)})
     || {Name, Printed} <- [{'n1@host-1.example.org', "n1@host-1.example.org"}, {"größe@hôte", "größe@hôte"},
                            {<<"größe@hôte"/utf8>>, "größe@hôte"}, {"имя@хост", "имя@хост"}, {"名@前", "名@前"},
                            {"a b", "\"a b\""}, {"", "\"\""}, {"a\"\\ ", "\"a\\\"\\\\ \""}, {"\x{ad}", "\"\\x{ad}\""}]].

%% Of events that are alike, the first one is logged, and after a minute how many more there were. All of them are
%% counted, and passed to the telemetry callback.
repeated_events(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]},
                 [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}},
                  {b, #{args => ["-setcookie", "other"]}}], Config,
         fun(A, B) ->
                 Reports = handover_ct:record_reports(A),
                 [{error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']) || _ <- lists:seq(1, 30)],
                 {error, {no_such_node, _}} = call(A, handover, connect, ['y@127.0.0.1']),
                 {error, {epmd_unreachable, _}} = call(A, handover, connect, ['x@127.0.0.2']),
                 [{error, {handshake, _}} = call(B, handover, connect, [name(A)]) || _ <- lists:seq(1, 10)],
                 [begin
                      handover_ct:until(fun() -> maps:is_key(os_pid, call(A, handover, info, [])) end),
                      handover_ct:signal(handover_ct:carrier_os_pid(A), "KILL"),
                      handover_ct:until(fun() -> maps:get(restarts, call(A, handover, info, [])) =:= N end)
                  end || N <- [1, 2, 3]],
                 handover_ct:until(fun() -> maps:get(acceptance_failed, counters(A)) =:= 10 end),
                 ?assertMatch(#{setup_failed := 32, carrier_ended := 3}, counters(A)),
                 Passed = fun() -> [E || {[_, E], _, _} <- call(A, handover_ct_telemetry, events, [])] end,
                 handover_ct:until(fun() -> length([E || E <- Passed(), E =:= setup_failed]) =:= 32 end),
                 OfEvent = fun(Event) -> [R || #{event := E} = R <- Reports(), E =:= Event] end,
                 ?assertEqual([{'x@127.0.0.1', no_such_node}, {'y@127.0.0.1', no_such_node},
                               {'x@127.0.0.2', epmd_unreachable}],
                              [{N, R} || #{node := N, reason := R} <- OfEvent(setup_failed)]),
                 [?assertMatch({Event, [_]}, {Event, OfEvent(Event)}) || Event <- [acceptance_failed, carrier_ended]],
                 %% As if the minute were over.
                 [call(A, erlang, send, [handover_guard, {log_minute_over, element(1, Row)}])
                  || Row <- call(A, ets, tab2list, [handover_log_limit])],
                 Repeated = fun(Pattern) ->
                                    [R || R <- OfEvent(repeated), re:run(report_text(R), Pattern) =/= nomatch]
                            end,
                 [handover_ct:until(fun() -> length(Repeated(Pattern)) =:= 1 end)
                  || Pattern <- ["^handover: no connection to x@127.0.0.1: .* \\(29 more like this within a minute\\)$",
                                 "^handover: the carrier ended .* \\(2 more like this within a minute\\)$",
                                 "^handover: a connection to this node, .* \\(9 more like this within a minute\\)$"]],
                 %% The next one is logged again.
                 {error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']),
                 ?assertMatch([_, _, _, #{node := 'x@127.0.0.1'}], handover_ct:await_reports(Reports, setup_failed, 4))
         end).

%% Events that all differ do not flood the log and do not fill the table of the limit.
many_different_events(Config) ->
    with_cluster(handover, [a], Config,
         fun(A) ->
                 Reports = handover_ct:record_reports(A),
                 ok = call(A, handover_ct_work, emit_events, [2000]),
                 ?assert(length(Reports()) < 600),
                 ?assert(call(A, ets, info, [handover_log_limit, size]) < 600),
                 ?assertMatch(#{setup_failed := 2000}, counters(A))
         end).

%% The callback gets events in the form of the telemetry library's execute/3.
telemetry(Config) ->
    with_cluster(handover, [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}}, b], Config,
         fun(A, B) ->
                 _ = handover_ct:record_reports(A),
                 Node = handover_ct:connect(A, B),
                 {error, _} = call(A, handover, connect, ['x@127.0.0.1']),
                 Passed = fun(Event) ->
                                  Events = call(A, handover_ct_telemetry, events, []),
                                  [{M, D} || {[handover, E], M, D} <- Events, E =:= Event]
                          end,
                 handover_ct:until(fun() -> Passed(connected) =/= [] andalso Passed(setup_failed) =/= [] end),
                 ?assertMatch([{#{count := 1, duration := _}, #{node := Node, via := handover, peer := {_, _}}}],
                              Passed(connected)),
                 ?assertMatch([{#{count := 1, duration := _}, #{node := 'x@127.0.0.1', reason := no_such_node}}],
                              Passed(setup_failed))
         end).

%% If the callback fails, the log has one line, all failures are counted, and connections are not affected.
missing_telemetry_module(Config) ->
    with_cluster(handover, [{a, #{args => ["-handover", "telemetry", "no_such_module"]}}, b], Config,
         fun(A, B) ->
                 Reports = handover_ct:record_reports(A),
                 Node = handover_ct:connect(A, B),
                 {error, _} = call(A, handover, connect, ['x@127.0.0.1']),
                 handover_ct:until(fun() -> maps:get(telemetry_failed, counters(A), 0) > 1 end),
                 ?assertMatch([#{module := no_such_module, reason := {error, undef}}],
                              [R || #{event := telemetry_failed} = R <- Reports()]),
                 ?assertEqual(pong, call(A, net_adm, ping, [Node]))
         end).

%% No more than 100 calls of the callback run at once. When those that hang have ended, events are passed on again.
hanging_telemetry(Config) ->
    with_cluster(handover, [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}}], Config,
         fun(A) ->
                 _ = handover_ct:record_reports(A),
                 Mode = fun(M) -> ok = call(A, application, set_env, [kernel, handover_ct_telemetry, M]) end,
                 Mode(hang),
                 Processes = call(A, erlang, system_info, [process_count]),
                 [ok = call(A, handover_event, emit, [info, epmd_up, #{kind => handover}]) || _ <- lists:seq(1, 150)],
                 ?assertEqual(50, maps:get(telemetry_failed, counters(A))),
                 ?assert(call(A, erlang, system_info, [process_count]) < Processes + 110),
                 ok = call(A, handover_ct_telemetry, release, []),
                 Mode(keep),
                 handover_ct:until(fun() ->
                                           ok = call(A, handover_event, emit, [info, epmd_up, #{kind => stock}]),
                                           call(A, handover_ct_telemetry, events, []) =/= []
                                   end)
         end).
