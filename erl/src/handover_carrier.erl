%% @doc The worker: owns the carrier program and the fd socket, speaks the control protocol, matches answers to questions
%% by Id. It ends when the program ends or says what this version does not know; handover_guard starts another.
-module(handover_carrier).

-behaviour(gen_server).

-export([start_link/3, register/2, keep/2, connect/2, accept/2, stop/1]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(HELLO_MS, 5000).
-define(STOP_MS, 300).
-define(REGISTER_MS, 12000).
-define(ANSWER_MARGIN_MS, 1000).
-define(AGAIN_MS, 500).

-record(asked, {from :: gen_server:from(),
                monitor :: reference(),       % of the asking process
                timer :: reference()}).

-record(st, {guard :: pid(),
             registration :: none | map(),     % to register again after a restart of ours
             kernel :: none | pid(),           % who takes connections that are handed over; none: the guard keeps them
             port = none :: none | port(),
             os_pid = 0 :: non_neg_integer(),
             fds = none :: none | socket:socket(),
             name = <<>> :: binary(),                   % of the fd socket and the lifeline
             closer :: reference() | undefined,         % monitor of handover_closer
             next = 1 :: pos_integer(),
             register = none :: none | pos_integer(),   % Id of a registration that nobody waits for
             last_register_error = none :: atom(),               % why that failed last: each reason is logged once
             asked = #{} :: #{pos_integer() => #asked{}}}).

%% @doc Starts the program. Guard is cast `{ready, Worker, OsPid}' when both have said hello, `{epmd, handover | stock | down}' when
%% the registration has changed, and `{handed_over, Fd, Connection}' for each connection before {@link accept/2}.
-spec start_link(pid(), none | map(), none | pid()) -> {ok, pid()} | {error, term()}.
start_link(Guard, Registration, Kernel) ->
    gen_server:start_link(?MODULE, {Guard, Registration, Kernel}, []).

-spec register(pid(), map()) -> {ok, integer(), handover | stock} | {error, atom(), binary()}.
register(Worker, Registration) ->
    gen_server:call(Worker, {register, Registration, ?REGISTER_MS}, infinity).

%% @doc Registers the node when it can, and again whenever that becomes necessary; nobody waits for it.
-spec keep(pid(), map()) -> ok.
keep(Worker, Registration) ->
    gen_server:cast(Worker, {keep, Registration}).

%% @doc The fd is the caller's to close. When the caller dies first, it is closed here.
-spec connect(pid(), map()) -> {ok, non_neg_integer(), handover_proto:connection()} | {error, atom(), binary()}.
connect(Worker, #{timeout := Timeout} = Request) ->
    gen_server:call(Worker, {connect, Request, Timeout + ?ANSWER_MARGIN_MS}, infinity).

%% @doc From now on connections that are handed over go to Kernel.
-spec accept(pid(), pid()) -> ok.
accept(Worker, Kernel) ->
    gen_server:cast(Worker, {accept, Kernel}).

%% @doc Unregisters the node and ends the program, in less than net_sup's patience.
-spec stop(pid()) -> ok.
stop(Worker) ->
    try gen_server:stop(Worker, shutdown, 2 * ?STOP_MS) catch exit:_ -> ok end.

%% callbacks

%% @private
init({Guard, Registration, Kernel}) ->
    process_flag(trap_exit, true),
    {ok, #st{guard = Guard, registration = Registration, kernel = Kernel}, {continue, hello}}.

%% @private
handle_continue(hello, #st{guard = Guard} = S) ->
    case hello(S) of
        {ok, #st{os_pid = OsPid} = Ready} ->
            gen_server:cast(Guard, {ready, self(), OsPid}),
            {noreply, receive_fds(register_again(copy_links(Ready)))};
        {error, Reason, Failed} ->
            {stop, {shutdown, Reason}, Failed}
    end.

%% @private
handle_call({Command, Request, Timeout}, {Pid, _} = From, #st{next = Id, asked = Asked} = S)
  when Command =:= register; Command =:= connect ->
    command({Command, Id, Request}, S),
    Question = #asked{from = From, monitor = monitor(process, Pid),
                      timer = erlang:start_timer(Timeout, self(), {late, Id})},
    {noreply, S#st{next = Id + 1, asked = Asked#{Id => Question}}};
handle_call(_, _From, S) ->
    {reply, {error, unknown_call}, S}.

%% @private
handle_cast({accept, Kernel}, S) ->
    {noreply, S#st{kernel = Kernel}};
handle_cast({closed, Kind, Id}, S) ->
    command({closed, Kind, Id}, S),
    {noreply, S};
handle_cast({keep, Registration}, S) ->
    {noreply, register_again(S#st{registration = Registration})};
handle_cast(_, S) ->
    {noreply, S}.

%% @private
handle_info({Port, {data, Frame}}, #st{port = Port} = S) ->
    case handover_proto:decode(Frame) of
        {ok, Event} -> {noreply, event(Event, S)};
        {error, {bad_message, Message}} ->
            handover_event:emit(error, bad_message, #{message => Message}),
            {stop, {shutdown, bad_message}, S}
    end;
handle_info({'$socket', Fds, select, _}, #st{fds = Fds} = S) ->
    {noreply, receive_fds(S)};
handle_info(fds_closed, S) ->
    {stop, {shutdown, fd_socket_closed}, S};
handle_info({Port, hangs}, #st{port = Port} = S) ->
    {stop, {shutdown, hangs}, S};
handle_info({Port, {exit_status, Status}}, #st{port = Port} = S) ->
    {stop, {shutdown, {exit_status, Status}}, S#st{port = none}};
handle_info({'EXIT', Port, Reason}, #st{port = Port} = S) ->
    {stop, {shutdown, Reason}, S#st{port = none}};
handle_info({'EXIT', Guard, Reason}, #st{guard = Guard} = S) ->
    {stop, Reason, S};
handle_info({timeout, _, {late, Id}}, S) ->
    {noreply, answer(Id, {error, timeout, <<"no answer from the carrier program">>}, cancel(Id, S))};
handle_info({'DOWN', Monitor, process, _, _}, #st{closer = Monitor} = S) ->
    {noreply, copy_links(S)};
handle_info({'DOWN', Monitor, process, _, _}, #st{asked = Asked} = S) ->
    {noreply, asker_gone([Id || {Id, #asked{monitor = M}} <- maps:to_list(Asked), M =:= Monitor], S)};
handle_info(register_again, S) ->
    {noreply, register_again(S)};
handle_info(_, S) ->
    {noreply, S}.

%% @private
terminate(_Reason, #st{port = none}) ->
    ok;
terminate(_Reason, #st{port = Port, os_pid = OsPid} = S) ->
    command(stop, S),
    receive
        {Port, {exit_status, _}} -> ok;
        {'EXIT', Port, _} -> ok
    after ?STOP_MS ->
            %% It hangs, and would keep the name: the port is open, so the number is still this program's.
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

hello(S) ->
    Program = handover_config:program("handover"),
    try handover_program:open(Program, [{args, ["port"]}, {packet, 4}, binary, exit_status, use_stdio]) of
        Port ->
            {os_pid, OsPid} = erlang:port_info(Port, os_pid),
            hello_said(S#st{port = Port, os_pid = OsPid})
    catch
        error:Reason -> {error, {Program, Reason}, S}
    end.

hello_said(#st{port = Port} = S) ->
    command({hello, handover_proto:version(), hello_options()}, S),
    receive
        {Port, {data, Frame}} -> hello_answered(handover_proto:decode(Frame), S);
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
    #{os_pid => list_to_integer(os:getpid()),
      epmd => unicode:characters_to_binary(Epmd),
      log_level => handover_config:get(log_level)}.

hello_answered({ok, {hello, Version, #{fd_socket := Name}}}, #st{os_pid = OsPid} = S) ->
    case Version =:= handover_proto:version() andalso handover_fd:connect(Name, OsPid) of
        {ok, Fds} -> {ok, S#st{fds = Fds, name = Name}};
        {error, Reason} -> {error, {fd_socket, Reason}, S};
        false -> {error, {unknown_version, Version}, S}
    end;
hello_answered({ok, {log, Level, Text, Fields}}, #st{port = Port} = S) ->
    log(Level, Text, Fields),
    receive {Port, {data, Frame}} -> hello_answered(handover_proto:decode(Frame), S)
    after ?HELLO_MS -> {error, no_hello, S}
    end;
hello_answered({ok, {refused, Reason, Detail}}, S) ->
    {error, {refused, Reason, Detail}, S};
hello_answered({_, Other}, S) ->
    {error, {bad_hello, Other}, S}.

%% A program that reads nothing must not suspend this process too: it is taken for one that has ended.
command(Command, #st{port = Port}) ->
    try port_command(Port, handover_proto:encode(Command), [nosuspend]) of
        true -> ok;
        false -> self() ! {Port, hangs}, ok
    catch
        error:badarg -> ok       % the port has ended: its 'EXIT' is in the mailbox
    end.

%% internal: what the carrier says

event({registered, Id, _Creation, Kind}, #st{register = Id} = S) ->
    registered(Kind, S),
    handover_event:emit(notice, epmd_up, #{kind => Kind}),
    S#st{register = none, last_register_error = none};
event({registered, Id, Creation, Kind}, S) ->
    registered(Kind, S),
    answer(Id, {ok, Creation, Kind}, S);
event({error, Id, Reason, Detail}, #st{register = Id, last_register_error = LastError} = S) ->
    Reason =:= LastError orelse handover_event:emit(warning, epmd_down, #{detail => [atom_to_list(Reason), ": ", Detail]}),
    erlang:send_after(?AGAIN_MS, self(), register_again),
    S#st{register = none, last_register_error = Reason};
event({error, Id, Reason, Detail}, S) ->
    answer(Id, {error, Reason, Detail}, S);
event({epmd, up, Kind}, S) ->
    registered(Kind, S),
    handover_event:emit(notice, epmd_up, #{kind => Kind}),
    S;
event({epmd, down, Detail}, #st{guard = Guard} = S) ->
    gen_server:cast(Guard, {epmd, down}),
    handover_event:emit(warning, epmd_down, #{detail => Detail}),
    S;
event({log, Level, Text, Fields}, S) ->
    log(Level, Text, Fields),
    S;
event(Other, S) ->
    handover_event:emit(error, bad_message, #{message => Other}),
    S.

registered(Kind, #st{guard = Guard}) ->
    Kind =:= stock andalso handover_event:emit(warning, stock_epmd, #{port => handover_config:epmd_port()}),
    gen_server:cast(Guard, {epmd, Kind}).

log(Level, Text, Fields) ->
    handover_event:emit(Level, carrier_log, #{text => Text, fields => Fields}).

register_again(#st{registration = none} = S) ->
    S;
register_again(#st{registration = Registration, next = Id} = S) ->
    command({register, Id, Registration}, S),
    S#st{next = Id + 1, register = Id}.

%% internal: fds

%% The program gets copies of the links that this node has from the last one.
copy_links(#st{fds = Fds, name = Name} = S) ->
    S#st{closer = handover_closer:carrier(self(), Fds, Name)}.

receive_fds(#st{fds = Fds} = S) ->
    case handover_fd:recv(Fds) of
        {ok, Header, Fd} ->
            receive_fds(connection(parse(Header), Fd, S));
        {no_fd, Header} ->
            handover_event:emit(error, bad_fd, #{reason => emfile}),
            receive_fds(lost(parse(Header), S));
        {fds, Header, Several} ->
            lists:foreach(fun(Fd) -> handover_closer:close(Fd, #{}) end, Several),
            end_later({fds, length(Several), Header}, S);
        select ->
            S;
        {error, closed} ->
            self() ! fds_closed,
            S;
        {error, Reason} ->
            end_later(Reason, S)
    end.

end_later(Reason, S) ->
    handover_event:emit(error, bad_fd, #{reason => Reason}),
    self() ! fds_closed,
    S.

%% handover_closer tells this process when the fd is closed, since the program keeps a copy.
parse(Header) ->
    case handover_proto:connection(Header) of
        {ok, Connection} -> {ok, Connection#{carrier => self()}};
        {error, _} = Error -> Error
    end.

connection({ok, #{kind := handed_over} = Connection}, Fd, #st{kernel = none, guard = Guard} = S) ->
    gen_server:cast(Guard, {handed_over, Fd, Connection}),
    S;
connection({ok, #{kind := handed_over} = Connection}, Fd, #st{kernel = Kernel} = S) ->
    handover_keeper:accept(Kernel, Fd, Connection),
    S;
connection({ok, #{kind := asked, id := Id} = Connection}, Fd, #st{asked = Asked} = S) when is_map_key(Id, Asked) ->
    answer(Id, {ok, Fd, Connection}, S);
connection({ok, #{kind := asked} = Connection}, Fd, S) ->
    handover_closer:close(Fd, Connection),           % its asker is gone
    S;
connection({error, Reason}, Fd, S) ->
    handover_event:emit(error, bad_fd, #{reason => Reason}),
    handover_closer:close(Fd, #{}),
    S.

lost({ok, #{kind := Kind, id := Id}}, S) ->
    command({closed, Kind, Id}, S),
    case Kind of
        asked -> answer(Id, {error, overloaded, <<"too many open files in this node">>}, S);
        handed_over -> S
    end;
lost({error, _}, S) ->
    S.

%% internal: questions

answer(Id, Answer, #st{asked = Asked} = S) ->
    case maps:take(Id, Asked) of
        {#asked{from = From, monitor = Monitor, timer = Timer}, Rest} ->
            demonitor(Monitor, [flush]),
            _ = erlang:cancel_timer(Timer),
            gen_server:reply(From, Answer),
            S#st{asked = Rest};
        error ->
            S
    end.

cancel(Id, S) ->
    command({cancel, Id}, S),
    S.

asker_gone(Ids, S) ->
    lists:foldl(fun(Id, #st{asked = Asked} = Acc) ->
                        {#asked{timer = Timer}, Rest} = maps:take(Id, Asked),
                        _ = erlang:cancel_timer(Timer),
                        cancel(Id, Acc#st{asked = Rest})
                end, S, Ids).
