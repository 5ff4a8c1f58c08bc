%% What a node says of its connections: to the logger, in counters, through the callback, for a single node.
-module(handover_events_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [handed_over, direct, acceptance_failed, quiet, node_info, via_at_nodeup, remote_bytes, remote_answers, names, floods,
     many_kinds_of_events, telemetry, bad_telemetry, hanging_telemetry].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

event(Logs, Event) -> hd(handover_ct:reports(Logs, Event, 1)).

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
                                                               "ended during the handshake \\(.*bad_cookie")),
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
                 %% B learns of the link a moment later.
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

%% Whoever hears that a node is up can ask at once how.
via_at_nodeup(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 [ok = call(P, handover_ct_work, ask_at_nodeup, []) || P <- [A, B]],
                 Asked = call(A, handover_ct_work, asked_at_nodeup, [name(B), 100]),
                 ?assertEqual(200, length(Asked)),
                 ?assertEqual([], [Other || {Via, Direction} = Other <- Asked,
                                            Via =/= handover orelse not lists:member(Direction, [in, out])])
         end).

-define(EVIL, "x\e[2J\n=ERROR REPORT==== all is well \r\x{9b}31m\x{202e}\x{2028}\0\x7f").

%% Whatever comes from outside is printed on the one line of its event, and moves no cursor.
remote_bytes(_) ->
    Peer = {{127,0,0,1}, 1},
    Evil = unicode:characters_to_binary(?EVIL),
    Atom = list_to_atom("x@" ++ ?EVIL),
    Reports = [{connected, #{node => Atom, via => handover, peer => Peer, duration => 1}},
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
    [?assertEqual({Event, Fields, []}, {Event, Fields, [C || C <- text(Fields#{label => {handover, Event}}), not is_harmless(C)]})
     || {Event, Fields} <- Reports],
    ?assert(length(text(#{label => {handover, epmd_down}, detail => binary:copy(Evil, 1000)})) < 2200).

is_harmless(C) -> C >= $\s andalso C < 16#7f orelse C =:= $ÿ.

%% Something that is no EPMD, and a node that gives itself a name: what they say is in the reason, and in the log.
remote_answers(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Logs = handover_ct:logs(A),
                 Evil = <<"\e[2Jx\n">>,
                 Name = <<"x@h.", Evil/binary>>,
                 Challenge = <<$N, (1 bsl 24):64, 1:32, 1:32, (byte_size(Name)):16, Name/binary>>,
                 Details = [handover_ct:with_server({127,0,0,3}, ?config(epmd_port, Config), Answer,
                                                    fun() ->
                                                            {error, {_, Detail}} = call(A, handover, connect, ['x@127.0.0.3']),
                                                            Detail
                                                    end)
                            || Answer <- [Evil, <<$i, 0, 6:16, 3:16, "sok", (byte_size(Challenge)):16, Challenge/binary>>]],
                 Texts = [text(R) || R <- handover_ct:reports(Logs, setup_failed, 2)],
                 ?assertMatch([_, _], Texts),
                 [?assertEqual([], [C || C <- unicode:characters_to_list(T), not is_harmless(C)]) || T <- Texts ++ Details],
                 ?assertMatch({match, _}, re:run(lists:last(Texts), "calls itself \"x@h[.]\\\\e\\[2Jx\\\\n\""))
         end).

%% Names that are plain look as they are.
names(_) ->
    [?assertEqual({Name, unicode:characters_to_binary(Printed)}, {Name, handover_log:name(Name)})
     || {Name, Printed} <- [{'n1@host-1.example.org', "n1@host-1.example.org"}, {"größe@hôte", "größe@hôte"},
                            {<<"größe@hôte"/utf8>>, "größe@hôte"}, {"имя@хост", "имя@хост"}, {"名@前", "名@前"},
                            {"a b", "\"a b\""}, {"", "\"\""}, {"a\"\\ ", "\"a\\\"\\\\ \""}, {"\x{ad}", "\"\\x{ad}\""}]].

%% Of events that are alike one is logged, and then how many there were; all are counted and passed on.
floods(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-handover", "telemetry", "handover_ct_telemetry"]}},
                                                 {b, #{args => ["-setcookie", "other"]}}], Config,
         fun(A, B) ->
                 Logs = handover_ct:logs(A),
                 [{error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']) || _ <- lists:seq(1, 30)],
                 {error, {no_such_node, _}} = call(A, handover, connect, ['y@127.0.0.1']),
                 {error, {epmd_unreachable, _}} = call(A, handover, connect, ['x@127.0.0.2']),
                 [{error, {handshake, _}} = call(B, handover, connect, [name(A)]) || _ <- lists:seq(1, 10)],
                 [begin
                      handover_ct:until(fun() -> maps:is_key(os_pid, call(A, handover, info, [])) end),
                      handover_ct:kill(handover_ct:carrier(A), "KILL"),
                      handover_ct:until(fun() -> maps:get(restarts, call(A, handover, info, [])) =:= N end)
                  end || N <- [1, 2, 3]],
                 handover_ct:until(fun() -> maps:get(acceptance_failed, counters(A)) =:= 10 end),
                 ?assertMatch(#{setup_failed := 32, carrier_ended := 3}, counters(A)),
                 handover_ct:until(fun() -> length([E || {[_, E], _, _} <- call(A, handover_ct_telemetry, got, []), E =:= setup_failed]) =:= 32 end),
                 Reports = fun(Event) -> [R || #{event := E} = R <- Logs(), E =:= Event] end,
                 ?assertEqual([{'x@127.0.0.1', no_such_node}, {'y@127.0.0.1', no_such_node}, {'x@127.0.0.2', epmd_unreachable}],
                              [{N, R} || #{node := N, reason := R} <- Reports(setup_failed)]),
                 [?assertMatch({Event, [_]}, {Event, Reports(Event)}) || Event <- [acceptance_failed, carrier_ended]],
                 %% A minute later.
                 [call(A, erlang, send, [handover_guard, {log_minute_over, element(1, Row)}])
                  || Row <- call(A, ets, tab2list, [handover_log_limit])],
                 Repeated = fun(Pattern) -> [T || T <- [text(R) || R <- Reports(repeated)], re:run(T, Pattern) =/= nomatch] end,
                 [handover_ct:until(fun() -> length(Repeated(Pattern)) =:= 1 end)
                  || Pattern <- ["^handover: no connection to x@127.0.0.1: .* \\(29 more like this within a minute\\)$",
                                 "^handover: the carrier ended .* \\(2 more like this within a minute\\)$",
                                 "^handover: a connection to this node, .* \\(9 more like this within a minute\\)$"]],
                 %% And the next one is logged again.
                 {error, {no_such_node, _}} = call(A, handover, connect, ['x@127.0.0.1']),
                 ?assertMatch([_, _, _, #{node := 'x@127.0.0.1'}], handover_ct:reports(Logs, setup_failed, 4))
         end).

%% Events that differ all the time fill neither the log nor the table.
many_kinds_of_events(Config) ->
    with(handover, [a], Config,
         fun(A) ->
                 Logs = handover_ct:logs(A),
                 ok = call(A, handover_ct_work, log_events, [2000]),
                 ?assert(length(Logs()) < 600),
                 ?assert(call(A, ets, info, [handover_log_limit, size]) < 600),
                 ?assertMatch(#{setup_failed := 2000}, counters(A))
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

%% If the callback fails, the log has one line, all failures are counted, and connections are not affected.
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
                 [ok = call(A, handover_event, emit, [info, epmd_up, #{kind => handover}]) || _ <- lists:seq(1, 150)],
                 ?assertEqual(50, maps:get(telemetry_failed, counters(A))),
                 ?assert(call(A, erlang, system_info, [process_count]) < Processes + 110),
                 ok = call(A, handover_ct_telemetry, release, []),
                 Mode(keep),
                 handover_ct:until(fun() ->
                                           ok = call(A, handover_event, emit, [info, epmd_up, #{kind => stock}]),
                                           call(A, handover_ct_telemetry, got, []) =/= []
                                   end)
         end).
