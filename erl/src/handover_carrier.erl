%% @doc Owns the carrier program and the fd socket: starts the program, sends it requests, and returns its answers and
%% the descriptors that it passes to this node.
%%
%% The process ends if the program ends, hangs, or sends a message that cannot be decoded. handover_guard then starts
%% another one.
-module(handover_carrier).

-behaviour(gen_server).

-export([start_link/3, register/2, keep_registered/2, connect/2, set_net_kernel/2, stop/1]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(HELLO_MS, 5000).
-define(STOP_MS, 300).
-define(REGISTER_MS, 12000).
-define(ANSWER_MARGIN_MS, 1000).
-define(REGISTER_RETRY_MS, 500).

-record(request, {from :: gen_server:from(),
                  monitor :: reference(),     % of the calling process
                  timer :: reference()}).

-record(st, {guard :: pid(),
             registration :: none | map(),              % what the node registers with EPMD
             net_kernel :: none | pid(),                % receives handed-over connections; none: the guard stores them
             port = none :: none | port(),
             os_pid = 0 :: non_neg_integer(),           % of the program
             fd_socket = none :: none | socket:socket(),
             fd_socket_name = <<>> :: binary(),         % of the fd socket and the lifeline
             closer_monitor :: reference() | undefined,
             next_id = 1 :: pos_integer(),
             register_id = none :: none | pos_integer(), % Id of a registration without a waiting caller
             last_register_error = none :: atom(),      % last error of such a registration; repetitions are not logged
             requests = #{} :: #{pos_integer() => #request{}}}).

%% @doc Starts the process and the program. If Registration is not `none', the node is registered with it. Handed-over
%% connections go to Kernel, the pid of net_kernel.
%%
%% Guard receives these casts: `{ready, self(), OsPid}' when the program is ready, `{epmd, handover | stock | down}'
%% when the registration changes, and `{handed_over, Fd, Connection}' for each connection that arrives while
%% net_kernel's pid is not known. The receiver must close Fd with handover_closer.
-spec start_link(pid(), none | map(), none | pid()) -> {ok, pid()} | {error, term()}.
start_link(Guard, Registration, Kernel) ->
    gen_server:start_link(?MODULE, {Guard, Registration, Kernel}, []).

%% @doc Registers the node with EPMD and returns its creation and the kind of EPMD. Waits up to 12 s. The reasons of
%% errors are those of handover_proto. Exits if the process ends before it answers.
-spec register(pid(), map()) -> {ok, integer(), handover | stock} | {error, atom(), binary()}.
register(CarrierPid, Registration) ->
    gen_server:call(CarrierPid, {register, Registration, ?REGISTER_MS}, infinity).

%% @doc Registers the node in the background. If that fails, it is tried again every 500 ms until it succeeds. When a
%% registration that succeeded is lost, the carrier program registers again by itself.
-spec keep_registered(pid(), map()) -> ok.
keep_registered(CarrierPid, Registration) ->
    gen_server:cast(CarrierPid, {keep_registered, Registration}).

%% @doc Has the carrier connect to an EPMD and send HANDOVER_REQ. The caller must close the fd with
%% handover_closer:close/2. If the caller ends before it has the fd, the request is cancelled and the fd is closed.
%% Waits 1 s longer than `timeout' of the request (ms), then returns `{error, timeout, _}'. Exits if the process ends
%% before it answers.
-spec connect(pid(), map()) -> {ok, non_neg_integer(), handover_proto:connection()} | {error, atom(), binary()}.
connect(CarrierPid, #{timeout := Timeout} = Request) ->
    gen_server:call(CarrierPid, {connect, Request, Timeout + ?ANSWER_MARGIN_MS}, infinity).

%% @doc Sets the pid of net_kernel, which receives the connections that are handed over from now on.
-spec set_net_kernel(pid(), pid()) -> ok.
set_net_kernel(CarrierPid, Kernel) ->
    gen_server:cast(CarrierPid, {set_net_kernel, Kernel}).

%% @doc Unregisters the node and stops the program. Returns after at most 600 ms, because net_sup waits only 900 ms for
%% the guard.
-spec stop(pid()) -> ok.
stop(CarrierPid) ->
    try gen_server:stop(CarrierPid, shutdown, 2 * ?STOP_MS) catch exit:_ -> ok end.

%% callbacks

%% @private
init({Guard, Registration, Kernel}) ->
    process_flag(trap_exit, true),
    {ok, #st{guard = Guard, registration = Registration, net_kernel = Kernel}, {continue, hello}}.

%% @private
handle_continue(hello, #st{guard = Guard} = S) ->
    case start_program(S) of
        {ok, #st{os_pid = OsPid} = Ready} ->
            gen_server:cast(Guard, {ready, self(), OsPid}),
            {noreply, receive_fds(register_node(attach_to_closer(Ready)))};
        {error, Reason, Failed} ->
            {stop, {shutdown, Reason}, Failed}
    end.

%% @private
handle_call({Command, Request, Timeout}, {Pid, _} = From, #st{next_id = Id, requests = Requests} = S)
  when Command =:= register; Command =:= connect ->
    send_command({Command, Id, Request}, S),
    Pending = #request{from = From, monitor = monitor(process, Pid),
                       timer = erlang:start_timer(Timeout, self(), {request_timeout, Id})},
    {noreply, S#st{next_id = Id + 1, requests = Requests#{Id => Pending}}};
handle_call(_, _From, S) ->
    {reply, {error, unknown_call}, S}.

%% @private
handle_cast({set_net_kernel, Kernel}, S) ->
    {noreply, S#st{net_kernel = Kernel}};
handle_cast({closed, Kind, Id}, S) ->
    send_command({closed, Kind, Id}, S),
    {noreply, S};
handle_cast({keep_registered, Registration}, S) ->
    {noreply, register_node(S#st{registration = Registration})};
handle_cast(_, S) ->
    {noreply, S}.

%% @private
handle_info({Port, {data, Frame}}, #st{port = Port} = S) ->
    case handover_proto:decode(Frame) of
        {ok, Message} -> {noreply, handle_message(Message, S)};
        {error, {bad_message, Bad}} ->
            handover_event:emit(error, bad_message, #{message => Bad}),
            {stop, {shutdown, bad_message}, S}
    end;
handle_info({'$socket', FdSocket, select, _}, #st{fd_socket = FdSocket} = S) ->
    {noreply, receive_fds(S)};
handle_info(fd_socket_closed, S) ->
    {stop, {shutdown, fd_socket_closed}, S};
handle_info({Port, hangs}, #st{port = Port} = S) ->
    {stop, {shutdown, hangs}, S};
handle_info({Port, {exit_status, Status}}, #st{port = Port} = S) ->
    {stop, {shutdown, {exit_status, Status}}, S#st{port = none}};
handle_info({'EXIT', Port, Reason}, #st{port = Port} = S) ->
    {stop, {shutdown, Reason}, S#st{port = none}};
handle_info({'EXIT', Guard, Reason}, #st{guard = Guard} = S) ->
    {stop, Reason, S};
handle_info({timeout, _, {request_timeout, Id}}, S) ->
    {noreply, answer(Id, {error, timeout, <<"the carrier did not answer">>}, cancel_request(Id, S))};
handle_info({'DOWN', Monitor, process, _, _}, #st{closer_monitor = Monitor} = S) ->
    {noreply, attach_to_closer(S)};
handle_info({'DOWN', Monitor, process, _, _}, #st{requests = Requests} = S) ->
    {noreply, caller_gone([Id || {Id, #request{monitor = M}} <- maps:to_list(Requests), M =:= Monitor], S)};
handle_info(register_node, S) ->
    {noreply, register_node(S)};
handle_info(_, S) ->
    {noreply, S}.

%% @private
terminate(_Reason, #st{port = none}) ->
    ok;
terminate(_Reason, #st{port = Port, os_pid = OsPid} = S) ->
    send_command(stop, S),
    receive
        {Port, {exit_status, _}} -> ok;
        {'EXIT', Port, _} -> ok
    after ?STOP_MS ->
            %% The program hangs, and its registration would keep the node's name. OsPid cannot belong to another
            %% program yet, because the port is still open.
            OsPid > 0 andalso kill(OsPid),
            ok
    end.

kill(OsPid) ->
    Kill = handover_program:open("/bin/sh", [{args, ["-c", "kill -KILL " ++ integer_to_list(OsPid)]}, exit_status]),
    receive
        {Kill, {exit_status, _}} -> true
    after ?STOP_MS -> false
    end.

%% internal: start

start_program(S) ->
    Program = handover_config:program("handover"),
    try handover_program:open(Program, [{args, ["port"]}, {packet, 4}, binary, exit_status, use_stdio]) of
        Port ->
            {os_pid, OsPid} = erlang:port_info(Port, os_pid),
            exchange_hello(S#st{port = Port, os_pid = OsPid})
    catch
        error:Reason -> {error, {Program, Reason}, S}
    end.

exchange_hello(S) ->
    send_command({hello, handover_proto:version(), hello_options()}, S),
    await_hello(S).

await_hello(#st{port = Port} = S) ->
    receive
        {Port, {data, Frame}} -> handle_hello(handover_proto:decode(Frame), S);
        {Port, {exit_status, Status}} -> {error, {exit_status, Status}, S#st{port = none}};
        {'EXIT', Port, Reason} -> {error, Reason, S#st{port = none}}
    after ?HELLO_MS ->
            {error, no_hello, S}
    end.

hello_options() ->
    Epmd = case handover_config:get(start_epmd) of
               true -> handover_config:program("epmd");
               false -> ""
           end,
    #{os_pid => list_to_integer(os:getpid()),            % of the BEAM: the program checks who connects to it
      epmd => unicode:characters_to_binary(Epmd),
      log_level => handover_config:get(log_level)}.

handle_hello({ok, {hello, Version, #{fd_socket := Name}}}, #st{os_pid = OsPid} = S) ->
    case Version =:= handover_proto:version() andalso handover_fd:connect(Name, OsPid) of
        {ok, FdSocket} -> {ok, S#st{fd_socket = FdSocket, fd_socket_name = Name}};
        {error, Reason} -> {error, {fd_socket, Reason}, S};
        false -> {error, {unknown_version, Version}, S}
    end;
handle_hello({ok, {log, Level, Text, Fields}}, S) ->
    log(Level, Text, Fields),
    await_hello(S);
handle_hello({ok, {refused, Reason, Detail}}, S) ->
    {error, {refused, Reason, Detail}, S};
handle_hello({_, Other}, S) ->
    {error, {bad_hello, Other}, S}.

%% If the program does not read its input, nosuspend keeps this process from being suspended too. The program is then
%% treated as one that has ended.
send_command(Command, #st{port = Port}) ->
    try port_command(Port, handover_proto:encode(Command), [nosuspend]) of
        true -> ok;
        false -> self() ! {Port, hangs}, ok
    catch
        error:badarg -> ok       % the port has ended: its 'EXIT' is in the mailbox
    end.

%% internal: messages from the program

handle_message({registered, Id, _Creation, Kind}, #st{register_id = Id} = S) ->
    report_registered(Kind, S),
    handover_event:emit(notice, epmd_up, #{kind => Kind}),
    S#st{register_id = none, last_register_error = none};
handle_message({registered, Id, Creation, Kind}, S) ->
    report_registered(Kind, S),
    answer(Id, {ok, Creation, Kind}, S);
%% With any error, not only if EPMD cannot be reached, the node is not registered. That is what epmd_down reports.
handle_message({error, Id, Reason, Detail}, #st{register_id = Id, last_register_error = LastError} = S) ->
    Reason =:= LastError
        orelse handover_event:emit(warning, epmd_down, #{detail => [atom_to_list(Reason), ": ", Detail]}),
    erlang:send_after(?REGISTER_RETRY_MS, self(), register_node),
    S#st{register_id = none, last_register_error = Reason};
handle_message({error, Id, Reason, Detail}, S) ->
    answer(Id, {error, Reason, Detail}, S);
handle_message({epmd, up, Kind}, S) ->
    report_registered(Kind, S),
    handover_event:emit(notice, epmd_up, #{kind => Kind}),
    S;
handle_message({epmd, down, Detail}, #st{guard = Guard} = S) ->
    gen_server:cast(Guard, {epmd, down}),
    handover_event:emit(warning, epmd_down, #{detail => Detail}),
    S;
handle_message({log, Level, Text, Fields}, S) ->
    log(Level, Text, Fields),
    S;
handle_message(Other, S) ->
    handover_event:emit(error, bad_message, #{message => Other}),
    S.

report_registered(Kind, #st{guard = Guard}) ->
    Kind =:= stock andalso handover_event:emit(warning, stock_epmd, #{port => handover_config:epmd_port()}),
    gen_server:cast(Guard, {epmd, Kind}).

log(Level, Text, Fields) ->
    handover_event:emit(Level, carrier_log, #{text => Text, fields => Fields}).

register_node(#st{registration = none} = S) ->
    S;
register_node(#st{registration = Registration, next_id = Id} = S) ->
    send_command({register, Id, Registration}, S),
    S#st{next_id = Id + 1, register_id = Id}.

%% internal: fds

%% handover_closer passes copies of the descriptors of this node's links to the new program.
attach_to_closer(#st{fd_socket = FdSocket, fd_socket_name = Name} = S) ->
    S#st{closer_monitor = handover_closer:attach_carrier(self(), FdSocket, Name)}.

receive_fds(#st{fd_socket = FdSocket} = S) ->
    case handover_fd:recv(FdSocket) of
        {ok, Header, Fd} ->
            receive_fds(deliver(parse_connection(Header), Fd, S));
        {no_fd, Header} ->
            handover_event:emit(error, bad_fd, #{reason => emfile}),
            receive_fds(fd_lost(parse_connection(Header), S));
        {fds, Header, Fds} ->
            lists:foreach(fun(Fd) -> handover_closer:close(Fd, #{}) end, Fds),
            fail_fd_socket({fds, length(Fds), Header}, S);
        select ->
            S;
        {error, closed} ->
            self() ! fd_socket_closed,
            S;
        {error, Reason} ->
            fail_fd_socket(Reason, S)
    end.

fail_fd_socket(Reason, S) ->
    handover_event:emit(error, bad_fd, #{reason => Reason}),
    self() ! fd_socket_closed,
    S.

%% The pid lets handover_closer report the close, so that the program can close its copy.
parse_connection(Header) ->
    case handover_proto:connection(Header) of
        {ok, Connection} -> {ok, Connection#{carrier => self()}};
        {error, _} = Error -> Error
    end.

deliver({ok, #{kind := handed_over} = Connection}, Fd, #st{net_kernel = none, guard = Guard} = S) ->
    gen_server:cast(Guard, {handed_over, Fd, Connection}),
    S;
deliver({ok, #{kind := handed_over} = Connection}, Fd, #st{net_kernel = Kernel} = S) ->
    handover_keeper:accept(Kernel, Fd, Connection),
    S;
deliver({ok, #{kind := asked, id := Id} = Connection}, Fd, #st{requests = Requests} = S)
  when is_map_key(Id, Requests) ->
    #{Id := #request{from = {Keeper, _}}} = Requests,
    handover_closer:hold(Keeper, Fd, Connection),
    answer(Id, {ok, Fd, Connection}, S);
deliver({ok, #{kind := asked} = Connection}, Fd, S) ->
    handover_closer:close(Fd, Connection),           % the caller has ended, or the request timed out
    S;
deliver({error, Reason}, Fd, S) ->
    handover_event:emit(error, bad_fd, #{reason => Reason}),
    handover_closer:close(Fd, #{}),
    S.

fd_lost({ok, #{kind := Kind, id := Id}}, S) ->
    send_command({closed, Kind, Id}, S),
    case Kind of
        asked -> answer(Id, {error, overloaded, <<"this node has too many open files">>}, S);
        handed_over -> S
    end;
fd_lost({error, _}, S) ->
    S.

%% internal: pending requests

answer(Id, Answer, #st{requests = Requests} = S) ->
    case maps:take(Id, Requests) of
        {#request{from = From, monitor = Monitor, timer = Timer}, Rest} ->
            demonitor(Monitor, [flush]),
            _ = erlang:cancel_timer(Timer),
            gen_server:reply(From, Answer),
            S#st{requests = Rest};
        error ->
            S
    end.

cancel_request(Id, S) ->
    send_command({cancel, Id}, S),
    S.

caller_gone(Ids, S) ->
    lists:foldl(fun(Id, #st{requests = Requests} = Acc) ->
                        {#request{timer = Timer}, Rest} = maps:take(Id, Requests),
                        _ = erlang:cancel_timer(Timer),
                        cancel_request(Id, Acc#st{requests = Rest})
                end, S, Ids).
