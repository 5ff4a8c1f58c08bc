%% Real nodes on loopback, an EPMD of their own on a port of their own: what a cluster promises, a case per promise.
-module(handover_cluster_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [connects, every_link_is_through_epmd, large_terms, links_and_monitors, hidden, short_names, dynamic_name,
     no_dist_listen, stop_and_start_under_another_name, remote_shell, peer_nodes, dist_options,
     same_options_as_inet_tcp, listen_range, erl_epmd_port, ipv6, both_protocols, duplicate_name, starts_epmd, does_not_start_epmd,
     listen_off, epmd_module_address_please, unknown_config].

init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_, _Config) ->
    ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).
ping(Peer, Node) -> call(Peer, net_adm, ping, [Node]).

await_event(Logs, Event) -> hd(handover_ct:reports(Logs, Event, 1)).

%% basics

connects(Config) ->
    with(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 [?assertEqual(pong, ping(P, name(Q))) || P <- [A, B, C], Q <- [A, B, C], P =/= Q],
                 ?assertEqual(name(B), call(A, rpc, call, [name(B), erlang, node, []])),
                 ?assertEqual(["a", "b", "c"], lists:sort(handover_ct:epmd_names({127,0,0,1}, ?config(epmd_port, Config)))),
                 ?assertMatch(#{carrier := up, epmd := handover, restarts := 0}, call(A, handover, info, []))
         end).

every_link_is_through_epmd(Config) ->
    Epmd = ?config(epmd_port, Config),
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Port = handover_ct:dist_port(A, Node),
                 ?assertMatch({ok, {_, Epmd}}, call(A, inet, peername, [Port])),
                 Other = handover_ct:dist_port(B, name(A)),
                 ?assertMatch({ok, {_, Epmd}}, call(B, inet, sockname, [Other]))
         end).

large_terms(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Size = 64 bsl 20,
                 Hash = call(A, handover_ct_work, send_large, [Node, Size]),
                 ?assertEqual(Hash, call(A, handover_ct_work, hash_of, [Size]))
         end).

links_and_monitors(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertEqual({'DOWN', link_noticed}, call(A, handover_ct_work, link_and_monitor, [Node]))
         end).

hidden(Config) ->
    with(handover, [a, {h, #{args => ["-hidden"]}}], Config,
         fun(A, H) ->
                 Node = handover_ct:connect(A, H),
                 ?assertEqual([], call(A, erlang, nodes, [])),
                 ?assertEqual([Node], call(A, erlang, nodes, [hidden]))
         end).

short_names(Config) ->
    {ok, Host} = inet:gethostname(),
    Options = #{names => shortnames, host => Host},
    with(handover, [{a, Options}, {b, Options}], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertEqual(list_to_atom("b@" ++ Host), Node),
                 Logs = handover_ct:logs(A),
                 ?assertEqual(pang, ping(A, 'b@long.name')),
                 ?assertMatch(#{reason := bad_name}, await_event(Logs, setup_failed))
         end).

dynamic_name(Config) ->
    with(handover, [a], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 Peer = handover_ct:start_node(unnamed, #{epmd_port => Port, undistributed => true,
                                                              args => ["-name", "undefined@127.0.0.1"]}),
                 try
                     ?assertEqual(nonode@nohost, name(Peer)),
                     ?assertEqual(true, call(Peer, net_kernel, connect_node, [name(A)])),
                     Given = name(Peer),
                     ?assertNotEqual(nonode@nohost, Given),
                     ?assertEqual([Given], call(A, erlang, nodes, [hidden]))
                 after
                     handover_ct:stop_node(Peer)
                 end
         end).

no_dist_listen(Config) ->
    with(handover, [a, {quiet, #{args => ["-dist_listen", "false"]}}], Config,
         fun(A, Quiet) ->
                 ?assertEqual(["a"], handover_ct:epmd_names({127,0,0,1}, ?config(epmd_port, Config))),
                 handover_ct:connect(Quiet, A),
                 ?assertEqual([name(Quiet)], call(A, erlang, nodes, [hidden]))
         end).

%% As RabbitMQ does at boot.
stop_and_start_under_another_name(Config) ->
    Port = ?config(epmd_port, Config),
    with(handover, [a], Config,
         fun(A) ->
                 P = handover_ct:start_node(unnamed, #{epmd_port => Port, undistributed => true}),
                 try
                     [begin
                          Node = list_to_atom(lists:concat(["n", N, "@127.0.0.1"])),
                          {ok, _} = call(P, net_kernel, start, [[Node, longnames]]),
                          ?assertEqual(["a", "n" ++ integer_to_list(N)],
                                       lists:sort(handover_ct:epmd_names({127,0,0,1}, Port))),
                          ?assertEqual(pong, ping(P, name(A))),
                          ?assertEqual(pong, ping(A, Node)),
                          ?assertEqual(ok, call(P, net_kernel, stop, []))
                      end || N <- lists:seq(1, 5)],
                     handover_ct:until(fun() -> handover_ct:epmd_names({127,0,0,1}, Port) =:= ["a"] end)
                 after
                     handover_ct:stop_node(P)
                 end
         end).

remote_shell(Config) ->
    with(handover, [a], Config,
         fun(A) ->
                 Output = handover_ct:remsh(name(A), ?config(epmd_port, Config), "erlang:node().\n"),
                 ?assertMatch({match, _}, re:run(Output, "\\(a@127\\.0\\.0\\.1\\)1> .*'a@127\\.0\\.0\\.1'", [dotall]), Output)
         end).

%% A node of ours starts others with peer, over the distribution itself.
peer_nodes(Config) ->
    with(handover, [a], Config,
         fun(A) ->
                 Node = call(A, handover_ct_work, start_peer, [handover_ct:ebin()]),
                 ?assertEqual('p@127.0.0.1', Node),
                 ?assertEqual(pong, ping(A, Node)),
                 ?assertEqual(ok, call(A, handover_ct_work, stop_peer, []))
         end).

dist_options(Config) ->
    Buffers = ["-kernel", "inet_dist_listen_options", "[{high_watermark,65536},{keepalive,true},{priority,3}]",
               "-kernel", "inet_dist_connect_options", "[{high_watermark,131072},{ip,{127,0,0,1}},{keepalive,true}]"],
    with(handover, [{a, #{args => Buffers}}, {b, #{args => Buffers}}], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Opts = [high_watermark, keepalive, nodelay, active, packet, deliver],
                 ?assertEqual({ok, [{high_watermark, 131072}, {keepalive, true}, {nodelay, true}, {active, true},
                                    {packet, 4}, {deliver, port}]},
                              call(A, inet, getopts, [handover_ct:dist_port(A, Node), Opts])),
                 ?assertEqual({ok, [{high_watermark, 65536}, {keepalive, true}, {nodelay, true}, {active, true},
                                    {packet, 4}, {deliver, port}]},
                              call(B, inet, getopts, [handover_ct:dist_port(B, name(A)), Opts])),
                 ?assertEqual(ok, call(A, net_kernel, setopts, [Node, [{nodelay, false}]])),
                 ?assertEqual({ok, [{nodelay, false}]}, call(A, net_kernel, getopts, [Node, [nodelay]])),
                 ?assertEqual(ok, call(A, net_kernel, setopts, [new, [{priority, 2}]]))
         end).

%% Handed-over sockets look as OTP's own: the same options as a link of inet_tcp. All but mode, which OTP 25 and 27 set
%% differently and which says nothing of a port that delivers to the emulator.
same_options_as_inet_tcp(Config) ->
    Opts = [active, buffer, delay_send, deliver, dontroute, exit_on_close, header, high_watermark, keepalive, linger,
            low_watermark, nodelay, packet, packet_size, priority, recbuf, reuseaddr, send_timeout,
            send_timeout_close, show_econnreset, tos],
    Read = fun(A, B) ->
                   Node = handover_ct:connect(A, B),
                   [call(P, inet, getopts, [handover_ct:dist_port(P, N), Opts]) || {P, N} <- [{A, Node}, {B, name(A)}]]
           end,
    Ours = with(handover, [a, b], Config, Read),
    Stock = with(stock, [{a, #{proto => "inet_tcp"}}, {b, #{proto => "inet_tcp"}}], Config, Read),
    ?assertEqual(Stock, Ours).

listen_range(Config) ->
    Port = handover_ct:free_port(),
    Args = ["-kernel", "inet_dist_listen_min", integer_to_list(Port), "inet_dist_listen_max", integer_to_list(Port + 9),
            "inet_dist_use_interface", "{127,0,0,1}"],
    with(handover, [{a, #{args => Args}}], Config,
         fun(A) ->
                 {ok, [{"a", Listen}]} = call(A, erl_epmd, names, ["127.0.0.1"]),
                 ?assert(Listen >= Port andalso Listen =< Port + 9)
         end).

%% -erl_epmd_port: OTP's way without any EPMD.
erl_epmd_port(Config) ->
    Listen = integer_to_list(handover_ct:free_port()),
    Options = #{args => ["-erl_epmd_port", Listen], env => [{"HANDOVER_START_EPMD", "false"}]},
    Quiet = #{args => ["-erl_epmd_port", Listen, "-dist_listen", "false"]},
    with(none, [{a, Options}, {b, Quiet}], Config,
         fun(A, B) -> ?assertEqual(name(A), handover_ct:connect(B, A)) end).

ipv6(Config) ->
    case gen_tcp:listen(0, [inet6, {ip, {0,0,0,0,0,0,0,1}}]) of
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            Options = #{proto => "handover_tcp6", host => "::1"},
            Epmd = ?config(epmd_port, Config),
            with(handover, [{a, Options}, {b, Options}], Config,
                 fun(A, B) ->
                         Node = handover_ct:connect(A, B),
                         ?assertMatch({ok, {{0,0,0,0,0,0,0,1}, Epmd}},
                                      call(A, inet, peername, [handover_ct:dist_port(A, Node)]))
                 end);
        {error, Reason} ->
            {skip, lists:flatten(io_lib:format("no IPv6 on this machine: ~p", [Reason]))}
    end.

%% Two protocols of ours: as with inet_tcp and inet6_tcp, the first one serves, and the node starts.
both_protocols(Config) ->
    with(handover, [{a, #{proto => ["handover_tcp", "handover_tcp6"]}}, b], Config,
         fun(A, B) ->
                 handover_ct:connect(A, B),
                 handover_ct:connect(B, A)
         end).

duplicate_name(Config) ->
    with(handover, [a], Config,
         fun(_) ->
                 Output = handover_ct:failing_node("a", ?config(epmd_port, Config), []),
                 ?assertMatch({match, _}, re:run(Output, "seems to be in use by another Erlang node"), Output)
         end).

starts_epmd(Config) ->
    Port = ?config(epmd_port, Config),
    with(none, [{N, #{starts_epmd => true}} || N <- [a, b]], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertMatch(#{epmd := handover}, call(A, handover, info, [])),
                 %% and starts it again when it has died
                 kill_epmd(Port),
                 handover_ct:until(fun() -> names(Port) =:= ["a", "b"] end),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                 ?assertEqual(Node, handover_ct:connect(A, B))
         end),
    handover_ct:until(fun() -> handover_ct:epmd_names({127,0,0,1}, Port) =:= [] end),
    ?assertEqual("Killed\n", os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -kill"]))).

names(Port) ->
    try lists:sort(handover_ct:epmd_names({127,0,0,1}, Port)) catch error:_ -> no_epmd end.     % it may die while it answers

%% The EPMD at Port, which tells its pid.
kill_epmd(Port) ->
    Status = os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -status --json"])),
    {match, [OsPid]} = re:run(Status, "\"pid\": ?([0-9]+)", [{capture, all_but_first, list}]),
    handover_ct:kill(list_to_integer(OsPid), "KILL").

does_not_start_epmd(Config) ->
    Output = handover_ct:failing_node("a", ?config(epmd_port, Config), [{"HANDOVER_START_EPMD", "false"}]),
    ?assertMatch({match, _}, re:run(Output, "epmd_unreachable"), Output),
    ?assertMatch({match, _}, re:run(Output, "connection refused"), Output).

listen_off(Config) ->
    with(handover, [{a, #{args => ["-handover", "listen", "false"]}}, {b, #{env => [{"HANDOVER_LISTEN", "false"}]}}], Config,
         fun(A, B) ->
                 handover_ct:connect(A, B),
                 ?assertEqual([0, 0], [call(P, handover_ct_work, listening_ports, []) || P <- [A, B]])
         end).

epmd_module_address_please(Config) ->
    Args = ["-epmd_module", "handover_ct_epmd"],
    with(handover, [a, {b, #{args => Args}}], Config,
         fun(A, B) ->
                 %% The module knows nowhere.invalid as 127.0.0.1, and direct.invalid with a port of its own. Both lead to a
                 %% node that calls itself by another name. What is known of a port says nothing of an EPMD there.
                 ?assertEqual(pong, ping(A, name(B))),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                 {ok, [{_, Listen} | _]} = call(A, handover_ct_work, port_of, [a]),
                 ok = call(B, application, set_env, [kernel, handover_ct_port, Listen]),
                 ?assertMatch({error, {handshake, _}}, call(B, handover, connect, ['a@direct.invalid'])),
                 ?assertEqual({ok, name(A)}, call(B, handover, connect, ['a@nowhere.invalid'])),
                 ?assertEqual([{address_please, "a", "nowhere.invalid"}, {address_please, "a", "direct.invalid"}],
                              call(B, handover_ct_epmd, calls, []))
         end).

unknown_config(Config) ->
    Port = ?config(epmd_port, Config),
    Epmd = handover_ct:start_epmd(handover, Port),
    try
        Unknown = handover_ct:failing_node("a", Port, [], ["-handover", "lisen", "true"]),
        ?assertMatch({match, _}, re:run(Unknown, "unknown key lisen"), Unknown),
        Bad = handover_ct:failing_node("a", Port, [{"HANDOVER_LISTEN", "perhaps"}]),
        ?assertMatch({match, _}, re:run(Bad, "listen is .*perhaps.*must be true or false"), Bad)
    after
        handover_ct:stop_epmd(Epmd)
    end.
