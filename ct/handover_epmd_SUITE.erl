%% OTP's own client of EPMD and its replacements: -epmd_module, -no_epmd, applications that register the node
%% themselves. Also a node whose working directory was removed.
-module(handover_epmd_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1, ping/2]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [module_without_epmd, module_without_the_node, module_that_delegates, no_epmd, application_registers,
     application_registers_after_restart, unknown_erl_epmd_state, deleted_directory].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

names(Config) -> lists:sort(handover_ct:registered_names(?config(epmd_port, Config))).

%% The module alone decides about ports and creations, with or without an EPMD, as in OTP's
%% distribution_SUITE:epmd_module.
module_without_epmd(Config) ->
    Module = ["-epmd_module", "handover_ct_directory"],
    [with_cluster(Epmd, [{a, #{args => Module}}], Config,
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

%% EPMD knows the node and the module does not: a connect fails. The dial map takes precedence over the module.
module_without_the_node(Config) ->
    Module = ["-epmd_module", "handover_ct_directory", "-handover_ct_port", "none"],
    with_cluster(handover, [{a, #{args => Module}}, b], Config,
         fun(A, B) ->
                 ?assertMatch({error, {no_such_node, _}}, call(A, handover, connect, [name(B)])),
                 ok = call(A, application, set_env, [handover, dial_map, [{name(B), "127.0.0.1"}]]),
                 ?assertEqual({ok, name(B)}, call(A, handover, connect, [name(B)]))
         end).

%% With a module that calls erl_epmd, nodes register and connect by handover.
module_that_delegates(Config) ->
    Module = #{args => ["-epmd_module", "handover_ct_epmd"]},
    NotListening = #{args => maps:get(args, Module) ++ ["-dist_listen", "false"]},
    with_cluster(handover, [{a, Module}, {b, Module}, {c, NotListening}], Config,
         fun(A, B, C) ->
                 ?assertEqual(["a", "b"], names(Config)),
                 [?assertEqual(<<"handover/1">>, handover_ct:registered_extra(?config(epmd_port, Config), N))
                  || N <- ["a", "b"]],
                 [begin
                      ?assertEqual({ok, name(Q)}, call(P, handover, connect, [name(Q)])),
                      ?assertMatch(#{via := handover}, call(P, handover, info, [name(Q)]))
                  end || {P, Q} <- [{A, B}, {C, A}]],
                 ?assertMatch({error, {no_such_node, _}}, call(A, handover, connect, ['x@127.0.0.1']))
         end).

%% With -no_epmd a node starts no EPMD, but uses one that is running.
no_epmd(Config) ->
    Output = handover_ct:failing_node_output("a", ?config(epmd_port, Config), [], ["-no_epmd"]),
    ?assertMatch({match, _}, re:run(Output, "epmd_unreachable"), Output),
    with_cluster(handover, [{a, #{args => ["-no_epmd"]}}, b], Config,
         fun(A, B) ->
                 ?assertEqual(["a", "b"], names(Config)),
                 handover_ct:connect(A, B)
         end).

%% RabbitMQ registers the node once a minute. It always gets the answer that the node is registered, also while EPMD
%% does not know the node because the carrier was killed.
application_registers(Config) ->
    with_cluster(handover, [a], Config,
         fun(A) ->
                 Port = ?config(epmd_port, Config),
                 Listen = call(A, handover_ct_work, registered_port, [a]),
                 Register = fun() -> call(A, erl_epmd, register_node, [a, Listen]) end,
                 ?assertEqual({error, already_registered}, Register()),
                 ?assertEqual({ok, {r4, a, Listen}}, call(A, gen_server, call, [erl_epmd, client_info_req])),
                 handover_ct:signal(handover_ct:carrier_os_pid(A), "KILL"),
                 handover_ct:until(fun() ->
                                           ?assertEqual({error, already_registered}, Register()),
                                           handover_ct:registered_extra(Port, "a") =:= {no, 1}
                                   end),
                 handover_ct:until(fun() ->
                                           ?assertEqual({error, already_registered}, Register()),
                                           handover_ct:registered_extra(Port, "a") =:= <<"handover/1">>
                                   end)
         end).

%% RabbitMQ also starts the distribution again with another name. Nothing crashes when the old one ends.
application_registers_after_restart(Config) ->
    with_cluster(handover, [{p, #{undistributed => true}}], Config,
         fun(P) ->
                 ok = call(P, handover_ct_work, record_errors, []),
                 [begin
                      ok = call(P, handover_ct_work, start_net_kernel, [Node]),
                      [Name, _] = string:split(atom_to_list(Node), "@"),
                      ?assertEqual({error, already_registered}, call(P, erl_epmd, register_node, [Name, 1])),
                      ?assertEqual([Name], names(Config)),
                      ?assertEqual(ok, call(P, net_kernel, stop, [])),
                      handover_ct:until(fun() -> names(Config) =:= [] end)
                  end || Node <- ['a@127.0.0.1', 'b@127.0.0.1', 'a@127.0.0.1']],
                 ?assertEqual([], call(P, handover_ct_work, recorded_errors, []))
         end).

%% handover_erl_epmd changes the state of erl_epmd only if it knows its form.
unknown_erl_epmd_state(_) ->
    Before = whereis(erl_epmd),
    Before =:= undefined orelse unregister(erl_epmd),
    {ok, Pid} = gen_server:start({local, erl_epmd}, ?MODULE, [], []),
    try
        [begin
             sys:replace_state(Pid, fun(_) -> State end),
             ?assertEqual({State, false}, {State, handover_erl_epmd:mark(a, 1, inet)}),
             true = handover_erl_epmd:unmark(),
             ?assertEqual(State, sys:get_state(Pid))
         end || State <- [{state, -1, 1}, {state, undefined, -1, "", inet}, {other, -1, -1, "", inet},
                          #{socket => -1}, []]],
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

%% The gen_server that unknown_erl_epmd_state registers as erl_epmd.
init(_) -> {ok, none}.

handle_call(_, _, State) -> {reply, ok, State}.

handle_cast(_, State) -> {noreply, State}.

%% The working directory of the node is removed. A new carrier starts nevertheless. The carrier itself uses no directory
%% but /.
deleted_directory(Config) ->
    Dir = filename:join(?config(priv_dir, Config), "gone"),
    ok = file:make_dir(Dir),
    Exec = {"/bin/sh", ["-c", "cd " ++ Dir ++ " && exec erl \"$@\"", "erl"]},
    with_cluster(handover, [{a, #{exec => Exec}}, b], Config,
         fun(A, B) ->
                 Carrier = handover_ct:carrier_os_pid(A),
                 ?assertEqual({ok, "/"}, file:read_link(["/proc/", integer_to_list(Carrier), "/cwd"])),
                 Reports = handover_ct:record_reports(A),
                 ok = file:del_dir(Dir),
                 handover_ct:signal(Carrier, "KILL"),
                 handover_ct:until(fun() -> maps:get(restarts, call(A, handover, info, [])) >= 1 end),
                 handover_ct:await_registered(A),
                 ?assertEqual(name(A), handover_ct:connect(B, A)),
                 ?assertMatch([_], [R || #{event := directory_gone} = R <- Reports()])
         end),
    ?assertMatch("/" ++ _, handover_config:program("handover")).
