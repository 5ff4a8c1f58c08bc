%% OTP's own client of EPMD and what stands in for it: -epmd_module, -no_epmd, applications that register the node themselves. And a
%% working directory that is gone.
-module(handover_epmd_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [module_without_epmd, module_says_no, module_that_delegates, no_epmd, application_registers, application_registers_after_restart,
     state_unknown, deleted_directory].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).
ping(Peer, Node) -> call(Peer, net_adm, ping, [Node]).
names(Config) -> lists:sort(handover_ct:epmd_names({127,0,0,1}, ?config(epmd_port, Config))).

%% As OTP's distribution_SUITE:epmd_module: what the module says counts, and nothing else.
module_without_epmd(Config) ->
    Module = ["-epmd_module", "handover_ct_directory"],
    [with(Epmd, [{a, #{args => Module}}], Config,
          fun(A) ->
                  {ok, Port} = call(A, application, get_env, [kernel, handover_ct_listens]),
                  handover_ct:with_nodes([{b, #{args => Module ++ ["-handover_ct_port", integer_to_list(Port)]}}],
                                         ?config(epmd_port, Config),
                    fun(B) ->
                            [?assertEqual(4711, call(P, erlang, system_info, [creation])) || P <- [A, B]],
                            Epmd =:= none orelse ?assertEqual([], names(Config)),
                            ?assertEqual(pang, ping(A, name(B))),
                            ?assertEqual([], call(A, erlang, nodes, [])),
                            ?assertEqual([], call(B, erlang, nodes, [])),
                            ?assertEqual(pong, ping(B, name(A))),
                            ?assertEqual([name(B)], call(A, erlang, nodes, [])),
                            ?assertEqual([name(A)], call(B, erlang, nodes, []))
                    end)
          end) || Epmd <- [handover, none]].

%% EPMD knows the node, the module does not.
module_says_no(Config) ->
    Module = ["-epmd_module", "handover_ct_directory", "-handover_ct_port", "none"],
    with(handover, [{a, #{args => Module}}, b], Config,
         fun(A, B) ->
                 ?assertMatch({error, {no_such_node, _}}, call(A, handover, connect, [name(B)])),
                 ok = call(A, application, set_env, [handover, dial_map, [{name(B), "127.0.0.1"}]]),
                 ?assertEqual({ok, name(B)}, call(A, handover, connect, [name(B)]))
         end).

module_that_delegates(Config) ->
    Module = #{args => ["-epmd_module", "handover_ct_epmd"]},
    with(handover, [{a, Module}, {b, Module}, {c, #{args => maps:get(args, Module) ++ ["-dist_listen", "false"]}}], Config,
         fun(A, B, C) ->
                 ?assertEqual(["a", "b"], names(Config)),
                 [?assertEqual(<<"handover/1">>, handover_ct:extra(?config(epmd_port, Config), N)) || N <- ["a", "b"]],
                 [begin
                      ?assertEqual({ok, name(Q)}, call(P, handover, connect, [name(Q)])),
                      ?assertMatch(#{via := handover}, call(P, handover, info, [name(Q)]))
                  end || {P, Q} <- [{A, B}, {C, A}]],
                 ?assertMatch({error, {no_such_node, _}}, call(A, handover, connect, ['x@127.0.0.1']))
         end).

%% -no_epmd: none is started; one that is there is used.
no_epmd(Config) ->
    Output = handover_ct:failing_node("a", ?config(epmd_port, Config), [], ["-no_epmd"]),
    ?assertMatch({match, _}, re:run(Output, "epmd_unreachable"), Output),
    with(handover, [{a, #{args => ["-no_epmd"]}}, b], Config,
         fun(A, B) ->
                 ?assertEqual(["a", "b"], names(Config)),
                 handover_ct:connect(A, B)
         end).

%% RabbitMQ registers the node once a minute. It is registered already, all the time.
application_registers(Config) ->
    with(handover, [a], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 {ok, [{_, Listens}]} = call(A, handover_ct_work, port_of, [a]),
                 Register = fun() -> call(A, erl_epmd, register_node, [a, Listens]) end,
                 ?assertEqual({error, already_registered}, Register()),
                 ?assertEqual({ok, {r4, a, Listens}}, call(A, gen_server, call, [erl_epmd, client_info_req])),
                 handover_ct:kill(handover_ct:carrier(A), "KILL"),
                 handover_ct:until(fun() ->
                                           ?assertEqual({error, already_registered}, Register()),
                                           handover_ct:extra(Port, "a") =:= {no, 1}
                                   end),
                 handover_ct:until(fun() ->
                                           ?assertEqual({error, already_registered}, Register()),
                                           handover_ct:extra(Port, "a") =:= <<"handover/1">>
                                   end)
         end).

%% RabbitMQ also starts the distribution again, under another name. Nothing crashes at the end of the old one.
application_registers_after_restart(Config) ->
    with(handover, [{p, #{undistributed => true}}], Config,
         fun(P) ->
                 ok = call(P, handover_ct_work, keep_reports, []),
                 [begin
                      {ok, _} = call(P, net_kernel, start, [[Node, longnames]]),
                      [Name, _] = string:split(atom_to_list(Node), "@"),
                      ?assertEqual({error, already_registered}, call(P, erl_epmd, register_node, [Name, 1])),
                      ?assertEqual([Name], names(Config)),
                      ?assertEqual(ok, call(P, net_kernel, stop, [])),
                      handover_ct:until(fun() -> names(Config) =:= [] end)
                  end || Node <- ['a@127.0.0.1', 'b@127.0.0.1', 'a@127.0.0.1']],
                 ?assertEqual([], call(P, handover_ct_work, kept_reports, []))
         end).

%% Of a state that this version does not know nothing is changed.
state_unknown(_) ->
    Before = whereis(erl_epmd),
    Before =:= undefined orelse unregister(erl_epmd),
    {ok, Pid} = gen_server:start({local, erl_epmd}, ?MODULE, [], []),
    try
        [begin
             sys:replace_state(Pid, fun(_) -> State end),
             ?assertEqual({State, false}, {State, handover_erl_epmd:mark(a, 1, inet)}),
             true = handover_erl_epmd:unmark(),
             ?assertEqual(State, sys:get_state(Pid))
         end || State <- [{state, -1, 1}, {state, undefined, -1, "", inet}, {other, -1, -1, "", inet}, #{socket => -1}, []]],
        sys:replace_state(Pid, fun(_) -> {state, -1, -1, "", undefined} end),
        ?assert(handover_erl_epmd:mark(a, 1, inet)),
        ?assertMatch({state, _, 1, a, inet}, sys:get_state(Pid)),
        ?assertNot(handover_erl_epmd:mark(b, 2, inet)),
        true = handover_erl_epmd:unmark(),
        ?assertEqual({state, -1, -1, "", undefined}, sys:get_state(Pid))
    after
        gen_server:stop(Pid),
        Before =:= undefined orelse register(erl_epmd, Before)
    end.

init(_) -> {ok, none}.

handle_call(_, _, State) -> {reply, ok, State}.

handle_cast(_, State) -> {noreply, State}.

%% The node's working directory is removed. The carrier starts again all the same; it keeps no directory busy itself.
deleted_directory(Config) ->
    Dir = filename:join(?config(priv_dir, Config), "gone"),
    ok = file:make_dir(Dir),
    Exec = {"/bin/sh", ["-c", "cd " ++ Dir ++ " && exec erl \"$@\"", "erl"]},
    with(handover, [{a, #{exec => Exec}}, b], Config,
         fun(A, B) ->
                 ?assertEqual({ok, "/"}, file:read_link(["/proc/", integer_to_list(handover_ct:carrier(A)), "/cwd"])),
                 Logs = handover_ct:logs(A),
                 ok = file:del_dir(Dir),
                 handover_ct:kill(handover_ct:carrier(A), "KILL"),
                 handover_ct:until(fun() -> maps:get(restarts, call(A, handover, info, [])) >= 1 end),
                 handover_ct:until(fun() -> maps:get(epmd, call(A, handover, info, [])) =:= handover end),
                 ?assertEqual(name(A), handover_ct:connect(B, A)),
                 ?assertMatch([_], [R || #{event := directory_gone} = R <- Logs()])
         end),
    ?assertMatch("/" ++ _, handover_config:program("handover")).
