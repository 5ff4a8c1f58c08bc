%% What works in a cluster: real nodes on loopback, with an EPMD on a port of its own.
-module(handover_cluster_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1, ping/2, await_report/2]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [connects, every_link_is_through_epmd, large_terms, links_and_monitors, hidden, short_names, dynamic_name,
     no_dist_listen, stop_and_start_under_another_name, remote_shell, peer_nodes, dist_options,
     same_options_as_inet_tcp, listen_range, erl_epmd_port, ipv6, both_protocols, duplicate_name, starts_epmd,
     does_not_start_epmd, listen_off, epmd_module_address_please, unknown_config].

init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_, _Config) ->
    ok.

connects(Config) ->
    with_cluster(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 [?assertEqual(pong, ping(P, name(Q))) || P <- [A, B, C], Q <- [A, B, C], P =/= Q],
                 ?assertEqual(name(B), call(A, rpc, call, [name(B), erlang, node, []])),
                 ?assertEqual(["a", "b", "c"], names(?config(epmd_port, Config))),
                 ?assertMatch(#{carrier := up, epmd := handover, restarts := 0}, call(A, handover, info, []))
         end).

%% Both ends of the link have EPMD's port, not a port of the node.
every_link_is_through_epmd(Config) ->
    Epmd = ?config(epmd_port, Config),
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Port = handover_ct:dist_port(A, Node),
                 ?assertMatch({ok, {_, Epmd}}, call(A, inet, peername, [Port])),
                 Other = handover_ct:dist_port(B, name(A)),
                 ?assertMatch({ok, {_, Epmd}}, call(B, inet, sockname, [Other]))
         end).

large_terms(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Size = 64 bsl 20,
                 Hash = call(A, handover_ct_work, send_large, [Node, Size]),
                 ?assertEqual(Hash, call(A, handover_ct_work, hash_of, [Size]))
         end).

links_and_monitors(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertEqual({'DOWN', link_noticed}, call(A, handover_ct_work, link_and_monitor, [Node]))
         end).

%% A link to a hidden node is a hidden link.
hidden(Config) ->
    with_cluster(handover, [a, {h, #{args => ["-hidden"]}}], Config,
         fun(A, H) ->
                 Node = handover_ct:connect(A, H),
                 ?assertEqual([], call(A, erlang, nodes, [])),
                 ?assertEqual([Node], call(A, erlang, nodes, [hidden]))
         end).

%% Nodes with short names connect, and a long name is refused with a reason.
short_names(Config) ->
    {ok, Host} = inet:gethostname(),
    Options = #{names => shortnames, host => Host},
    with_cluster(handover, [{a, Options}, {b, Options}], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertEqual(list_to_atom("b@" ++ Host), Node),
                 Reports = handover_ct:record_reports(A),
                 ?assertEqual(pang, ping(A, 'b@long.name')),
                 ?assertMatch(#{reason := bad_name}, await_report(Reports, setup_failed))
         end).

%% A node without a name gets one from the first node that it connects to.
dynamic_name(Config) ->
    with_cluster(handover, [a], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 Unnamed = #{undistributed => true, args => ["-name", "undefined@127.0.0.1"]},
                 handover_ct:with_nodes([{unnamed, Unnamed}], Port,
                   fun(Peer) ->
                           ?assertEqual(nonode@nohost, name(Peer)),
                           ?assertEqual(true, call(Peer, net_kernel, connect_node, [name(A)])),
                           Given = name(Peer),
                           ?assertNotEqual(nonode@nohost, Given),
                           ?assertEqual([Given], call(A, erlang, nodes, [hidden]))
                   end)
         end).

%% A node with -dist_listen false does not register, and can connect to others.
no_dist_listen(Config) ->
    with_cluster(handover, [a, {quiet, #{args => ["-dist_listen", "false"]}}], Config,
         fun(A, Quiet) ->
                 ?assertEqual(["a"], handover_ct:registered_names(?config(epmd_port, Config))),
                 handover_ct:connect(Quiet, A),
                 ?assertEqual([name(Quiet)], call(A, erlang, nodes, [hidden]))
         end).

%% A node may start and stop its distribution several times, each time with another name, as RabbitMQ does at boot.
stop_and_start_under_another_name(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [a], Config,
         fun(A) ->
                 handover_ct:with_nodes([{unnamed, #{undistributed => true}}], Port,
                   fun(P) ->
                           [begin
                                Node = list_to_atom(lists:concat(["n", N, "@127.0.0.1"])),
                                ok = call(P, handover_ct_work, start_net_kernel, [Node]),
                                ?assertEqual(["a", "n" ++ integer_to_list(N)], names(Port)),
                                ?assertEqual(pong, ping(P, name(A))),
                                ?assertEqual(pong, ping(A, Node)),
                                ?assertEqual(ok, call(P, net_kernel, stop, []))
                            end || N <- lists:seq(1, 5)],
                           handover_ct:until(fun() -> handover_ct:registered_names(Port) =:= ["a"] end)
                   end)
         end).

remote_shell(Config) ->
    with_cluster(handover, [a], Config,
         fun(A) ->
                 Output = handover_ct:remsh(name(A), ?config(epmd_port, Config), "erlang:node().\n"),
                 Pattern = "\\(a@127\\.0\\.0\\.1\\)1> .*'a@127\\.0\\.0\\.1'",
                 ?assertMatch({match, _}, re:run(Output, Pattern, [dotall]), Output)
         end).

%% A node starts another one with peer, which connects over the distribution.
peer_nodes(Config) ->
    with_cluster(handover, [a], Config,
         fun(A) ->
                 Node = call(A, handover_ct_work, start_peer, [handover_ct:ebin()]),
                 ?assertEqual('p@127.0.0.1', Node),
                 ?assertEqual(pong, ping(A, Node)),
                 ?assertEqual(ok, call(A, handover_ct_work, stop_peer, []))
         end).

%% The inet_dist_* options apply to each end's sockets, and net_kernel:setopts/2 and getopts/2 work.
dist_options(Config) ->
    Buffers = ["-kernel", "inet_dist_listen_options", "[{high_watermark,65536},{keepalive,true},{priority,3}]",
               "-kernel", "inet_dist_connect_options", "[{high_watermark,131072},{ip,{127,0,0,1}},{keepalive,true}]"],
    with_cluster(handover, [{a, #{args => Buffers}}, {b, #{args => Buffers}}], Config,
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

%% A link has the same socket options as a link of inet_tcp. The option mode is left out: OTP 25 and 27 set it
%% differently, and it has no effect on a port that delivers to the emulator.
same_options_as_inet_tcp(Config) ->
    Opts = [active, buffer, delay_send, deliver, dontroute, exit_on_close, header, high_watermark, keepalive, linger,
            low_watermark, nodelay, packet, packet_size, priority, recbuf, reuseaddr, send_timeout,
            send_timeout_close, show_econnreset, tos],
    Read = fun(A, B) ->
                   Node = handover_ct:connect(A, B),
                   [call(P, inet, getopts, [handover_ct:dist_port(P, N), Opts]) || {P, N} <- [{A, Node}, {B, name(A)}]]
           end,
    Ours = with_cluster(handover, [a, b], Config, Read),
    Stock = with_cluster(stock, [{a, #{proto => "inet_tcp"}}, {b, #{proto => "inet_tcp"}}], Config, Read),
    ?assertEqual(Stock, Ours).

listen_range(Config) ->
    Port = handover_ct:free_port(),
    Args = ["-kernel", "inet_dist_listen_min", integer_to_list(Port), "inet_dist_listen_max", integer_to_list(Port + 9),
            "inet_dist_use_interface", "{127,0,0,1}"],
    with_cluster(handover, [{a, #{args => Args}}], Config,
         fun(A) ->
                 {ok, [{"a", Listen}]} = call(A, erl_epmd, names, ["127.0.0.1"]),
                 ?assert(Listen >= Port andalso Listen =< Port + 9)
         end).

%% -erl_epmd_port is OTP's way to connect without any EPMD.
erl_epmd_port(Config) ->
    Listen = integer_to_list(handover_ct:free_port()),
    Options = #{args => ["-erl_epmd_port", Listen], env => [{"HANDOVER_START_EPMD", "false"}]},
    Quiet = #{args => ["-erl_epmd_port", Listen, "-dist_listen", "false"]},
    with_cluster(none, [{a, Options}, {b, Quiet}], Config,
         fun(A, B) -> ?assertEqual(name(A), handover_ct:connect(B, A)) end).

ipv6(Config) ->
    Options = #{proto => "handover_tcp6", host => "::1"},
    Epmd = ?config(epmd_port, Config),
    handover_ct:with_ipv6(
      fun() ->
              with_cluster(handover, [{a, Options}, {b, Options}], Config,
                fun(A, B) ->
                        Node = handover_ct:connect(A, B),
                        ?assertMatch({ok, {{0,0,0,0,0,0,0,1}, Epmd}},
                                     call(A, inet, peername, [handover_ct:dist_port(A, Node)]))
                end)
      end).

%% A node starts with both of handover's protocols, and connects with the first one, as with inet_tcp and inet6_tcp.
both_protocols(Config) ->
    with_cluster(handover, [{a, #{proto => ["handover_tcp", "handover_tcp6"]}}, b], Config,
         fun(A, B) ->
                 handover_ct:connect(A, B),
                 handover_ct:connect(B, A)
         end).

duplicate_name(Config) ->
    with_cluster(handover, [a], Config,
         fun(_) ->
                 Output = handover_ct:failing_node_output("a", ?config(epmd_port, Config), []),
                 ?assertMatch({match, _}, re:run(Output, "seems to be in use by another Erlang node"), Output)
         end).

%% A node starts EPMD, and starts it again when it was killed.
starts_epmd(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(none, [{N, #{starts_epmd => true}} || N <- [a, b]], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertMatch(#{epmd := handover}, call(A, handover, info, [])),
                 kill_epmd(Port),
                 handover_ct:until(fun() -> names(Port) =:= ["a", "b"] end),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                 ?assertEqual(Node, handover_ct:connect(A, B))
         end),
    handover_ct:until(fun() -> handover_ct:registered_names(Port) =:= [] end),
    ?assertEqual("Killed\n", os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -kill"]))).

%% The names, or no_epmd while EPMD is not up.
names(Port) ->
    try lists:sort(handover_ct:registered_names(Port)) catch error:_ -> no_epmd end.

%% Kills the EPMD at Port. Its status has its pid.
kill_epmd(Port) ->
    Status = os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -status --json"])),
    {match, [OsPid]} = re:run(Status, "\"pid\": ?([0-9]+)", [{capture, all_but_first, list}]),
    handover_ct:signal(list_to_integer(OsPid), "KILL").

%% With start_epmd false a node without an EPMD does not start, and its output has the reason.
does_not_start_epmd(Config) ->
    Output = handover_ct:failing_node_output("a", ?config(epmd_port, Config), [{"HANDOVER_START_EPMD", "false"}]),
    ?assertMatch({match, _}, re:run(Output, "epmd_unreachable"), Output),
    ?assertMatch({match, _}, re:run(Output, "connection refused"), Output).

%% With listen false a node listens on no TCP port, and can be connected to.
listen_off(Config) ->
    ByArgument = #{args => ["-handover", "listen", "false"]},
    ByVariable = #{env => [{"HANDOVER_LISTEN", "false"}]},
    with_cluster(handover, [{a, ByArgument}, {b, ByVariable}], Config,
         fun(A, B) ->
                 handover_ct:connect(A, B),
                 ?assertEqual([0, 0], [call(P, handover_ct_work, listening_port_count, []) || P <- [A, B]])
         end).

%% The address of nowhere.invalid, and the address and port of direct.invalid, come from the module. Both lead to the
%% node a, which calls itself by another name. A connect to direct.invalid does not continue with the true name: the
%% port that the module gave is not one of an EPMD.
epmd_module_address_please(Config) ->
    Args = ["-epmd_module", "handover_ct_epmd"],
    with_cluster(handover, [a, {b, #{args => Args}}], Config,
         fun(A, B) ->
                 ?assertEqual(pong, ping(A, name(B))),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                 Listen = call(A, handover_ct_work, registered_port, [a]),
                 ok = call(B, application, set_env, [kernel, handover_ct_port, Listen]),
                 ?assertMatch({error, {handshake, _}}, call(B, handover, connect, ['a@direct.invalid'])),
                 ?assertEqual({ok, name(A)}, call(B, handover, connect, ['a@nowhere.invalid'])),
                 ?assertEqual([{address_please, "a", "nowhere.invalid"}, {address_please, "a", "direct.invalid"}],
                              call(B, handover_ct_epmd, calls, []))
         end).

%% A node with an unknown key or a bad value does not start, and its output says which.
unknown_config(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [], Port,
      fun() ->
              Unknown = handover_ct:failing_node_output("a", Port, [], ["-handover", "lisen", "true"]),
              ?assertMatch({match, _}, re:run(Unknown, "unknown key lisen"), Unknown),
              Bad = handover_ct:failing_node_output("a", Port, [{"HANDOVER_LISTEN", "perhaps"}]),
              ?assertMatch({match, _}, re:run(Bad, "listen is .*perhaps.*must be true or false"), Bad)
      end).
