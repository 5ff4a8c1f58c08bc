%% Functions that the suites call on their nodes.
-module(handover_ct_work).

-export([send_large/2, hash_of/1, echo_hash/1, link_and_monitor/1, start_peer/1, stop_peer/0, own_fds/0]).
-export([listening_port_count/0, registered_port/1, link_process/1]).
-export([flood/2, start_flood/2, packets_taken/1, count_packets_and_disconnect/1, is_suspended/1]).
-export([receive_until_nodedown/1]).
-export([connect_and_disconnect/2, connect_until_down/1, start_net_kernel/1, stop_and_start/2]).
-export([suspend_newest_keeper/0, dialling_keepers/0, kill_keepers/0, watched_keeper_count/0]).
-export([process/1, is_acceptor_waiting/0]).
-export([modules/0, reload/1, is_preloaded/0, handover_at_process_limit/2, kill_at_process_limit/2]).
-export([watch_nodeups/0, links_at_nodeup/2]).
-export([emit_events/1, log_each_kind/0, record_errors/0, recorded_errors/0, log/2]).

%% Sends a term of Size bytes to Node and returns the hash that was computed there.
send_large(Node, Size) ->
    Pid = spawn(Node, ?MODULE, echo_hash, [self()]),
    Pid ! {data, data(Size)},
    receive {Pid, Hash} -> Hash after 60000 -> no_answer end.

echo_hash(From) ->
    receive {data, Data} -> From ! {self(), hash(Data)} end.

hash_of(Size) -> hash(data(Size)).

hash(Data) -> erlang:md5(Data).

data(Size) -> << <<N:64>> || N <- lists:seq(1, Size div 8) >>.

%% Kills a process on Node and reports whether its link and its monitor here noticed.
link_and_monitor(Node) ->
    process_flag(trap_exit, true),
    Pid = spawn_link(Node, timer, sleep, [infinity]),
    Ref = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Ref, process, Pid, killed} ->
            receive {'EXIT', Pid, killed} -> {'DOWN', link_noticed} after 60000 -> {'DOWN', no_link} end
    after 60000 -> nothing
    end.

%% Starts a node with peer, over the distribution. Ends with stop_peer/0.
start_peer(Ebin) ->
    Starter = self(),
    Args = ["-proto_dist", "handover_tcp", "-start_epmd", "false", "-setcookie", "handover_ct", "-pa", Ebin],
    Owner = spawn(fun() ->
                          {ok, Peer, Node} = peer:start_link(#{name => p, host => "127.0.0.1", longnames => true,
                                                               args => Args}),
                          Starter ! {self(), Node},
                          receive {stop, From} -> ok = peer:stop(Peer), From ! {self(), ok} end
                  end),
    true = register(peer_owner, Owner),
    receive {Owner, Node} -> Node after 60000 -> no_peer end.

stop_peer() ->
    Owner = whereis(peer_owner),
    Owner ! {stop, self()},
    receive {Owner, Answer} -> Answer after 60000 -> no_answer end.

%% The kinds of this BEAM's open descriptors, once no module is being loaded. The lookup starts OTP's resolver, a port
%% program that would otherwise open descriptors later.
own_fds() ->
    handover_ct:until(fun() -> preloaders() =:= [] end),
    _ = inet:getaddr("localhost", inet),
    handover_ct:fds(list_to_integer(os:getpid())).

%% How many TCP sockets of this node listen.
listening_port_count() ->
    Ports = [P || P <- erlang:ports(), erlang:port_info(P, name) =:= {name, "tcp_inet"}],
    length([P || P <- Ports, {ok, Status} <- [prim_inet:getstatus(P)], lists:member(listen, Status)]).

%% The port with which EPMD has registered Name.
registered_port(Name) ->
    {ok, Names} = erl_epmd:names("127.0.0.1"),
    [Port] = [P || {N, P} <- Names, N =:= atom_to_list(Name)],
    Port.

%% The process of the link to Node.
link_process(Node) ->
    {ok, Info} = net_kernel:node_info(Node),
    proplists:get_value(owner, Info).

%% Sends Count numbered messages of 1 KiB to the process `receiver' on Node. Never opens a new link.
flood(Node, Count) ->
    Filler = binary:copy(<<0>>, 1024),
    _ = [erlang:send({receiver, Node}, {N, Filler}, [noconnect]) || N <- lists:seq(1, Count)],
    ok.

%% The same in a new process. The emulator suspends it if the queue of the link is full.
start_flood(Node, Count) -> spawn(?MODULE, flood, [Node, Count]).

%% How many packets the driver of the link to Node has taken.
packets_taken(Node) ->
    [Port] = [P || {N, P} <- erlang:system_info(dist_ctrl), N =:= Node],
    {ok, [{send_cnt, Count}]} = inet:getstat(Port, [send_cnt]),
    Count.

%% Closes the link to Node and returns the packets_taken/1 from directly before.
count_packets_and_disconnect(Node) ->
    Taken = packets_taken(Node),
    true = erlang:disconnect_node(Node),
    Taken.

%% Suspends the keeper of the newest connection that this node opened, for as long as the node lives. Returns its pid.
suspend_newest_keeper() ->
    Keeper = lists:max(dialling_keepers()),
    Self = self(),
    Suspender = spawn(fun() ->
                              true = erlang:suspend_process(Keeper),
                              Self ! {self(), suspended},
                              receive after infinity -> ok end
                      end),
    receive {Suspender, suspended} -> Keeper end.

dialling_keepers() -> [P || P <- processes(), started_by(P) =:= {handover_keeper, init_dial, 2}].

is_suspended(Pid) -> process_info(Pid, status) =:= {status, suspended}.

%% Receives a flood/2 until Node goes down. Returns how many messages came in sequence.
receive_until_nodedown(Node) ->
    true = register(receiver, self()),
    true = monitor_node(Node, true),
    Count = count_messages(Node, 0),
    true = unregister(receiver),
    Count.

count_messages(Node, Last) ->
    receive
        {N, _} when N =:= Last + 1 -> count_messages(Node, N);
        {nodedown, Node} -> Last
    after 60000 -> {no_nodedown, Last}
    end.

connect_and_disconnect(_Node, 0) ->
    ok;
connect_and_disconnect(Node, N) ->
    %% A connect fails until the other end has seen the last disconnect. This happens with inet_tcp too.
    handover_ct:until(fun() -> net_kernel:connect_node(Node) end),
    true = monitor_node(Node, true),
    true = erlang:disconnect_node(Node),
    receive {nodedown, Node} -> connect_and_disconnect(Node, N - 1) after 60000 -> {no_nodedown, N} end.

%% Connects and disconnects until EPMD no longer knows the node.
connect_until_down(Node) ->
    case handover:connect(Node) of
        {error, {no_such_node, _}} -> no_such_node;
        _ -> _ = erlang:disconnect_node(Node), connect_until_down(Node)
    end.

modules() ->
    _ = application:load(handover),
    {ok, Modules} = application:get_key(handover, modules),
    Modules.

reload(Module) ->
    code:purge(Module),
    code:load_file(Module).

%% Requests a handover to this node while it can start no process. Returns the first 4 bytes of the answer, and what
%% follows.
handover_at_process_limit(Port, Name) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    Pids = fill_process_table([]),
    try
        ok = gen_tcp:send(Socket, [<<(length(Name) + 1):16>>, "h", Name]),
        {gen_tcp:recv(Socket, 4, 60000), gen_tcp:recv(Socket, 0, 60000)}
    after
        [exit(P, kill) || P <- Pids]
    end.

%% Kills the carrier while this node can start no process, and keeps it so for Ms.
kill_at_process_limit(Carrier, Ms) ->
    Command = "read _ && kill -KILL " ++ integer_to_list(Carrier),
    Kill = open_port({spawn_executable, "/bin/sh"}, [{args, ["-c", Command]}, exit_status]),
    Pids = fill_process_table([]),
    true = port_command(Kill, "go\n"),
    [exit(P, kill) || P <- keep_process_table_full(Pids, erlang:monotonic_time(millisecond) + Ms)],
    ok.

%% Replaces processes that end meanwhile.
keep_process_table_full(Pids, Until) ->
    case erlang:monotonic_time(millisecond) < Until of
        true -> keep_process_table_full(fill_process_table(Pids), Until);
        false -> Pids
    end.

%% The pid of one of handover's processes on this node, or none.
process(guard) ->
    case whereis(handover_guard) of
        undefined -> none;
        Pid -> Pid
    end;
process(worker) ->
    linked(process(guard), fun(P) -> P =/= whereis(net_sup) end);
process(acceptor) ->
    linked(whereis(net_kernel), fun(P) -> started_by(P) =:= {handover_acceptor, init, 2} end);
process(accept_loop) ->
    linked(process(acceptor), fun(P) -> started_by(P) =:= {handover_acceptor, accept, 3} end).

%% Reports whether handover_acceptor waits for the answer to a call.
is_acceptor_waiting() ->
    {current_function, {M, _, _}} = process_info(process(acceptor), current_function),
    M =:= gen.

linked(none, _) ->
    none;
linked(Pid, Matches) ->
    case process_info(Pid, links) of
        {links, Links} -> hd([P || P <- Links, is_pid(P), Matches(P)] ++ [none]);
        undefined -> none
    end.

started_by(Pid) ->
    case process_info(Pid, initial_call) of
        {initial_call, Call} -> Call;
        undefined -> none
    end.

%% Starts a process that calls handover:info/1 for each node as soon as it is up.
watch_nodeups() ->
    Starter = self(),
    Watcher = spawn(fun() ->
                            ok = net_kernel:monitor_nodes(true),
                            Starter ! {self(), ready},
                            watch_nodeups([])
                    end),
    true = register(nodeup_watcher, Watcher),
    receive {Watcher, ready} -> ok end.

watch_nodeups(Links) ->
    receive
        {nodeup, Node} -> watch_nodeups([link_of(Node) | Links]);
        {get, From} -> From ! {nodeup_watcher, Links}, watch_nodeups(Links);
        _ -> watch_nodeups(Links)
    end.

%% Connects to Node and disconnects, Count times. Returns what watch_nodeups/0 on both nodes found at each nodeup. Each
%% disconnect waits until both have looked.
links_at_nodeup(Node, Count) ->
    lists:flatten([links_at_nodeup(Node) || _ <- lists:seq(1, Count)]).

links_at_nodeup(Node) ->
    handover_ct:until(fun() -> net_kernel:connect_node(Node) end),
    Links = [begin
                 {nodeup_watcher, Where} ! {get, self()},
                 receive {nodeup_watcher, All} -> hd(All ++ [none]) after 20000 -> no_answer end
             end || Where <- [node(), Node]],
    true = monitor_node(Node, true),
    true = erlang:disconnect_node(Node),
    receive {nodedown, Node} -> Links end.

link_of(Node) ->
    Info = handover:info(Node),
    {maps:get(via, Info, missing), maps:get(direction, Info, missing)}.

%% Emits Count events that differ in their node.
emit_events(Count) ->
    _ = [handover_event:emit(warning, setup_failed, #{node => list_to_atom("n@" ++ integer_to_list(N)), reason => timeout,
                                                     detail => <<>>, duration => 1}) || N <- lists:seq(1, Count)],
    ok.

%% Records the errors that are logged on this node from now on.
record_errors() ->
    Starter = self(),
    Recorder = spawn(fun() -> Starter ! {self(), ready}, record([]) end),
    true = register(error_recorder, Recorder),
    receive {Recorder, ready} -> ok end,
    logger:add_handler(?MODULE, ?MODULE, #{level => error}).

record(Messages) ->
    receive
        {get, From} -> From ! {self(), Messages}, record(Messages);
        Message -> record([Message | Messages])
    end.

recorded_errors() ->
    Recorder = whereis(error_recorder),
    Recorder ! {get, self()},
    receive {Recorder, Messages} -> Messages after 10000 -> no_answer end.

%% The logger handler of record_errors/0.
log(#{msg := Message}, _) ->
    error_recorder ! Message,
    ok.

%% Reports whether all modules that a node loads in the background after its start are loaded.
is_preloaded() ->
    is_tuple(code:is_loaded(handover_reporter)) andalso preloaders() =:= [].

preloaders() ->
    [P || P <- processes(), started_by(P) =:= {handover_dist, preload_modules, 0}].

%% Logs one message of each kind: crash reports, texts, reports, and handover's own. Returns after they are written.
log_each_kind() ->
    {Pid, Monitor} = spawn_monitor(fun() -> error(some_reason) end),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    Other = proc_lib:spawn(fun() -> ets:lookup(no_table, a_key) end),
    OtherMonitor = monitor(process, Other),
    receive {'DOWN', OtherMonitor, process, Other, _} -> ok end,
    logger:error("a text ~tp ~ts", [#{a => 1.5}, "ü"]),
    logger:error(#{label => {some, report}, reason => {badarg, []}}),
    error_logger:error_msg("** ~w **", [text]),
    handover_event:emit(warning, unsupported_option,
                        #{option => {a, make_ref()}, reason => {erlang:unique_integer(), einval}}),
    _ = logger_std_h:filesync(default),
    ok.

%% Starts and stops the distribution N times, and kills the guard each time in between.
stop_and_start(_, 0) ->
    ok;
stop_and_start(Name, N) ->
    start_net_kernel(list_to_atom(lists:concat([Name, N, "@127.0.0.1"]))),
    true = exit(whereis(handover_guard), kill),
    %% Half of the time the guard is still being restarted when the distribution stops, half of the time it is up.
    N rem 2 =:= 0 orelse handover_ct:until(fun() -> is_pid(process(worker)) end),
    case net_kernel:stop() of
        ok -> stop_and_start(Name, N - 1);
        Error -> {N, Error}
    end.

%% Starts the distribution. If net_sup took more than a second to stop before, as on a busy machine, OTP has killed it. For
%% a moment its children still have their names then, and a start fails.
start_net_kernel(Node) ->
    handover_ct:until(fun() ->
                              case net_kernel:start([Node, longnames]) of
                                  {ok, _} -> true;
                                  {error, Reason} -> Reason
                              end
                      end).

%% Starts processes until the limit is reached. Pids are those of earlier calls.
fill_process_table(Pids) ->
    try spawn(timer, sleep, [infinity]) of
        Pid -> fill_process_table([Pid | Pids])
    catch
        error:system_limit -> Pids
    end.

%% Kills all keepers of this node and returns how many there were.
kill_keepers() ->
    Keepers = [P || P <- processes(), is_keeper(process_info(P, [current_function, initial_call]))],
    [true = exit(P, kill) || P <- Keepers],
    length(Keepers).

%% How many keepers handover_closer monitors.
watched_keeper_count() ->
    {monitors, Monitors} = process_info(whereis(handover_closer), monitors),
    length(Monitors).

is_keeper([{current_function, {erlang, hibernate, 3}}, {initial_call, {handover_keeper, _, _}}]) -> true;
is_keeper(_) -> false.
