%% What the suites let nodes do themselves.
-module(handover_ct_work).

-export([send_large/2, hash_of/1, echo_hash/1, link_and_monitor/1, start_peer/1, stop_peer/0, own_fds/0, kill_keepers/0, watched/0,
         listening_ports/0, port_of/1, flood/2, flood_later/2, packets_taken/1,
         packets_taken_and_disconnect/1, is_suspended/1, receive_until_nodedown/1, con_pid/1,
         connect_and_disconnect/2, connect_until_down/1, suspend_newest_keeper/0,
         modules/0, reload/1, handover_at_process_limit/2, kill_at_process_limit/2, process/1, stop_and_start/2, ask_at_nodeup/0,
         asked_at_nodeup/2, log_events/1,
         log_reports/0, is_preloaded/0, keep_reports/0, kept_reports/0, log/2]).

%% Sends a term of Size bytes there and gives the hash that the other side found.
send_large(Node, Size) ->
    Pid = spawn(Node, ?MODULE, echo_hash, [self()]),
    Pid ! {data, data(Size)},
    receive {Pid, Hash} -> Hash after 60000 -> no_answer end.

echo_hash(From) ->
    receive {data, Data} -> From ! {self(), hash(Data)} end.

hash_of(Size) -> hash(data(Size)).

hash(Data) -> erlang:md5(Data).

data(Size) -> << <<N:64>> || N <- lists:seq(1, Size div 8) >>.

%% A process there dies: both the link and the monitor here must say so.
link_and_monitor(Node) ->
    process_flag(trap_exit, true),
    Pid = spawn_link(Node, timer, sleep, [infinity]),
    Ref = monitor(process, Pid),
    exit(Pid, kill),
    receive {'DOWN', Ref, process, Pid, killed} ->
            receive {'EXIT', Pid, killed} -> {'DOWN', link_noticed} after 60000 -> {'DOWN', no_link} end
    after 60000 -> nothing
    end.

start_peer(Ebin) ->
    Starter = self(),
    Keeper = spawn(fun() ->
                       {ok, Peer, Node} = peer:start_link(#{name => p, host => "127.0.0.1", longnames => true,
                                                            args => ["-proto_dist", "handover_tcp", "-start_epmd", "false",
                                                                     "-setcookie", "handover_ct", "-pa", Ebin]}),
                       Starter ! {self(), Node},
                       receive {stop, From} -> ok = peer:stop(Peer), From ! {self(), ok} end
               end),
    true = register(peer_keeper, Keeper),
    receive {Keeper, Node} -> Node after 60000 -> no_peer end.

stop_peer() ->
    Keeper = whereis(peer_keeper),
    Keeper ! {stop, self()},
    receive {Keeper, Answer} -> Answer after 60000 -> no_answer end.

%% The open fds of this node by kind, when nothing is being loaded. OTP's resolver is a port program that starts with the first
%% question: ask one.
own_fds() ->
    handover_ct:until(fun() -> preloaders() =:= [] end),
    _ = inet:getaddr("localhost", inet),
    {ok, Numbers} = file:list_dir("/proc/self/fd"),
    Links = [element(2, file:read_link("/proc/self/fd/" ++ N)) || N <- Numbers],
    lists:sort([hd(string:split(L, ":[")) || L <- Links, is_list(L)]).

listening_ports() ->
    Ports = [P || P <- erlang:ports(), erlang:port_info(P, name) =:= {name, "tcp_inet"}],
    length([P || P <- Ports, {ok, Status} <- [prim_inet:getstatus(P)], lists:member(listen, Status)]).

port_of(Name) ->
    {ok, Names} = erl_epmd:names("127.0.0.1"),
    {ok, [{N, P} || {N, P} <- Names, N =:= atom_to_list(Name)]}.

%% The process of the link to Node.
con_pid(Node) ->
    {ok, Info} = net_kernel:node_info(Node),
    proplists:get_value(owner, Info).

%% Sends Count numbered messages of 1 KiB to the process `receiver' on Node, over the link there is and no other.
flood(Node, Count) ->
    Filler = binary:copy(<<0>>, 1024),
    _ = [erlang:send({receiver, Node}, {N, Filler}, [noconnect]) || N <- lists:seq(1, Count)],
    ok.

%% The same in a process of its own, which is suspended when the link's queue is full.
flood_later(Node, Count) -> spawn(?MODULE, flood, [Node, Count]).

%% Packets that the driver of the link to Node has taken.
packets_taken(Node) ->
    [Port] = [P || {N, P} <- erlang:system_info(dist_ctrl), N =:= Node],
    {ok, [{send_cnt, Count}]} = inet:getstat(Port, [send_cnt]),
    Count.

%% Closes the link; what the driver had taken by then.
packets_taken_and_disconnect(Node) ->
    Taken = packets_taken(Node),
    true = erlang:disconnect_node(Node),
    Taken.

%% The process that closes the fd of the newest connection made from here sleeps as long as the node lives.
suspend_newest_keeper() ->
    Keeper = lists:max([P || P <- processes(), process_info(P, initial_call) =:= {initial_call, {handover_keeper, init_dial, 2}}]),
    Self = self(),
    Suspender = spawn(fun() ->
                              true = erlang:suspend_process(Keeper),
                              Self ! {self(), asleep},
                              receive after infinity -> ok end
                      end),
    receive {Suspender, asleep} -> ok end.

is_suspended(Pid) -> process_info(Pid, status) =:= {status, suspended}.

%% Registers as receiver; the number of messages in a row that came until Node went down.
receive_until_nodedown(Node) ->
    true = register(receiver, self()),
    true = monitor_node(Node, true),
    Got = collect(Node, 0),
    true = unregister(receiver),
    Got.

collect(Node, Last) ->
    receive
        {N, _} when N =:= Last + 1 -> collect(Node, N);
        {nodedown, Node} -> Last
    after 60000 -> {no_nodedown, Last}
    end.

connect_and_disconnect(_Node, 0) ->
    ok;
connect_and_disconnect(Node, N) ->
    %% false: the other end has not seen the last disconnect yet, as may happen with inet_tcp
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

%% Asks EPMD to be handed over to this very node when it can't make another process; what came, and what then.
handover_at_process_limit(Port, Name) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    Pids = all_processes([]),
    try
        ok = gen_tcp:send(Socket, [<<(length(Name) + 1):16>>, "h", Name]),
        {gen_tcp:recv(Socket, 4, 60000), gen_tcp:recv(Socket, 0, 60000)}
    after
        [exit(P, kill) || P <- Pids]
    end.

%% Kills the carrier and goes on for so long at the limit.
kill_at_process_limit(Carrier, Ms) ->
    Kill = open_port({spawn_executable, "/bin/sh"}, [{args, ["-c", "read _ && kill -KILL " ++ integer_to_list(Carrier)]}, exit_status]),
    Full = all_processes([]),
    true = port_command(Kill, "go\n"),
    [exit(P, kill) || P <- stay_full(Full, erlang:monotonic_time(millisecond) + Ms)],
    ok.

%% What ends meanwhile makes no room.
stay_full(Pids, Until) ->
    case erlang:monotonic_time(millisecond) < Until of
        true -> stay_full(all_processes(Pids), Until);
        false -> Pids
    end.

%% A process of handover's in this node.
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
    linked(process(acceptor), fun(P) -> started_by(P) =:= {handover_acceptor, accept, 3} end);
%% Does the acceptor wait for an answer?
process(acceptor_waits) ->
    {current_function, {M, _, _}} = process_info(process(acceptor), current_function),
    M =:= gen.

linked(none, _) ->
    none;
linked(Pid, Which) ->
    case process_info(Pid, links) of
        {links, Links} -> hd([P || P <- Links, is_pid(P), Which(P)] ++ [none]);
        undefined -> none
    end.

started_by(Pid) ->
    case process_info(Pid, initial_call) of
        {initial_call, Call} -> Call;
        undefined -> none
    end.

%% Asks how each node is connected, as soon as it is up.
ask_at_nodeup() ->
    Starter = self(),
    Asker = spawn(fun() ->
                          ok = net_kernel:monitor_nodes(true),
                          Starter ! {self(), ready},
                          ask([])
                  end),
    true = register(nodeup_asker, Asker),
    receive {Asker, ready} -> ok end.

ask(Answers) ->
    receive
        {nodeup, Node} -> ask([link_of(Node) | Answers]);
        {answer, From} -> From ! {nodeup_asker, Answers}, ask(Answers);
        _ -> ask(Answers)
    end.

%% Connects and disconnects so many times, not before the askers of both nodes have asked. What they were told.
asked_at_nodeup(Node, Count) ->
    lists:flatten([asked_at_nodeup(Node) || _ <- lists:seq(1, Count)]).

asked_at_nodeup(Node) ->
    handover_ct:until(fun() -> net_kernel:connect_node(Node) end),
    Answers = [begin
                   {nodeup_asker, Where} ! {answer, self()},
                   receive {nodeup_asker, All} -> hd(All ++ [none]) after 20000 -> no_answer end
               end || Where <- [node(), Node]],
    true = monitor_node(Node, true),
    true = erlang:disconnect_node(Node),
    receive {nodedown, Node} -> Answers end.

link_of(Node) ->
    Info = handover:info(Node),
    {maps:get(via, Info, missing), maps:get(direction, Info, missing)}.

log_events(Count) ->
    _ = [handover_event:emit(warning, setup_failed, #{node => list_to_atom("n@" ++ integer_to_list(N)), reason => timeout,
                                                     detail => <<>>, duration => 1}) || N <- lists:seq(1, Count)],
    ok.

%% Keeps the errors that are logged from now on.
keep_reports() ->
    Starter = self(),
    Keeper = spawn(fun() -> Starter ! {self(), ready}, keep([]) end),
    true = register(report_keeper, Keeper),
    receive {Keeper, ready} -> ok end,
    logger:add_handler(?MODULE, ?MODULE, #{level => error}).

keep(Reports) ->
    receive
        {get, From} -> From ! {self(), Reports}, keep(Reports);
        Report -> keep([Report | Reports])
    end.

kept_reports() ->
    Keeper = whereis(report_keeper),
    Keeper ! {get, self()},
    receive {Keeper, Reports} -> Reports after 10000 -> no_answer end.

log(#{msg := Message}, _) ->
    report_keeper ! Message,
    ok.

%% Has everything been loaded that is loaded when the node is up?
is_preloaded() ->
    is_tuple(code:is_loaded(handover_reporter)) andalso preloaders() =:= [].

preloaders() ->
    [P || P <- processes(), started_by(P) =:= {handover_dist, preload, 0}].

%% What nodes log: OTP's reports and ours. Does not return before they are written.
log_reports() ->
    {Pid, Monitor} = spawn_monitor(fun() -> error(some_reason) end),
    receive {'DOWN', Monitor, process, Pid, _} -> ok end,
    Other = proc_lib:spawn(fun() -> ets:lookup(no_table, a_key) end),
    OtherMonitor = monitor(process, Other),
    receive {'DOWN', OtherMonitor, process, Other, _} -> ok end,
    logger:error("a text ~tp ~ts", [#{a => 1.5}, "ü"]),
    logger:error(#{label => {some, report}, reason => {badarg, []}}),
    error_logger:error_msg("** ~w **", [text]),
    handover_event:emit(warning, unsupported_option, #{option => {a, make_ref()}, reason => {erlang:unique_integer(), einval}}),
    _ = logger_std_h:filesync(default),
    ok.

%% Starts and stops the distribution so many times, and kills the guard meanwhile.
stop_and_start(_, 0) ->
    ok;
stop_and_start(Name, N) ->
    {ok, _} = net_kernel:start([list_to_atom(lists:concat([Name, N, "@127.0.0.1"])), longnames]),
    true = exit(whereis(handover_guard), kill),
    %% every other time it is being started again, or is there, when all stops
    N rem 2 =:= 0 orelse handover_ct:until(fun() -> is_pid(process(worker)) end),
    case net_kernel:stop() of
        ok -> stop_and_start(Name, N - 1);
        Error -> {N, Error}
    end.

all_processes(Pids) ->
    try spawn(timer, sleep, [infinity]) of
        Pid -> all_processes([Pid | Pids])
    catch
        error:system_limit -> Pids
    end.

%% Kills the processes that keep links' descriptors, and returns how many there were.
kill_keepers() ->
    Keepers = [P || P <- processes(), is_keeper(process_info(P, [current_function, initial_call]))],
    [true = exit(P, kill) || P <- Keepers],
    length(Keepers).

%% How many keepers handover_closer watches.
watched() ->
    {monitors, Monitors} = process_info(whereis(handover_closer), monitors),
    length(Monitors).

is_keeper([{current_function, {erlang, hibernate, 3}}, {initial_call, {handover_keeper, _, _}}]) -> true;
is_keeper(_) -> false.
