%% The end of links: the peer notices at once, data that was sent arrives, and no descriptor stays open. Each case of
%% the groups runs with inet_tcp first, which shows that it asks for no more than what OTP does, and then with handover.
-module(handover_close_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, call/5, name/1]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 3}}].

all() ->
    [{group, inet_tcp}, {group, handover_tcp}, thousand_links, killed_keeper, keeper_killed_with_an_fd, killed_closer,
     killed_closer_and_keeper, links_of_an_earlier_carrier].

groups() ->
    Cases = [disconnected, busy_dirty_schedulers, killed_node, halted_node, killed_link_process, sent_data_arrives,
             full_queue_of_a_stopped_peer, stopped_distribution],
    [{inet_tcp, [], Cases}, {handover_tcp, [], Cases}].

init_per_group(Proto, Config) -> [{proto, atom_to_list(Proto)} | Config].
end_per_group(_, _) -> ok.

%% Runs Fun(A, B, Before) with A linked to B: once with a link that A opened, once with one that B opened. Before has
%% the descriptors of A and of B before the link.
both_directions(Config, Fun) ->
    Port = handover_ct:free_port(),
    Options = #{proto => ?config(proto, Config), args => proplists:get_value(args, Config, [])},
    with_cluster(handover, [], Port,
      fun() ->
              [handover_ct:with_nodes([{a, Options}, {b, Options}], Port,
                 fun(A, B) ->
                         Before = [handover_ct:own_fds(P) || P <- [A, B]],
                         case Initiator of
                             a -> handover_ct:connect(A, B);
                             b -> handover_ct:connect(B, A)
                         end,
                         Fun(A, B, Before)
                 end) || Initiator <- [a, b]]
      end).

disconnected(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, FdsB]) ->
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% A file operation that hangs, as with a dead NFS server, does not delay the end of a link.
busy_dirty_schedulers(Config) ->
    Fifo = filename:join(?config(priv_dir, Config), "fifo"),
    _ = file:delete(Fifo),
    "" = os:cmd("mkfifo " ++ Fifo),
    both_directions([{args, ["+SDio", "1"]} | Config],
      fun(A, B, [FdsA, FdsB]) ->
              _ = [call(A, code, ensure_loaded, [M]) || M <- [handover_fd, handover_closer]],
              Pid = call(A, erlang, spawn, [prim_file, open, [Fifo, [read]]]),   % hangs until there is a writer
              handover_ct:until(fun() -> is_opening(A, Pid) end),
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              {ok, File} = file:open(Fifo, [write, raw]),
              ok = file:close(File),
              handover_ct:await_own_fds(B, FdsB),
              handover_ct:await_own_fds(A, FdsA)
      end).

%% Reports whether Pid occupies the node's only dirty scheduler for files.
is_opening(Peer, Pid) ->
    call(Peer, erlang, process_info, [Pid, [status, current_function]])
        =:= [{status, running}, {current_function, {prim_file, open_nif, 2}}].

killed_node(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, _]) ->
              handover_ct:signal(handover_ct:beam_os_pid(B), "KILL"),
              handover_ct:await_no_nodes(A),
              handover_ct:await_own_fds(A, FdsA)
      end).

halted_node(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, _]) ->
              result_or_exit(fun() -> call(B, erlang, halt, [0, [{flush, false}]]) end),
              handover_ct:await_no_nodes(A),
              handover_ct:await_own_fds(A, FdsA)
      end).

killed_link_process(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, FdsB]) ->
              true = call(A, erlang, exit, [call(A, handover_ct_work, link_process, [name(B)]), kill]),
              handover_ct:await_no_nodes(B),
              handover_ct:await_no_nodes(A),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% Everything that the driver had taken before the disconnect arrives. What the emulator still queues is lost, as with
%% inet_tcp.
sent_data_arrives(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, FdsB]) ->
              Receiver = start_receiver(A, B),
              Before = call(A, handover_ct_work, packets_taken, [name(B)]),
              ok = call(A, handover_ct_work, flood, [name(B), 20000]),
              Taken = call(A, handover_ct_work, count_packets_and_disconnect, [name(B)]),
              assert_received(Receiver, Taken - Before),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% The peer is stopped and all buffers are full. When it continues, it gets what the driver had taken, and then
%% nodedown.
full_queue_of_a_stopped_peer(Config) ->
    both_directions(Config,
      fun(A, B, [FdsA, FdsB]) ->
              Receiver = start_receiver(A, B),
              Node = name(B),
              Before = call(A, handover_ct_work, packets_taken, [Node]),
              OsPid = handover_ct:beam_os_pid(B),
              handover_ct:signal(OsPid, "STOP"),
              Sender = call(A, handover_ct_work, start_flood, [Node, 20000]),
              handover_ct:until(fun() -> call(A, handover_ct_work, is_suspended, [Sender]) end),
              Taken = call(A, handover_ct_work, count_packets_and_disconnect, [Node]),
              handover_ct:await_no_nodes(A),
              handover_ct:signal(OsPid, "CONT"),
              assert_received(Receiver, Taken - Before),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

stopped_distribution(Config) ->
    Options = #{proto => ?config(proto, Config)},
    with_cluster(handover, [{a, Options}, {b, Options#{undistributed => true}}], handover_ct:free_port(),
      fun(A, B) ->
              ok = call(B, handover_ct_work, start_net_kernel, ['b@127.0.0.1']),
              handover_ct:connect(A, B),
              ?assertEqual(ok, call(B, net_kernel, stop, [])),
              handover_ct:await_no_nodes(A)
      end).

%% Starts a process on B that counts the messages from A until nodedown. assert_received/2 waits for the count.
start_receiver(A, B) ->
    Self = self(),
    Ref = make_ref(),
    Count = fun() -> call(B, handover_ct_work, receive_until_nodedown, [name(A)], 600000) end,
    spawn(fun() -> Self ! {Ref, result_or_exit(Count)} end),
    handover_ct:until(fun() -> is_pid(call(B, erlang, whereis, [receiver])) end),
    Ref.

assert_received(Ref, AtLeast) ->
    Received = receive {Ref, Answer} -> Answer end,
    ?assert(is_integer(Received) andalso Received > 0 andalso Received >= AtLeast,
            {received, Received, taken, AtLeast}).

%% After 1000 links, nothing of them is left in EPMD, the carriers and the BEAMs.
thousand_links(_Config) ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    %% never: a process of rpc asks each new node for its features, and would connect again after a disconnect.
    Options = #{epmd_port => Port, args => ["-kernel", "dist_auto_connect", "never"]},
    [A, B] = [handover_ct:start_node(N, Options) || N <- [a, b]],
    try
        ok = call(A, handover_ct_work, connect_and_disconnect, [name(B), 5]),
        OsPids = [handover_ct:epmd_os_pid(Epmd), handover_ct:carrier_os_pid(A), handover_ct:carrier_os_pid(B),
                  handover_ct:beam_os_pid(A), handover_ct:beam_os_pid(B)],
        Before = [{P, handover_ct:fds(P)} || P <- OsPids],
        Processes = [{P, call(P, erlang, system_info, [process_count])} || P <- [A, B]],
        ok = call(A, handover_ct_work, connect_and_disconnect, [name(B), 1000], 900000),
        [handover_ct:await_fds(P, Fds) || {P, Fds} <- Before],
        [handover_ct:until(fun() ->
                                   Now = call(P, erlang, system_info, [process_count]),
                                   Now =< Count orelse {before, Count, now, Now}
                           end) || {P, Count} <- Processes]
    after
        [handover_ct:stop_node(P) || P <- [A, B]],
        handover_ct:stop_epmd(Epmd)
    end.

%% If the keeper of a link is killed, another one takes its place.
killed_keeper(Config) ->
    both_directions([{proto, "handover_tcp"} | Config],
      fun(A, B, [FdsA, FdsB]) ->
              [?assertEqual(1, call(P, handover_ct_work, kill_keepers, [])) || P <- [A, B]],
              ?assertEqual(pong, call(A, net_adm, ping, [name(B)])),
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% The keeper of a connection is killed when the carrier has passed it the descriptor, and it has done nothing with it yet.
keeper_killed_with_an_fd(_) ->
    with_cluster(handover, [a, b], handover_ct:free_port(),
      fun(A, B) ->
              handover_ct:connect(A, B),
              handover_ct:disconnect(A, B),                    % so that EPMD's channel to B is there
              Carrier = handover_ct:carrier_os_pid(A),
              Before = handover_ct:own_fds(A),
              CarrierBefore = handover_ct:fds(Carrier),
              handover_ct:signal(Carrier, "STOP"),
              Self = self(),
              Connect = spawn_link(fun() -> Self ! {self(), call(A, handover, connect, [name(B)])} end),
              handover_ct:until(fun() -> call(A, handover_ct_work, dialling_keepers, []) =/= [] end),
              Keeper = call(A, handover_ct_work, suspend_newest_keeper, []),
              handover_ct:signal(Carrier, "CONT"),
              handover_ct:until(fun() ->
                                        {message_queue_len, N} = call(A, erlang, process_info, [Keeper, message_queue_len]),
                                        N > 0
                                end),
              true = call(A, erlang, exit, [Keeper, kill]),
              ?assertMatch({error, {closed, _}}, receive {Connect, Result} -> Result end),
              handover_ct:await_own_fds(A, Before),
              handover_ct:until(fun() -> handover_ct:fds(Carrier) -- CarrierBefore =:= [] end)
      end).

%% If handover_closer is killed, another one takes its place.
killed_closer(Config) ->
    both_directions([{proto, "handover_tcp"} | Config],
      fun(A, B, [FdsA, FdsB]) ->
              [true = call(P, erlang, exit, [call(P, erlang, whereis, [handover_closer]), kill]) || P <- [A, B]],
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% The keepers tell a new handover_closer what they own, so that it can replace them.
killed_closer_and_keeper(Config) ->
    both_directions([{proto, "handover_tcp"} | Config],
      fun(A, B, [FdsA, FdsB]) ->
              [begin
                   Closer = call(P, erlang, whereis, [handover_closer]),
                   true = call(P, erlang, exit, [Closer, kill]),
                   handover_ct:until(fun() -> not lists:member(call(P, erlang, whereis, [handover_closer]),
                                                               [undefined, Closer]) end),
                   %% It monitors a keeper as soon as it knows what the keeper owns.
                   handover_ct:until(fun() -> call(P, handover_ct_work, watched_keeper_count, []) =:= 1 end),
                   ?assertEqual(1, call(P, handover_ct_work, kill_keepers, []))
               end || P <- [A, B]],
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:await_own_fds(B, FdsB)
      end).

%% A new carrier gets copies of the existing links. It closes a copy when the BEAM has closed the link, and shuts the
%% links down when the BEAM ends.
links_of_an_earlier_carrier(Config) ->
    both_directions([{proto, "handover_tcp"} | Config],
      fun(A, B, [FdsA, _]) ->
              [begin
                   ?assertMatch([_], copies(P)),
                   Carrier = handover_ct:carrier_os_pid(P),
                   handover_ct:signal(Carrier, "KILL"),
                   handover_ct:until(fun() -> is_integer(new_carrier(P, Carrier)) end),
                   handover_ct:until(fun() -> length(copies(P)) =:= 1 end)
               end || P <- [A, B]],
              ?assertEqual(true, call(A, erlang, disconnect_node, [name(B)])),
              handover_ct:await_no_nodes(B),
              [handover_ct:until(fun() -> copies(P) =:= [] end) || P <- [A, B]],
              handover_ct:await_own_fds(A, FdsA),
              handover_ct:connect(A, B),
              result_or_exit(fun() -> call(B, erlang, halt, []) end),
              handover_ct:await_no_nodes(A)
      end).

%% The sockets that both the BEAM and its carrier have.
copies(Peer) ->
    [Beam, Carrier] = [sockets(OsPid) || OsPid <- [handover_ct:beam_os_pid(Peer), handover_ct:carrier_os_pid(Peer)]],
    [S || S <- Beam, lists:member(S, Carrier)].

sockets(OsPid) ->
    [Link || File <- filelib:wildcard(lists:concat(["/proc/", OsPid, "/fd/*"])),
             {ok, "socket:" ++ Link} <- [file:read_link(File)]].

%% The pid of the carrier that has replaced Old, or another term.
new_carrier(Peer, Old) ->
    case call(Peer, handover, info, []) of
        #{os_pid := Old} -> old;
        #{carrier := up, os_pid := OsPid} -> OsPid;
        Info -> Info
    end.

%% The result of Fun, or its exit reason.
result_or_exit(Fun) ->
    try Fun() catch exit:Reason -> {exit, Reason} end.
