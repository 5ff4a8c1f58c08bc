%% What happens if something dies, is not handover's, or does not behave as it should: real nodes on loopback, with an
%% EPMD on a port of its own.
-module(handover_failure_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1, ping/2, await_report/2]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [carrier_killed, carrier_signalled, carrier_stopped, beam_stopped, epmd_killed, carrier_owner_killed, code_reloaded,
     process_limit, descriptor_limit, remote_epmd_stock, remote_node_without_handover, fallback_off,
     port_0_is_not_dialled, node_without_handover_connects, local_epmd_stock, failure_reasons,
     other_program_at_remote_port, other_program_at_local_port, wrong_cookie, simultaneous_connects,
     node_dies_in_handshake, connects_during_shutdown].

init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_, _Config) ->
    ok.



%% Processes that die or stop

%% A link stays up, the carrier is restarted, and connections work again in both directions.
carrier_killed(Config) ->
    with_cluster(handover, [a, b, c], Config,
         fun(A, B, C) ->
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Carrier = handover_ct:carrier_os_pid(B),
                 Before = handover_ct:own_fds(B),
                 handover_ct:signal(Carrier, "KILL"),
                 handover_ct:until(fun() -> maps:get(restarts, call(B, handover, info, [])) =:= 1 end),
                 handover_ct:await_registered(B),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(Node, handover_ct:connect(C, B)),
                 ?assertEqual(name(C), handover_ct:connect(B, C)),
                 ?assertEqual(true, call(C, erlang, disconnect_node, [Node])),
                 handover_ct:await_own_fds(B, Before)
         end).

%% The carrier ignores SIGTERM, SIGINT and SIGHUP. A service manager or a terminal sends them to all processes of a node
%% at once, and the node needs its carrier until it has shut down.
carrier_signalled(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Carrier = handover_ct:carrier_os_pid(A),
                 [handover_ct:signal(Carrier, Signal) || Signal <- ["TERM", "INT", "HUP"]],
                 handover_ct:connect(B, A),
                 ?assertMatch(#{restarts := 0, os_pid := Carrier}, call(A, handover, info, []))
         end).

%% If the carrier hangs, connects time out with a reason, and links stay up.
carrier_stopped(Config) ->
    with_cluster(handover, [a, {b, #{args => ["-kernel", "net_setuptime", "3"]}}], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Carrier = handover_ct:carrier_os_pid(B),
                 handover_ct:while_stopped(Carrier,
                   fun() ->
                           ?assertMatch({error, {timeout, _}}, call(B, handover, connect, ['nobody@127.0.0.1'])),
                           ?assertEqual(pong, ping(A, Node))
                   end)
         end).

%% While the BEAM is stopped, for example because its virtual machine migrates, its carrier accepts connections for it.
beam_stopped(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 OsPid = handover_ct:beam_os_pid(B),
                 Node = name(B),
                 handover_ct:while_stopped(OsPid,
                   fun() ->
                           Sockets = [hand_over_many(250, Port) || _ <- [1, 2]],
                           [ok = gen_tcp:close(S) || S <- lists:append(Sockets)]
                   end),
                 ?assertEqual(pong, ping(A, Node))
         end).

%% Opens Count connections at once, which must all be handed over to b. Count may not exceed the number that EPMD lets
%% wait for one node.
hand_over_many(Count, Port) ->
    Sockets = [handover_ct:request_handover(Port, "b") || _ <- lists:seq(1, Count)],
    [?assertEqual({ok, <<"i", 0, 6:16>>}, gen_tcp:recv(S, 4, 60000)) || S <- Sockets],
    Sockets.

%% A link stays up. The nodes register with the next EPMD.
epmd_killed(Config) ->
    Port = ?config(epmd_port, Config),
    First = handover_ct:start_epmd(handover, Port),
    handover_ct:with_nodes([a, b], Port,
      fun(A, B) ->
              Node = handover_ct:connect(A, B),
              Link = handover_ct:dist_port(A, Node),
              handover_ct:signal(handover_ct:epmd_os_pid(First), "KILL"),
              handover_ct:until(fun() -> maps:get(epmd, call(A, handover, info, [])) =:= down end),
              ?assertEqual(pong, ping(A, Node)),
              Second = handover_ct:start_epmd(handover, Port),
              try
                  handover_ct:until(fun() -> lists:sort(handover_ct:registered_names(Port)) =:= ["a", "b"] end),
                  ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                  ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                  ?assertEqual(Node, handover_ct:connect(A, B))
              after
                  handover_ct:stop_epmd(Second)
              end
      end).

%% If handover_carrier dies, the carrier ends and both are restarted. A link stays up.
carrier_owner_killed(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 Link = handover_ct:dist_port(A, Node),
                 Carrier = handover_ct:carrier_os_pid(A),
                 true = call(A, erlang, exit, [call(A, handover_ct_work, process, [worker]), kill]),
                 handover_ct:await_registered(A),
                 handover_ct:until(fun() -> not handover_ct:is_running(Carrier) end),
                 ?assertEqual(Link, handover_ct:dist_port(A, Node)),
                 ?assertEqual(name(A), handover_ct:connect(B, A))
         end).

%% All modules are loaded twice, as by two hot upgrades. No process of a link runs purged code, so the link stays up,
%% and its descriptors are closed when it ends.
code_reloaded(Config) ->
    with_cluster(handover, [a, b], Config,
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
                 [handover_ct:await_own_fds(P, Fds) || {P, Fds} <- lists:zip([A, B], Before)],
                 ?assertMatch(#{carrier := up, restarts := 0}, call(A, handover, info, [])),
                 ?assertEqual(Node, handover_ct:connect(A, B))
         end).

%% A node that can start no process closes the connections that arrive, and nothing else happens.
process_limit(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(handover, [{a, #{args => ["+P", "1024"]}}, b], Config,
         fun(A, B) ->
                 Carrier = handover_ct:carrier_os_pid(A),
                 ?assertEqual({{ok, <<"i", 0, 6:16>>}, {error, closed}},
                              call(A, handover_ct_work, handover_at_process_limit, [Port, "a"])),
                 ?assertMatch(#{carrier := up, restarts := 0, os_pid := Carrier}, call(A, handover, info, [])),
                 ?assertEqual(name(A), handover_ct:connect(B, A))
         end).

%% A node that has run out of descriptors can still log: OTP's default handler is not removed, which happens if it fails
%% once. When descriptors are free again, a connect works.
descriptor_limit(Config) ->
    Port = ?config(epmd_port, Config),
    Limited = {"/bin/sh", ["-c", "ulimit -n 48 && exec erl \"$@\"", "erl"]},
    with_cluster(handover, [{a, #{exec => Limited}}, b], Config,
         fun(A, B) ->
                 {module, _} = call(A, code, ensure_loaded, [handover_ct_work]),
                 handover_ct:until(fun() -> call(A, handover_ct_work, is_preloaded, []) end),
                 {ok, #{module := logger_std_h}} = call(A, logger, get_handler_config, [default]),
                 Flood = [handover_ct:request_handover(Port, "a") || _ <- lists:seq(1, 60)],
                 handover_ct:until(fun() -> maps:get(bad_fd, maps:get(counters, call(A, handover, info, []))) > 0 end),
                 %% The node cannot load a module now.
                 ok = call(A, handover_ct_work, log_each_kind, []),
                 ?assertMatch({ok, _}, call(A, logger, get_handler_config, [default])),
                 [ok = gen_tcp:close(Socket) || Socket <- Flood],
                 ok = call(A, handover_ct_work, log_each_kind, []),
                 ?assertMatch({ok, _}, call(A, logger, get_handler_config, [default])),
                 handover_ct:until(fun() -> call(B, net_kernel, connect_node, [name(A)]) end)
         end).

%% Nodes and EPMDs without handover

%% If the other host has the stock EPMD, the node falls back and reports why.
remote_epmd_stock(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(stock, [{s, #{proto => "inet_tcp"}}, {a, #{env => [{"HANDOVER_START_EPMD", "false"}]}}], Config,
         fun(S, A) ->
                 Reports = handover_ct:record_reports(A),
                 Node = handover_ct:connect(A, S),
                 {ok, {_, Remote}} = call(A, inet, peername, [handover_ct:dist_port(A, Node)]),
                 ?assertNotEqual(Port, Remote),
                 ?assertMatch(#{reason := stock_epmd}, await_report(Reports, fell_back))
         end).

%% If the other node runs without handover, the node falls back and reports why.
remote_node_without_handover(Config) ->
    with_cluster(handover, [{s, #{proto => "inet_tcp"}}, a], Config,
         fun(S, A) ->
                 Reports = handover_ct:record_reports(A),
                 handover_ct:connect(A, S),
                 ?assertMatch(#{reason := no_handover}, await_report(Reports, fell_back))
         end).

%% With fallback false the connect fails instead.
fallback_off(Config) ->
    with_cluster(handover, [{s, #{proto => "inet_tcp"}}, {a, #{args => ["-handover", "fallback", "false"]}}], Config,
         fun(S, A) ->
                 Reports = handover_ct:record_reports(A),
                 ?assertEqual(pang, ping(A, name(S))),
                 ?assertMatch(#{reason := no_handover}, await_report(Reports, setup_failed)),
                 ?assertMatch({error, {no_handover, _}}, call(A, handover, connect, [name(S)]))
         end).

%% A node without a port of its own registers port 0 with the stock EPMD. Others do not dial it.
port_0_is_not_dialled(Config) ->
    with_cluster(stock, [{a, #{}}, {b, #{env => [{"HANDOVER_LISTEN", "false"}]}}], Config,
         fun(A, B) ->
                 {error, {direct_failed, Text}} = call(A, handover, connect, [name(B)]),
                 ?assertMatch({match, _}, re:run(Text, "does not listen on a port of its own"))
         end).

%% A node without handover connects to a node with handover.
node_without_handover_connects(Config) ->
    with_cluster(handover, [{s, #{proto => "inet_tcp"}}, a], Config,
         fun(S, A) ->
                 Node = handover_ct:connect(S, A),
                 ?assertEqual([Node], call(S, erlang, nodes, []))
         end).

%% With the stock EPMD on their own host, nodes connect to each other, and each logs one warning.
local_epmd_stock(Config) ->
    with_cluster(stock, [a, b], Config,
         fun(A, B) ->
                 ?assertMatch(#{epmd := stock}, call(A, handover, info, [])),
                 handover_ct:connect(A, B),
                 ?assertMatch(#{epmd := stock}, call(B, handover, info, []))
         end),
    Output = handover_ct:node_output("a", ?config(epmd_port, Config), stock),
    %% OTP prints twice what is logged early in the boot, with the same time.
    {match, Warnings} = re:run(Output, "WARNING REPORT==== (.*) ===\\s+handover: the EPMD .* is not handover's",
                               [global, {capture, all_but_first, list}]),
    ?assertMatch([_], lists:usort(Warnings), Output).

%% Reasons

failure_reasons(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Reports = handover_ct:record_reports(A),
                 Reason = fun(Node) -> {error, {R, _}} = call(A, handover, connect, [Node]), R end,
                 ?assertEqual(no_such_node, Reason('nobody@127.0.0.1')),
                 ?assertEqual(unknown_host, Reason('a@host.invalid')),
                 ?assertEqual(bad_name, Reason('a@short')),
                 ?assertEqual(bad_name, Reason(nohost)),
                 ?assertEqual([bad_name, bad_name], [Reason(N) || N <- ['a b@127.0.0.1', 'a.b@127.0.0.1']]),
                 ?assertEqual(epmd_unreachable, Reason('a@127.0.0.2')),
                 ?assertMatch([_, _, _, _], handover_ct:await_reports(Reports, setup_failed, 4)),
                 ?assertEqual([], call(A, ets, tab2list, [sys_dist]))       % no connection is left pending
         end).

%% Another program listens on a remote EPMD's port: it answers nonsense, or nothing, or closes the connection.
other_program_at_remote_port(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-kernel", "net_setuptime", "7"]}}], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 Reason = fun(Answer) ->
                                  handover_ct:with_server({127,0,0,3}, Port, Answer,
                                    fun() -> {error, {R, _}} = call(A, handover, connect, ['x@127.0.0.3']), R end)
                          end,
                 ?assertEqual(bad_answer, Reason(<<"HTTP/1.1 400 Bad Request\r\n\r\n">>)),
                 ?assertEqual(bad_answer, Reason(<<"i", 77>>)),
                 ?assertEqual(timeout, Reason(<<>>)),
                 ?assertEqual(direct_failed, Reason(close))    % looks like the stock EPMD, and is then asked for a port
         end).

%% Another program listens on the local EPMD's port: the node does not start, and its output has the reason.
other_program_at_local_port(Config) ->
    Port = ?config(epmd_port, Config),
    Output = fun(Answer) ->
                     handover_ct:with_server({127,0,0,1}, Port, Answer,
                                             fun() -> handover_ct:failing_node_output("a", Port, []) end)
             end,
    [?assertMatch({match, _}, re:run(Text, Pattern), Text)
     || {Answer, Pattern} <- [{<<"HTTP/1.1 400 Bad Request\r\n\r\n">>, "epmd_bad_answer"}, {close, "epmd_closed"}],
        Text <- [Output(Answer)]].

%% The connect fails with a reason, and both nodes close the connection.
wrong_cookie(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 true = call(A, erlang, set_cookie, [name(B), wrong]),
                 Before = [handover_ct:own_fds(P) || P <- [A, B]],
                 ?assertMatch({error, {handshake, _}}, call(A, handover, connect, [name(B)])),
                 [handover_ct:await_own_fds(P, Fds) || {P, Fds} <- lists:zip([A, B], Before)]
         end).

%% Two nodes connect to each other at the same time: both get one and the same link.
simultaneous_connects(Config) ->
    with_cluster(handover, [a, b], Config,
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
                                                    Nodes -> {N, Nodes, call(A, erlang, nodes, []),
                                                              call(A, ets, tab2list, [sys_dist])}
                                                end
                                        end)
                  end || N <- lists:seq(1, 50)]
         end).

%% A node takes a connection, answers HANDOVER_RESP, and is killed before the handshake: the connect fails with a
%% reason.
node_dies_in_handshake(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Before = handover_ct:own_fds(A),
                 ok = call(B, sys, suspend, [net_kernel]),
                 Self = self(),
                 Node = name(B),
                 spawn_link(fun() -> Self ! call(A, handover, connect, [Node]) end),
                 handover_ct:until(fun() -> handover_ct:own_fds(A) =/= Before end),
                 handover_ct:signal(handover_ct:beam_os_pid(B), "KILL"),
                 receive Answer -> ?assertMatch({error, {_, _}}, Answer) end,
                 handover_ct:await_own_fds(A, Before)
         end).

%% A node shuts down while another one connects to it again and again: each connect gets a result, and none is left
%% pending.
connects_during_shutdown(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = name(B),
                 Before = handover_ct:own_fds(A),
                 Self = self(),
                 spawn_link(fun() -> Self ! {last, call(A, handover_ct_work, connect_until_down, [Node])} end),
                 handover_ct:until(fun() -> call(B, erlang, nodes, [hidden]) ++ call(B, erlang, nodes, []) =/= [] end),
                 ok = call(B, init, stop, []),
                 receive {last, Last} -> ?assertEqual(no_such_node, Last) end,
                 handover_ct:until(fun() -> call(A, ets, tab2list, [sys_dist]) =:= [] end),
                 handover_ct:await_own_fds(A, Before)
         end).

