%% The end of links: nodedown as fast, data as whole and fds as few as OTP's own inet_tcp has them. Each case runs with
%% inet_tcp first, which shows that the case asks for what OTP gives, and then with handover in both directions.
-module(handover_close_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 3}}].

all() -> [{group, inet_tcp}, {group, handover_tcp}, thousand_handovers, killed_keeper, killed_closer, killed_closer_and_keeper,
         links_of_an_earlier_carrier].

groups() ->
    Cases = [disconnected, busy_dirty_schedulers, killed_node, halted_node, killed_connection, nothing_lost, full_queue_of_a_stopped_peer,
             stopped_distribution],
    [{inet_tcp, [], Cases}, {handover_tcp, [], Cases}].

init_per_group(Proto, Config) -> [{proto, atom_to_list(Proto)} | Config].
end_per_group(_, _) -> ok.

%% Fun(A, B) with A connected to B, for the one that dialled and the one that was dialled as A.
both_ways(Config, Fun) ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    Options = #{epmd_port => Port, proto => ?config(proto, Config), args => proplists:get_value(args, Config, [])},
    try
        [begin
             A = handover_ct:start_node(a, Options),
             B = handover_ct:start_node(b, Options),
             try
                 Before = [handover_ct:own_fds(P) || P <- [A, B]],
                 case Dials of
                     dialled -> handover_ct:connect(A, B);
                     was_dialled -> handover_ct:connect(B, A)
                 end,
                 Fun(A, B, Before)
             after
                 [handover_ct:stop_node(P) || P <- [A, B]]
             end
         end || Dials <- [dialled, was_dialled]]
    after
        handover_ct:stop_epmd(Epmd)
    end.

call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
call(Peer, M, F, A, Ms) -> handover_ct:call(Peer, M, F, A, Ms).
name(Peer) -> handover_ct:name(Peer).

fds_are(Peer, Fds) -> handover_ct:own_fds_are(Peer, Fds).

no_nodes(Peer) ->
    handover_ct:until(fun() -> call(Peer, erlang, nodes, []) =:= [] end).

os_pid(Peer) -> list_to_integer(call(Peer, os, getpid, [])).

disconnected(Config) ->
    both_ways(Config, fun(A, B, [FdsA, FdsB]) ->
                              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                              no_nodes(B),
                              fds_are(A, FdsA),
                              fds_are(B, FdsB)
                      end).

%% A file operation that hangs, as on a dead NFS server, does not hold up the end of a link.
busy_dirty_schedulers(Config) ->
    Fifo = filename:join(?config(priv_dir, Config), "fifo"),
    _ = file:delete(Fifo),
    "" = os:cmd("mkfifo " ++ Fifo),
    both_ways([{args, ["+SDio", "1"]} | Config],
              fun(A, B, [FdsA, FdsB]) ->
                      _ = [call(A, code, ensure_loaded, [M]) || M <- [handover_fd, handover_closer]],
                      Pid = call(A, erlang, spawn, [prim_file, open, [Fifo, [read]]]),       % until somebody writes
                      handover_ct:until(fun() -> is_opening(A, Pid) end),
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      no_nodes(B),
                      {ok, File} = file:open(Fifo, [write, raw]),
                      ok = file:close(File),
                      fds_are(B, FdsB),
                      fds_are(A, FdsA)
              end).

%% The process has the node's only dirty scheduler for files.
is_opening(Peer, Pid) ->
    call(Peer, erlang, process_info, [Pid, [status, current_function]])
        =:= [{status, running}, {current_function, {prim_file, open_nif, 2}}].

killed_node(Config) ->
    both_ways(Config, fun(A, B, [FdsA, _]) ->
                              handover_ct:kill(os_pid(B), "KILL"),
                              no_nodes(A),
                              fds_are(A, FdsA)
                      end).

halted_node(Config) ->
    both_ways(Config, fun(A, B, [FdsA, _]) ->
                              exit_of(fun() -> call(B, erlang, halt, [0, [{flush, false}]]) end),
                              no_nodes(A),
                              fds_are(A, FdsA)
                      end).

killed_connection(Config) ->
    both_ways(Config, fun(A, B, [FdsA, FdsB]) ->
                              true = call(A, erlang, exit, [call(A, handover_ct_work, con_pid, [name(B)]), kill]),
                              no_nodes(B),
                              no_nodes(A),
                              fds_are(A, FdsA),
                              fds_are(B, FdsB)
                      end).

%% All that the driver had taken before the disconnect arrives. (What the emulator still keeps for it is lost with
%% inet_tcp too.)
nothing_lost(Config) ->
    both_ways(Config, fun(A, B, [FdsA, FdsB]) ->
                              Receiver = receiver(A, B),
                              Before = call(A, handover_ct_work, packets_taken, [name(B)]),
                              ok = call(A, handover_ct_work, flood, [name(B), 20000]),
                              Taken = call(A, handover_ct_work, packets_taken_and_disconnect, [name(B)]),
                              arrived(Receiver, Taken - Before),
                              fds_are(A, FdsA),
                              fds_are(B, FdsB)
                      end).

%% The peer stands still with all buffers full; when it goes on it gets what was taken, and then nodedown.
full_queue_of_a_stopped_peer(Config) ->
    both_ways(Config, fun(A, B, [FdsA, FdsB]) ->
                              Receiver = receiver(A, B),
                              Node = name(B),
                              Before = call(A, handover_ct_work, packets_taken, [Node]),
                              OsPid = os_pid(B),
                              handover_ct:kill(OsPid, "STOP"),
                              Sender = call(A, handover_ct_work, flood_later, [Node, 20000]),
                              handover_ct:until(fun() -> call(A, handover_ct_work, is_suspended, [Sender]) end),
                              Taken = call(A, handover_ct_work, packets_taken_and_disconnect, [Node]),
                              no_nodes(A),
                              handover_ct:kill(OsPid, "CONT"),
                              arrived(Receiver, Taken - Before),
                              fds_are(A, FdsA),
                              fds_are(B, FdsB)
                      end).

stopped_distribution(Config) ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    Options = #{epmd_port => Port, proto => ?config(proto, Config)},
    A = handover_ct:start_node(a, Options),
    B = handover_ct:start_node(b, Options#{undistributed => true}),
    try
        {ok, _} = call(B, net_kernel, start, [['b@127.0.0.1', longnames]]),
        handover_ct:connect(A, B),
        ?assertEqual(ok, call(B, net_kernel, stop, [])),
        no_nodes(A)
    after
        [handover_ct:stop_node(P) || P <- [A, B]],
        handover_ct:stop_epmd(Epmd)
    end.

%% A process on B that counts what comes from A until nodedown, and here the one that waits for it.
receiver(A, B) ->
    Self = self(),
    Ref = make_ref(),
    spawn(fun() -> Self ! {Ref, exit_of(fun() -> call(B, handover_ct_work, receive_until_nodedown, [name(A)], 600000) end)} end),
    handover_ct:until(fun() -> is_pid(call(B, erlang, whereis, [receiver])) end),
    Ref.

arrived(Ref, AtLeast) ->
    Got = receive {Ref, Answer} -> Answer end,
    ?assert(is_integer(Got) andalso Got > 0 andalso Got >= AtLeast, {got, Got, taken, AtLeast}).

%% Connections come and go, and nothing of them stays.
thousand_handovers(_Config) ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    %% never: rpc's observer asks each new node for its features, and would connect again behind a disconnect
    Options = #{epmd_port => Port, args => ["-kernel", "dist_auto_connect", "never"]},
    [A, B] = [handover_ct:start_node(N, Options) || N <- [a, b]],
    try
        ok = call(A, handover_ct_work, connect_and_disconnect, [name(B), 5]),
        OsPids = [handover_ct:epmd_os_pid(Epmd), handover_ct:carrier(A), handover_ct:carrier(B), os_pid(A), os_pid(B)],
        Before = [handover_ct:fds(P) || P <- OsPids],
        Processes = [call(P, erlang, system_info, [process_count]) || P <- [A, B]],
        ok = call(A, handover_ct_work, connect_and_disconnect, [name(B), 1000], 900000),
        handover_ct:until(fun() -> nothing_new(Before, [handover_ct:fds(P) || P <- OsPids]) end),
        handover_ct:until(fun() -> no_more(Processes, [call(P, erlang, system_info, [process_count]) || P <- [A, B]]) end)
    after
        [handover_ct:stop_node(P) || P <- [A, B]],
        handover_ct:stop_epmd(Epmd)
    end.

%% The process that keeps a link's descriptor is killed: another one takes its place.
killed_keeper(Config) ->
    both_ways([{proto, "handover_tcp"} | Config],
              fun(A, B, [FdsA, FdsB]) ->
                      [?assertEqual(1, call(P, handover_ct_work, kill_keepers, [])) || P <- [A, B]],
                      ?assertEqual(pong, call(A, net_adm, ping, [name(B)])),
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      no_nodes(B),
                      fds_are(A, FdsA),
                      fds_are(B, FdsB)
              end).

%% So does another one if the process that closes descriptors is killed.
killed_closer(Config) ->
    both_ways([{proto, "handover_tcp"} | Config],
              fun(A, B, [FdsA, FdsB]) ->
                      [true = call(P, erlang, exit, [call(P, erlang, whereis, [handover_closer]), kill]) || P <- [A, B]],
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      no_nodes(B),
                      fds_are(A, FdsA),
                      fds_are(B, FdsB)
              end).

%% The keepers tell the next one what they have.
killed_closer_and_keeper(Config) ->
    both_ways([{proto, "handover_tcp"} | Config],
              fun(A, B, [FdsA, FdsB]) ->
                      [begin
                           Closer = call(P, erlang, whereis, [handover_closer]),
                           true = call(P, erlang, exit, [Closer, kill]),
                           handover_ct:until(fun() -> lists:member(call(P, erlang, whereis, [handover_closer]), [undefined, Closer]) =:= false end),
                           %% What it is told comes before the answer to this.
                           handover_ct:until(fun() -> call(P, handover_ct_work, watched, []) =:= 1 end),
                           ?assertEqual(1, call(P, handover_ct_work, kill_keepers, []))
                       end || P <- [A, B]],
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      no_nodes(B),
                      fds_are(A, FdsA),
                      fds_are(B, FdsB)
              end).

%% A carrier that takes the place of a killed one gets copies of the links, which it shuts down when the BEAM ends, and which it closes
%% when the BEAM has closed its own.
links_of_an_earlier_carrier(Config) ->
    both_ways([{proto, "handover_tcp"} | Config],
              fun(A, B, [FdsA, _]) ->
                      [begin
                           ?assertMatch([_], copies(P)),
                           Carrier = handover_ct:carrier(P),
                           handover_ct:kill(Carrier, "KILL"),
                           handover_ct:until(fun() -> is_integer(new_carrier(P, Carrier)) end),
                           handover_ct:until(fun() -> length(copies(P)) =:= 1 end)
                       end || P <- [A, B]],
                      ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
                      no_nodes(B),
                      [handover_ct:until(fun() -> copies(P) =:= [] end) || P <- [A, B]],
                      fds_are(A, FdsA),
                      handover_ct:connect(A, B),
                      exit_of(fun() -> call(B, erlang, halt, []) end),
                      no_nodes(A)
              end).

%% The sockets that both the BEAM and its carrier have.
copies(Peer) ->
    [Beam, Carrier] = [sockets(OsPid) || OsPid <- [call(Peer, os, getpid, []), integer_to_list(handover_ct:carrier(Peer))]],
    [S || S <- Beam, lists:member(S, Carrier)].

sockets(OsPid) ->
    [Link || File <- filelib:wildcard("/proc/" ++ OsPid ++ "/fd/*"), {ok, "socket:" ++ Link} <- [file:read_link(File)]].

new_carrier(Peer, Old) ->
    case call(Peer, handover, info, []) of
        #{os_pid := Old} -> old;
        #{carrier := up, os_pid := OsPid} -> OsPid;
        Info -> Info
    end.

%% What only Now has; what ended meanwhile, like EPMD's end of the last probe, is no leak.
nothing_new(Before, Now) ->
    [N -- B || {B, N} <- lists:zip(Before, Now)] =:= [[] || _ <- Now] orelse {before, Before, now, Now}.

no_more(Before, Now) ->
    lists:all(fun({B, N}) -> N =< B end, lists:zip(Before, Now)) orelse {before, Before, now, Now}.

%% The result of Fun, or how the call ended.
exit_of(Fun) ->
    try Fun() catch exit:Reason -> {exit, Reason} end.
