%% The fault matrix: a handover is held at one of its steps, by stopping the process that acts next. Then one of the
%% processes that take part is killed. docs/RELIABILITY.md has the results. Afterwards:
%%
%%   - no other link has ended, and no other BEAM;
%%   - the killed process is back (the suite restarts a BEAM or an EPMD), and the same connect works;
%%   - the surviving BEAMs have no additional descriptor.
-module(handover_faults_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(VICTIMS, [none, epmd, carrier_a, carrier_b, beam_a, beam_b]).

suite() -> [{timetrap, {minutes, 5}}].

all() -> [held_by_the_initiators_carrier, held_by_epmd, held_while_epmd_asks, held_while_epmd_passes, held_by_the_beam, link_up,
          network_cut].

held_by_the_initiators_carrier(_) -> kill_each(before_request).
held_by_epmd(_) -> kill_each(before_epmd).
held_while_epmd_asks(_) -> kill_each(asking).
held_while_epmd_passes(_) -> kill_each(passing).
held_by_the_beam(_) -> kill_each(queued).
link_up(_) -> kill_each(up).

kill_each(Step) -> [kill_at(Step, Victim) || Victim <- ?VICTIMS].

%% A connects to B, the handover is held at Step, and Victim is killed. C has links to both.
kill_at(Step, Victim) ->
    ct:pal("~p, ~p", [Step, Victim]),
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    Nodes = [{N, node(N, Port)} || N <- [a, b, c]],
    S = #{port => Port, epmd => Epmd, nodes => maps:from_list(Nodes), os_pids => os_pids(Epmd, Nodes)},
    try
        link_c(Step, S),
        Before = [{N, handover_ct:own_fds(peer(N, S))} || N <- [a, b, c], survives(node_of(N), Victim)],
        Links = links(Victim, S),
        Holder = holder(Step),
        signal(Holder, "STOP", S),
        start_connect(Step, S),
        await_step(Step, S),
        signal(Victim, "KILL", S),
        continue(Holder, S),
        Recovered = recover(Victim, S),
        try
            await_connects(Recovered),
            ?assertEqual(Links, links(Victim, Recovered)),
            handover_ct:disconnect(peer(a, Recovered), peer(b, Recovered)),
            [handover_ct:await_own_fds(peer(N, Recovered), Fds) || {N, Fds} <- Before]
        after
            stop(Recovered)
        end
    after
        stop(S)
    end.

node(Name, Port) ->
    %% never: only this suite connects nodes.
    handover_ct:start_node(Name, #{epmd_port => Port, args => ["-kernel", "dist_auto_connect", "never",
                                                               "-kernel", "net_setuptime", "5"]}).

peer(Name, #{nodes := Nodes}) -> maps:get(Name, Nodes).
call(Name, M, F, A, S) -> handover_ct:call(peer(Name, S), M, F, A).

%% Must be called before a process is stopped, because the nodes are asked.
os_pids(Epmd, Nodes) ->
    [A, B] = [proplists:get_value(N, Nodes) || N <- [a, b]],
    #{epmd => handover_ct:epmd_os_pid(Epmd),
      carrier_a => handover_ct:carrier_os_pid(A), carrier_b => handover_ct:carrier_os_pid(B),
      beam_a => handover_ct:beam_os_pid(A), beam_b => handover_ct:beam_os_pid(B)}.

node_of(Name) -> list_to_atom(atom_to_list(Name) ++ "@127.0.0.1").

%% Opens C's links. EPMD has a channel to each node that it has handed a connection to. So the direction of the links
%% decides whether EPMD has to ask B for a socket later.
link_c(asking, S) ->
    true = call(b, net_kernel, connect_node, [node_of(c)], S),
    true = call(a, net_kernel, connect_node, [node_of(c)], S);
link_c(_, S) ->
    true = call(c, net_kernel, connect_node, [node_of(b)], S),
    true = call(c, net_kernel, connect_node, [node_of(a)], S).

%% The process that acts next after Step.
holder(before_request) -> carrier_a;
holder(before_epmd) -> epmd;
holder(asking) -> carrier_b;
holder(passing) -> carrier_b;
holder(queued) -> beam_b;
holder(up) -> none.

signal(none, _, _) -> ok;
signal(Process, Signal, #{os_pids := OsPids}) -> handover_ct:signal(maps:get(Process, OsPids), Signal).

%% The process may have ended: with its BEAM, or because it is the victim.
continue(none, _) -> ok;
continue(Process, #{os_pids := OsPids}) ->
    _ = os:cmd("kill -CONT " ++ integer_to_list(maps:get(Process, OsPids))),
    ok.

start_connect(up, S) ->
    true = call(a, net_kernel, connect_node, [node_of(b)], S);
start_connect(_, S) ->
    _ = call(a, erlang, spawn, [net_kernel, connect_node, [node_of(b)]], S),
    ok.

%% Waits until the handover has reached Step.
await_step(Step, S) when Step =:= before_request; Step =:= before_epmd ->
    handover_ct:until(fun() -> is_connecting(S) end);
await_step(asking, S) ->
    handover_ct:until(fun() -> is_handover_in_state("opening", S) end);
await_step(passing, S) ->
    handover_ct:until(fun() -> is_handover_in_state("passing", S) end);
await_step(queued, S) ->
    handover_ct:until(fun() -> status(["handovers", "ok"], S) >= 3 end);
await_step(up, _) ->
    ok.

%% EPMD cancels a handover after some seconds, which may be too short on a busy machine. Then A connects again.
is_handover_in_state(State, S) ->
    case status(["channels", State], S) of
        1 -> true;
        _ ->
            is_connecting(S) orelse start_connect(retry, S),
            false
    end.

%% Reports whether net_kernel on A has a connection to B, pending or up.
is_connecting(S) ->
    call(a, ets, member, [sys_dist, node_of(b)], S).

%% A number of EPMD's status.
status([Object, Key], #{port := Port}) ->
    Json = os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -status --json"])),
    Pattern = "\"" ++ Object ++ "\":\\s*\\{[^}]*\"" ++ Key ++ "\":\\s*([0-9]+)",
    case re:run(Json, Pattern, [{capture, all_but_first, list}]) of
        {match, [Number]} -> list_to_integer(Number);
        nomatch -> {no_status, Json}
    end.

%% Restarts the victim if it does not come back by itself, as an operator would.
recover(epmd, #{port := Port} = S) -> S#{epmd => handover_ct:start_epmd(handover, Port)};
recover(beam_a, S) -> restart(a, S);
recover(beam_b, S) -> restart(b, S);
recover(_, S) -> S.

restart(Name, #{port := Port, nodes := Nodes} = S) ->
    handover_ct:until(fun() -> not lists:member(atom_to_list(Name), handover_ct:registered_names(Port)) end),
    S#{nodes => Nodes#{Name => node(Name, Port)}}.

%% The connect that was held may have failed. The next ones work as soon as all processes are back.
await_connects(S) ->
    handover_ct:until(fun() -> call(a, net_kernel, connect_node, [node_of(b)], S) end),
    handover_ct:until(fun() -> call(b, net_kernel, connect_node, [node_of(a)], S) end).

%% C's links to the nodes that survive. Their ports change if a link is replaced.
links(Victim, S) ->
    lists:sort([L || {Node, _} = L <- call(c, erlang, system_info, [dist_ctrl], S), survives(Node, Victim)]).

%% Reports whether Node survives the death of Victim.
survives(Node, beam_a) -> Node =/= node_of(a);
survives(Node, beam_b) -> Node =/= node_of(b);
survives(_, _) -> true.

stop(#{epmd := Epmd, nodes := Nodes}) ->
    [handover_ct:stop_node(P) || P <- maps:values(Nodes)],
    handover_ct:stop_epmd(Epmd).

%% The network between two hosts is cut: both nodes notice within net_ticktime, and connect again when the network is
%% back.
network_cut(_) ->
    case handover_ct:hosts(["check"]) of
        "" ->
            Prefix = "hcut-" ++ os:getpid(),
            "" = handover_ct:hosts(["up", Prefix]),
            try network_cut_between([Prefix ++ "-host1", Prefix ++ "-host2"])
            after handover_ct:hosts(["down", Prefix])
            end;
        Reason ->
            {skip, Reason}
    end.

network_cut_between([Netns1, Netns2]) ->
    Options = #{epmd_port => 4369, starts_epmd => true, args => ["-kernel", "net_ticktime", "4"]},
    handover_ct:with_nodes([{a, Options#{host => "host1.handover.test", netns => Netns1}},
                            {b, Options#{host => "host2.handover.test", netns => Netns2}}], 4369,
      fun(A, B) ->
              Before = [{P, handover_ct:own_fds(P)} || P <- [A, B]],
              Node = handover_ct:connect(A, B),
              "" = os:cmd("ip -n " ++ Netns1 ++ " link set eth0 down"),
              [handover_ct:await_no_nodes(P) || P <- [A, B]],
              [handover_ct:await_own_fds(P, Fds) || {P, Fds} <- Before],
              "" = os:cmd("ip -n " ++ Netns1 ++ " link set eth0 up"),
              handover_ct:until(fun() -> handover_ct:call(A, net_kernel, connect_node, [Node]) end)
      end).
