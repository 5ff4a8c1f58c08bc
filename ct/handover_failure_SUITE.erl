%% Real nodes on loopback, an EPMD of their own on a port of their own: what happens when something dies, is stock or is not
%% what it should be.
-module(handover_failure_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [carrier_killed, carrier_signalled, carrier_stopped, beam_stopped, epmd_killed, owner_killed, code_reloaded,
     process_limit, descriptor_limit, remote_epmd_stock,
     remote_node_without_extra, fallback_off, port_0_is_not_dialled, stock_node_reaches_us, local_epmd_stock, reasons,
     remote_port_is_not_epmds, local_port_is_not_epmds, wrong_cookie, simultaneous_connects, node_dies_in_handshake,
     connects_during_shutdown].

init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_, _Config) ->
    ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).
ping(Peer, Node) -> call(Peer, net_adm, ping, [Node]).

await_event(Logs, Event) -> hd(handover_ct:reports(Logs, Event, 1)).

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

%% A service manager and a terminal send these to all processes of a node at once. The node shuts down in its own time, and needs its
%% carrier until then.
carrier_signalled(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Carrier = handover_ct:carrier(A),
                 [handover_ct:kill(Carrier, Signal) || Signal <- ["TERM", "INT", "HUP"]],
                 handover_ct:connect(B, A),
                 ?assertMatch(#{restarts := 0, os_pid := Carrier}, call(A, handover, info, []))
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

%% A BEAM that is stopped, as by the migration of a virtual machine, loses no connection: its carrier takes them.
beam_stopped(Config) ->
    Port = ?config(epmd_port, Config),
    with(handover, [a, b], Config,
         fun(A, B) ->
                 OsPid = list_to_integer(call(B, os, getpid, [])),
                 Node = name(B),
                 handover_ct:kill(OsPid, "STOP"),
                 try
                     Sockets = [initiators(250, Port) || _ <- [1, 2]],
                     [ok = gen_tcp:close(S) || S <- lists:append(Sockets)]
                 after
                     handover_ct:kill(OsPid, "CONT")
                 end,
                 ?assertEqual(pong, ping(A, Node))
         end).

%% So many connections at once that are handed over, no more than EPMD lets wait for one node.
initiators(Count, Port) ->
    Sockets = [begin
                   {ok, Socket} = gen_tcp:connect({127,0,0,1}, Port, [binary, {active, false}]),
                   ok = gen_tcp:send(Socket, <<2:16, "hb">>),
                   Socket
               end || _ <- lists:seq(1, Count)],
    [?assertEqual({ok, <<"i", 0, 6:16>>}, gen_tcp:recv(S, 4, 60000)) || S <- Sockets],
    Sockets.

epmd_killed(Config) ->
    Port = ?config(epmd_port, Config),
    First = handover_ct:start_epmd(handover, Port),
    handover_ct:with_nodes([a, b], Port,
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
                 {links, Links} = call(A, erlang, process_info, [call(A, erlang, whereis, [handover_guard]), links]),
                 [call(A, erlang, exit, [P, kill]) || P <- Links, P =/= call(A, erlang, whereis, [net_sup])],
                 handover_ct:until(fun() -> maps:get(epmd, call(A, handover, info, [])) =:= handover end),
                 handover_ct:until(fun() -> not handover_ct:alive(Carrier) end),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(name(A), handover_ct:connect(B, A))
         end).

%% A hot upgrade, twice: the links' processes are in none of the code that goes, and their fds are closed at the end.
code_reloaded(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Before = [handover_ct:own_fds(P) || P <- [A, B]],
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Modules = call(A, handover_ct_work, modules, []),
                 ?assert(lists:member(handover_keeper, Modules)),
                 [?assertEqual({module, M}, call(P, handover_ct_work, reload, [M]))
                  || _ <- [1, 2], P <- [A, B], M <- Modules],
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                 [handover_ct:own_fds_are(P, Fds) || {P, Fds} <- lists:zip([A, B], Before)],
                 ?assertMatch(#{carrier := up, restarts := 0}, call(A, handover, info, [])),
                 ?assertEqual(Node, handover_ct:connect(A, B))
         end).

%% A node at its limit of processes loses the connections that come then, and nothing else.
process_limit(Config) ->
    Port = ?config(epmd_port, Config),
    with(handover, [{a, #{args => ["+P", "1024"]}}, b], Config,
         fun(A, B) ->
                 Carrier = handover_ct:carrier(A),
                 ?assertEqual({{ok, <<"i", 0, 6:16>>}, {error, closed}},
                              call(A, handover_ct_work, handover_at_process_limit, [Port, "a"])),
                 ?assertMatch(#{carrier := up, restarts := 0, os_pid := Carrier}, call(A, handover, info, [])),
                 ?assertEqual(name(A), handover_ct:connect(B, A))
         end).

%% A node that others make run out of descriptors can still say so, and later things too: OTP's default handler stays.
descriptor_limit(Config) ->
    Port = ?config(epmd_port, Config),
    Limited = {"/bin/sh", ["-c", "ulimit -n 48 && exec erl \"$@\"", "erl"]},
    with(handover, [{a, #{exec => Limited}}, b], Config,
         fun(A, B) ->
                 {module, _} = call(A, code, ensure_loaded, [handover_ct_work]),
                 handover_ct:until(fun() -> call(A, handover_ct_work, is_preloaded, []) end),
                 {ok, #{module := logger_std_h}} = call(A, logger, get_handler_config, [default]),
                 Flood = [begin
                              {ok, Socket} = gen_tcp:connect({127,0,0,1}, Port, [binary, {active, false}]),
                              ok = gen_tcp:send(Socket, <<2:16, "ha">>),
                              Socket
                          end || _ <- lists:seq(1, 60)],
                 handover_ct:until(fun() -> maps:get(bad_fd, maps:get(counters, call(A, handover, info, []))) > 0 end),
                 %% Reports of every kind, with nothing left to load from.
                 ok = call(A, handover_ct_work, log_reports, []),
                 ?assertMatch({ok, _}, call(A, logger, get_handler_config, [default])),
                 [ok = gen_tcp:close(Socket) || Socket <- Flood],
                 ok = call(A, handover_ct_work, log_reports, []),
                 ?assertMatch({ok, _}, call(A, logger, get_handler_config, [default])),
                 handover_ct:until(fun() -> call(B, net_kernel, connect_node, [name(A)]) end)
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

%% A node without a port of its own registers port 0 with the stock EPMD.
port_0_is_not_dialled(Config) ->
    with(stock, [{a, #{}}, {b, #{env => [{"HANDOVER_LISTEN", "false"}]}}], Config,
         fun(A, B) ->
                 {error, {direct_failed, Text}} = call(A, handover, connect, [name(B)]),
                 ?assertMatch({match, _}, re:run(Text, "does not listen on a port of its own"))
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

%% reasons

reasons(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Logs = handover_ct:logs(A),
                 Reason = fun(Node) -> {error, {R, _}} = call(A, handover, connect, [Node]), R end,
                 ?assertEqual(no_such_node, Reason('nobody@127.0.0.1')),
                 ?assertEqual(unknown_host, Reason('a@host.invalid')),
                 ?assertEqual(bad_name, Reason('a@short')),
                 ?assertEqual(bad_name, Reason(nohost)),
                 ?assertEqual([bad_name, bad_name], [Reason(N) || N <- ['a b@127.0.0.1', 'a.b@127.0.0.1']]),
                 ?assertEqual(epmd_unreachable, Reason('a@127.0.0.2')),
                 ?assertMatch([_, _, _, _], handover_ct:reports(Logs, setup_failed, 4)),
                 ?assertEqual([], call(A, ets, tab2list, [sys_dist]))       % nothing half open
         end).

%% Something else on a remote EPMD's port: it says nonsense, or nothing, or hangs up.
remote_port_is_not_epmds(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-kernel", "net_setuptime", "7"]}}], Config,
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
                      handover_ct:until(fun() ->
                                                case call(B, erlang, nodes, []) of
                                                    [] -> true;
                                                    Nodes -> {N, B, Nodes, A, [call(A, F, G, Args) || {F, G, Args} <-
                                                                 [{erlang, nodes, []}, {ets, tab2list, [sys_dist]}]]}
                                                end
                                        end)
                  end || N <- lists:seq(1, 50)]
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

