%% Real nodes on loopback, an EPMD of their own on a port of their own: what a cluster promises, a case per promise.
-module(handover_cluster_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [connects, every_link_is_through_epmd, large_terms, links_and_monitors, hidden, short_names, dynamic_name,
     no_dist_listen, stop_and_start_under_another_name, remote_shell, peer_nodes, dist_options, same_options_as_inet_tcp, listen_range, erl_epmd_port,
     ipv6, duplicate_name, starts_epmd, does_not_start_epmd,
     carrier_killed, carrier_stopped, epmd_killed, owner_killed, guard_killed,
     remote_epmd_stock, remote_node_without_extra, fallback_off, stock_node_reaches_us, local_epmd_stock,
     listen_off, epmd_module_address_please,
     reasons, remote_port_is_not_epmds, local_port_is_not_epmds, wrong_cookie, simultaneous_connects, node_dies_in_handshake,
     connects_during_shutdown, unknown_config].

init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_, _Config) ->
    ok.

%% Runs Fun with an EPMD and nodes that are gone afterwards, whatever happens.
with(Epmd, Specs, Config, Fun) ->
    Port = ?config(epmd_port, Config),
    Handle = case Epmd of
                 none -> none;
                 {Kind, Args} -> handover_ct:start_epmd(Kind, Port, Args);
                 Kind -> handover_ct:start_epmd(Kind, Port)
             end,
    try with_nodes(Specs, Port, [], Fun)
    after
        Handle =:= none orelse handover_ct:stop_epmd(Handle)
    end.

with_nodes([], _Port, Nodes, Fun) ->
    apply(Fun, lists:reverse(Nodes));
with_nodes([{Name, Options} | Specs], Port, Nodes, Fun) ->
    Peer = handover_ct:start_node(Name, Options#{epmd_port => maps:get(epmd_port, Options, Port)}),
    try with_nodes(Specs, Port, [Peer | Nodes], Fun)
    after
        catch handover_ct:stop_node(Peer)
    end;
with_nodes([Name | Specs], Port, Nodes, Fun) ->
    with_nodes([{Name, #{}} | Specs], Port, Nodes, Fun).

call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).
ping(Peer, Node) -> call(Peer, net_adm, ping, [Node]).

%% The reports of one event.
events(Logs, Event) ->
    [R || #{event := E} = R <- Logs(), E =:= Event].

await_event(Logs, Event) ->
    handover_ct:until(fun() -> events(Logs, Event) =/= [] end),
    hd(events(Logs, Event)).

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

%% Handed-over sockets look as OTP's own: the same options as a link of inet_tcp.
same_options_as_inet_tcp(Config) ->
    Opts = [active, buffer, delay_send, deliver, dontroute, exit_on_close, header, high_watermark, keepalive, linger,
            low_watermark, mode, nodelay, packet, packet_size, priority, recbuf, reuseaddr, send_timeout,
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

duplicate_name(Config) ->
    with(handover, [a], Config,
         fun(_) ->
                 Output = handover_ct:failing_node("a", ?config(epmd_port, Config), []),
                 ?assertMatch({match, _}, re:run(Output, "seems to be in use by another Erlang node"), Output)
         end).

starts_epmd(Config) ->
    Port = ?config(epmd_port, Config),
    with(none, [a, b], Config,
         fun(A, B) ->
                 handover_ct:connect(A, B),
                 ?assertMatch(#{epmd := handover}, call(A, handover, info, []))
         end),
    handover_ct:until(fun() -> handover_ct:epmd_names({127,0,0,1}, Port) =:= [] end),
    ?assertEqual("Killed\n", os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -kill"]))).

does_not_start_epmd(Config) ->
    Output = handover_ct:failing_node("a", ?config(epmd_port, Config), [{"HANDOVER_START_EPMD", "false"}]),
    ?assertMatch({match, _}, re:run(Output, "epmd_unreachable"), Output),
    ?assertMatch({match, _}, re:run(Output, "connection refused"), Output).

%% no node ever dies of us

carrier_killed(Config) ->
    with(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Carrier = handover_ct:carrier(B),
                 Before = handover_ct:own_fds(B),
                 handover_ct:kill(Carrier, "KILL"),
                 handover_ct:until(fun() -> maps:get(restarts, call(B, handover, info, [])) =:= 1 end),
                 handover_ct:until(fun() -> maps:get(epmd, call(B, handover, info, [])) =:= handover end),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(Node, handover_ct:connect(C, B)),
                 ?assertEqual(name(C), handover_ct:connect(B, C)),
                 ?assertEqual(true, call(C, erlang, disconnect_node, [Node])),
                 handover_ct:own_fds_are(B, Before)
         end).

%% A carrier that hangs: connects get a reason in time, the node lives, links live.
carrier_stopped(Config) ->
    with(handover, [a, {b, #{args => ["-kernel", "net_setuptime", "3"]}}], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Carrier = handover_ct:carrier(B),
                 handover_ct:kill(Carrier, "STOP"),
                 try
                     ?assertMatch({error, {timeout, _}}, call(B, handover, connect, ['nobody@127.0.0.1'])),
                     ?assertEqual(pong, call(A, net_adm, ping, [Node]))
                 after
                     handover_ct:kill(Carrier, "CONT")
                 end
         end).

epmd_killed(Config) ->
    Port = ?config(epmd_port, Config),
    First = handover_ct:start_epmd(handover, Port),
    with_nodes([a, b], Port, [],
      fun(A, B) ->
              Node = handover_ct:connect(A, B),
              Link = handover_ct:dist_port(A, Node),
              handover_ct:kill(handover_ct:epmd_os_pid(First), "KILL"),
              handover_ct:until(fun() -> maps:get(epmd, call(A, handover, info, [])) =:= down end),
              ?assertEqual(pong, ping(A, Node)),
              Second = handover_ct:start_epmd(handover, Port),
              try
                  handover_ct:until(fun() -> lists:sort(handover_ct:epmd_names({127,0,0,1}, Port)) =:= ["a", "b"] end),
                  ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                  ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                  ?assertEqual(Node, handover_ct:connect(A, B))
              after
                  handover_ct:stop_epmd(Second)
              end
      end).

%% Our own process that owns the carrier dies: as if the carrier had.
owner_killed(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Carrier = handover_ct:carrier(A),
                 {links, Links} = call(A, erlang, process_info, [call(A, erlang, whereis, [handover_sup]), links]),
                 [call(A, erlang, exit, [P, kill]) || P <- Links, P =/= call(A, erlang, whereis, [net_sup])],
                 handover_ct:until(fun() -> maps:get(epmd, call(A, handover, info, [])) =:= handover end),
                 handover_ct:until(fun() -> not handover_ct:alive(Carrier) end),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(name(A), handover_ct:connect(B, A))
         end).

%% The worst: even the guard is killed. The node and its links live, and it goes on as a stock node.
guard_killed(Config) ->
    with(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Carrier = handover_ct:carrier(A),
                 true = call(A, erlang, exit, [call(A, erlang, whereis, [handover_sup]), kill]),
                 handover_ct:until(fun() -> not handover_ct:alive(Carrier) end),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(name(C), handover_ct:connect(A, C))
         end).

%% falls back

remote_epmd_stock(Config) ->
    Port = ?config(epmd_port, Config),
    with(stock, [{s, #{proto => "inet_tcp"}}, {a, #{env => [{"HANDOVER_START_EPMD", "false"}]}}], Config,
         fun(S, A) ->
                 Logs = handover_ct:logs(A),
                 Node = handover_ct:connect(A, S),
                 {ok, {_, Remote}} = call(A, inet, peername, [handover_ct:dist_port(A, Node)]),
                 ?assertNotEqual(Port, Remote),
                 ?assertMatch(#{reason := stock_epmd}, await_event(Logs, fell_back))
         end).

remote_node_without_extra(Config) ->
    with(handover, [{s, #{proto => "inet_tcp"}}, a], Config,
         fun(S, A) ->
                 Logs = handover_ct:logs(A),
                 handover_ct:connect(A, S),
                 ?assertMatch(#{reason := no_handover}, await_event(Logs, fell_back))
         end).

fallback_off(Config) ->
    with(handover, [{s, #{proto => "inet_tcp"}}, {a, #{args => ["-handover", "fallback", "false"]}}], Config,
         fun(S, A) ->
                 Logs = handover_ct:logs(A),
                 ?assertEqual(pang, ping(A, name(S))),
                 ?assertMatch(#{reason := no_handover}, await_event(Logs, setup_failed)),
                 ?assertMatch({error, {no_handover, _}}, call(A, handover, connect, [name(S)]))
         end).

stock_node_reaches_us(Config) ->
    with(handover, [{s, #{proto => "inet_tcp"}}, a], Config,
         fun(S, A) ->
                 Node = handover_ct:connect(S, A),
                 ?assertEqual([Node], call(S, erlang, nodes, []))
         end).

local_epmd_stock(Config) ->
    with(stock, [a, b], Config,
         fun(A, B) ->
                 ?assertMatch(#{epmd := stock}, call(A, handover, info, [])),
                 handover_ct:connect(A, B),
                 ?assertMatch(#{epmd := stock}, call(B, handover, info, []))
         end),
    Output = handover_ct:node_output("a", ?config(epmd_port, Config), stock),
    %% OTP prints what is logged early in the boot twice, with the time of the one event.
    {match, Warnings} = re:run(Output, "WARNING REPORT==== (.*) ===\\s+handover: the EPMD .* is not handover's",
                               [global, {capture, all_but_first, list}]),
    ?assertMatch([_], lists:usort(Warnings), Output).

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
                 %% node that calls itself by another name, so the handshake has to fail, and nothing before it.
                 ?assertEqual(pong, ping(A, name(B))),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                 {ok, [{_, Listen} | _]} = call(A, handover_ct_work, port_of, [a]),
                 ok = call(B, application, set_env, [kernel, handover_ct_port, Listen]),
                 ?assertMatch({error, {handshake, _}}, call(B, handover, connect, ['a@nowhere.invalid'])),
                 ?assertMatch({error, {handshake, _}}, call(B, handover, connect, ['a@direct.invalid'])),
                 ?assertEqual([{address_please, "a", "direct.invalid"}, {address_please, "a", "nowhere.invalid"}],
                              call(B, handover_ct_epmd, calls, []))
         end).

%% reasons

reasons(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Logs = handover_ct:logs(A),
                 Reason = fun(Node) -> {error, {R, _}} = call(A, handover, connect, [Node]), R end,
                 ?assertEqual(no_such_node, Reason('nobody@127.0.0.1')),
                 ?assertEqual(unknown_host, Reason('a@host.invalid')),
                 ?assertEqual(bad_name, Reason('a@short')),
                 ?assertEqual(epmd_unreachable, Reason('a@127.0.0.2')),
                 ?assertEqual(4, length(events(Logs, setup_failed))),
                 ?assertEqual([], call(A, ets, tab2list, [sys_dist]))       % nothing half open
         end).

%% Something else on a remote EPMD's port: it says nonsense, or nothing, or hangs up.
remote_port_is_not_epmds(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-kernel", "net_setuptime", "2"]}}], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 Reason = fun(Answer) ->
                                  handover_ct:with_server({127,0,0,3}, Port, Answer,
                                    fun() -> {error, {R, _}} = call(A, handover, connect, ['x@127.0.0.3']), R end)
                          end,
                 ?assertEqual(bad_answer, Reason(<<"HTTP/1.1 400 Bad Request\r\n\r\n">>)),
                 ?assertEqual(bad_answer, Reason(<<"i", 77>>)),
                 ?assertEqual(timeout, Reason(<<>>)),
                 ?assertEqual(direct_failed, Reason(close))         % as a stock EPMD; it is asked for the port then
         end).

local_port_is_not_epmds(Config) ->
    Port = ?config(epmd_port, Config),
    Output = fun(Answer) ->
                     handover_ct:with_server({127,0,0,1}, Port, Answer, fun() -> handover_ct:failing_node("a", Port, []) end)
             end,
    [?assertMatch({match, _}, re:run(Text, Pattern), Text)
     || {Answer, Pattern} <- [{<<"HTTP/1.1 400 Bad Request\r\n\r\n">>, "epmd_bad_answer"}, {close, "epmd_closed"}],
        Text <- [Output(Answer)]].

wrong_cookie(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 true = call(A, erlang, set_cookie, [name(B), wrong]),
                 Before = [handover_ct:own_fds(P) || P <- [A, B]],
                 ?assertMatch({error, {handshake, _}}, call(A, handover, connect, [name(B)])),
                 [handover_ct:own_fds_are(P, Fds) || {P, Fds} <- lists:zip([A, B], Before)]
         end).

simultaneous_connects(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 [begin
                      Self = self(),
                      Pids = [spawn_link(fun() -> Self ! {self(), ping(P, name(Q))} end) || {P, Q} <- [{A, B}, {B, A}]],
                      [receive {Pid, Result} -> ?assertEqual(pong, Result) end || Pid <- Pids],
                      ?assertEqual([name(B)], call(A, erlang, nodes, [])),
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      handover_ct:until(fun() -> call(B, erlang, nodes, []) =:= [] end)
                  end || _ <- lists:seq(1, 50)]
         end).

%% Something that registers, takes the connection, answers HANDOVER_RESP and dies.
node_dies_in_handshake(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Before = handover_ct:own_fds(A),
                 ok = call(B, sys, suspend, [net_kernel]),
                 Self = self(),
                 Node = name(B),
                 spawn_link(fun() -> Self ! call(A, handover, connect, [Node]) end),
                 handover_ct:until(fun() -> handover_ct:own_fds(A) =/= Before end),
                 handover_ct:kill(list_to_integer(call(B, os, getpid, [])), "KILL"),
                 receive Answer -> ?assertMatch({error, {_, _}}, Answer) end,
                 handover_ct:own_fds_are(A, Before)
         end).

%% A node that goes down while others connect to it: they get true or false, and nothing is left half open.
connects_during_shutdown(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = name(B),
                 Before = handover_ct:own_fds(A),
                 Self = self(),
                 spawn_link(fun() -> Self ! {last, call(A, handover_ct_work, connect_until_down, [Node])} end),
                 handover_ct:until(fun() -> call(B, erlang, nodes, [hidden]) ++ call(B, erlang, nodes, []) =/= [] end),
                 ok = call(B, init, stop, []),
                 receive {last, Last} -> ?assertEqual(no_such_node, Last) end,
                 handover_ct:until(fun() -> call(A, ets, tab2list, [sys_dist]) =:= [] end),
                 handover_ct:own_fds_are(A, Before)
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
