%% The fault matrix: a handover is held at each of its steps, by stopping the process whose turn it is; then one of the processes
%% that take part is killed. docs/RELIABILITY.md lists what has to hold afterwards:
%%
%%   - no other link ends, and no BEAM but the killed one;
%%   - what was killed comes back (a BEAM and an EPMD: by the suite, as by an operator), and then the same connect works;
%%   - nothing stays open in those that lived.
-module(handover_faults_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

-define(VICTIMS, [none, epmd, carrier_a, carrier_b, beam_a, beam_b]).

suite() -> [{timetrap, {minutes, 5}}].

all() -> [held_by_the_initiators_carrier, held_by_epmd, held_while_epmd_asks, held_while_epmd_passes, held_by_the_beam, link_up,
          network_cut].

held_by_the_initiators_carrier(_) -> row(carrier_a).
held_by_epmd(_) -> row(epmd).
held_while_epmd_asks(_) -> row(asks).
held_while_epmd_passes(_) -> row(passes).
held_by_the_beam(_) -> row(beam).
link_up(_) -> row(up).

row(Step) -> [cell(Step, Victim) || Victim <- ?VICTIMS].

%% A connects to B while Step holds the handover, and Victim is killed. C has links to both.
cell(Step, Victim) ->
    ct:pal("~p, ~p", [Step, Victim]),
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    Nodes = [{N, node(N, Port)} || N <- [a, b, c]],
    S = #{port => Port, epmd => Epmd, nodes => maps:from_list(Nodes), os_pids => os_pids(Epmd, Nodes)},
    try
        prepare(Step, S),
        Before = descriptors(Victim, S),
        Links = links(Victim, S),
        Holder = holder(Step),
        signal(Holder, "STOP", S),
        connect_later(Step, S),
        at_step(Step, S),
        signal(Victim, "KILL", S),
        resume(Holder, S),
        Recovered = recover(Victim, S),
        try
            connects(Recovered),
            ?assertEqual(Links, links(Victim, Recovered)),
            disconnect(Recovered),
            handover_ct:until(fun() -> nothing_new(Before, descriptors(Victim, Recovered)) end)
        after
            stop(Recovered)
        end
    after
        stop(S)
    end.

node(Name, Port) ->
    %% never: nothing but this suite connects
    handover_ct:start_node(Name, #{epmd_port => Port, args => ["-kernel", "dist_auto_connect", "never", "-kernel", "net_setuptime", "5"]}).

peer(Name, #{nodes := Nodes}) -> maps:get(Name, Nodes).
call(Name, M, F, A, S) -> handover_ct:call(peer(Name, S), M, F, A).

%% Asked for at the start: a process that is stopped answers nothing.
os_pids(Epmd, Nodes) ->
    [A, B] = [proplists:get_value(N, Nodes) || N <- [a, b]],
    Beam = fun(Peer) -> list_to_integer(handover_ct:call(Peer, os, getpid, [])) end,
    #{epmd => handover_ct:epmd_os_pid(Epmd), carrier_a => handover_ct:carrier(A), carrier_b => handover_ct:carrier(B),
      beam_a => Beam(A), beam_b => Beam(B)}.

node_of(Name) -> list_to_atom(atom_to_list(Name) ++ "@127.0.0.1").

%% EPMD has a channel to a node to which it has handed over: C's links are made in the direction that leaves B without or with one.
prepare(asks, S) ->
    true = call(b, net_kernel, connect_node, [node_of(c)], S),
    true = call(a, net_kernel, connect_node, [node_of(c)], S);
prepare(_, S) ->
    true = call(c, net_kernel, connect_node, [node_of(b)], S),
    true = call(c, net_kernel, connect_node, [node_of(a)], S).

%% Whose turn it is.
holder(carrier_a) -> carrier_a;
holder(epmd) -> epmd;
holder(asks) -> carrier_b;
holder(passes) -> carrier_b;
holder(beam) -> beam_b;
holder(up) -> none.

signal(none, _, _) -> ok;
signal(Process, Signal, #{os_pids := OsPids}) -> handover_ct:kill(maps:get(Process, OsPids), Signal).

%% It may have ended by now: with its BEAM, or as the victim.
resume(none, _) -> ok;
resume(Process, #{os_pids := OsPids}) ->
    _ = os:cmd("kill -CONT " ++ integer_to_list(maps:get(Process, OsPids))),
    ok.

connect_later(up, S) ->
    true = call(a, net_kernel, connect_node, [node_of(b)], S);
connect_later(_, S) ->
    _ = call(a, erlang, spawn, [net_kernel, connect_node, [node_of(b)]], S),
    ok.

%% The handover has come as far as the holder lets it.
at_step(Step, S) when Step =:= carrier_a; Step =:= epmd ->
    handover_ct:until(fun() -> call(a, ets, member, [sys_dist, node_of(b)], S) end);
at_step(asks, S) ->
    handover_ct:until(fun() -> under_way("opening", S) end);
at_step(passes, S) ->
    handover_ct:until(fun() -> under_way("passing", S) end);
at_step(beam, S) ->
    handover_ct:until(fun() -> status(["handovers", "ok"], S) >= 3 end);
at_step(up, _) ->
    ok.

%% EPMD gives a handover up after some seconds, which a busy machine may spend on something else: then A connects again.
under_way(What, S) ->
    case status(["channels", What], S) of
        1 -> true;
        _ ->
            call(a, ets, member, [sys_dist, node_of(b)], S) orelse connect_later(retry, S),
            false
    end.

status(Path, #{port := Port}) ->
    Json = os:cmd(lists:concat([handover_ct:program("epmd"), " -port ", Port, " -status --json"])),
    [Object, Key] = Path,
    case re:run(Json, "\"" ++ Object ++ "\":\\s*\\{[^}]*\"" ++ Key ++ "\":\\s*([0-9]+)", [{capture, all_but_first, list}]) of
        {match, [Number]} -> list_to_integer(Number);
        nomatch -> {no_status, Json}
    end.

%% What an operator does: starts what does not come back by itself.
recover(epmd, #{port := Port} = S) -> S#{epmd => handover_ct:start_epmd(handover, Port)};
recover(beam_a, S) -> again(a, S);
recover(beam_b, S) -> again(b, S);
recover(_, S) -> S.

again(Name, #{port := Port, nodes := Nodes} = S) ->
    handover_ct:until(fun() -> not lists:member(atom_to_list(Name), handover_ct:epmd_names({127, 0, 0, 1}, Port)) end),
    S#{nodes => Nodes#{Name => node(Name, Port)}}.

%% A connect that was under way may have failed; the next ones work as soon as all is back.
connects(S) ->
    handover_ct:until(fun() -> call(a, net_kernel, connect_node, [node_of(b)], S) end),
    handover_ct:until(fun() -> call(b, net_kernel, connect_node, [node_of(a)], S) end).

disconnect(S) ->
    true = call(a, erlang, disconnect_node, [node_of(b)], S),
    handover_ct:until(fun() -> not lists:member(node_of(a), call(b, erlang, nodes, [connected], S)) end).

%% C's links to the BEAMs that live: the same ports all the time.
links(Victim, S) ->
    lists:sort([L || {Node, _} = L <- call(c, erlang, system_info, [dist_ctrl], S), not is_killed(Node, Victim)]).

is_killed(Node, beam_a) -> Node =:= node_of(a);
is_killed(Node, beam_b) -> Node =:= node_of(b);
is_killed(_, _) -> false.

%% What the BEAMs that live have open.
descriptors(Victim, S) ->
    [{N, handover_ct:own_fds(peer(N, S))} || N <- [a, b, c], not is_killed(node_of(N), Victim)].

nothing_new(Before, Now) ->
    case [{N, Fds -- proplists:get_value(N, Before)} || {N, Fds} <- Now, Fds -- proplists:get_value(N, Before) =/= []] of
        [] -> true;
        New -> {new, New}
    end.

stop(#{epmd := Epmd, nodes := Nodes}) ->
    [handover_ct:stop_node(P) || P <- maps:values(Nodes)],
    handover_ct:stop_epmd(Epmd).

%% The network between two hosts is cut: both see it by the tick, and connect again when it is back.
network_cut(_) ->
    Hosts = filename:join([handover_ct:root(), "ct", "hosts.sh"]),
    case string:trim(os:cmd(Hosts ++ " check")) of
        "" ->
            Prefix = "hcut-" ++ os:getpid(),
            "" = os:cmd(Hosts ++ " up " ++ Prefix),
            try cut(Prefix) after os:cmd(Hosts ++ " down " ++ Prefix) end;
        Reason ->
            {skip, Reason}
    end.

cut(Prefix) ->
    In = fun(N) -> Prefix ++ "-host" ++ integer_to_list(N) end,
    Nodes = [A, B] = [handover_ct:start_node(Name, #{epmd_port => 4369, host => "host" ++ integer_to_list(N) ++ ".handover.test",
                                                     starts_epmd => true, args => ["-kernel", "net_ticktime", "4"],
                                                     exec => {os:find_executable("ip"),
                                                              ["netns", "exec", In(N), os:find_executable("erl")]}})
                      || {Name, N} <- [{a, 1}, {b, 2}]],
    try
        Before = [handover_ct:own_fds(P) || P <- Nodes],
        Node = handover_ct:connect(A, B),
        "" = os:cmd("ip -n " ++ In(1) ++ " link set eth0 down"),
        [handover_ct:until(fun() -> handover_ct:call(P, erlang, nodes, []) =:= [] end, 60000) || P <- Nodes],
        [handover_ct:own_fds_are(P, Fds) || {P, Fds} <- lists:zip(Nodes, Before)],
        "" = os:cmd("ip -n " ++ In(1) ++ " link set eth0 up"),
        handover_ct:until(fun() -> handover_ct:call(A, net_kernel, connect_node, [Node]) end, 60000)
    after
        [handover_ct:stop_node(P) || P <- Nodes]
    end.
