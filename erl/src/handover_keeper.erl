%% @doc The keeper of a link: a process that owns the descriptor of one link. It makes a distribution socket from the
%% descriptor, transfers the socket to the process that does the handshake, and waits until the socket's port has ended.
%% Then it shuts the connection down and has handover_closer close the descriptor. It is not linked (erlang:link/1) to
%% any process, so that no other crash can prevent the close.
-module(handover_keeper).

-export([dial/1, accept/3, replace/3]).
-export([init_dial/2, init_accept/3, init_replacement/3, loop/1]).

-type fd() :: non_neg_integer().
-type connection() :: handover_proto:connection().         % describes the connection; see handover_proto
-type failure() :: {error, handover_proto:reason() | carrier_down, Detail :: term()}.

-record(keeper, {port_monitor :: reference(),           % of the socket's port
                 socket :: port(),
                 fd :: fd(),
                 connection :: connection(),
                 closer_monitor :: reference()}).       % of handover_closer

-define(CONTROLLER_MS, 10000).

%% @doc Calls Dial in a new keeper, which makes a socket from the fd that Dial returns. The caller owns the returned
%% socket. If the caller ends before that, the connection is closed. Waits as long as Dial does.
%%
%% The reason is `closed' if no socket can be made from the fd; usually the far end has closed the connection. It is
%% `carrier_down' if the carrier is down, and also if the keeper could not be started: then too this node cannot use its
%% carrier, and the setup can fall back. Detail has the difference. It is also `closed' if the keeper was killed. Then the
%% caller must end: it may own the socket without knowing it.
-spec dial(fun(() -> {ok, fd(), connection()} | failure())) -> {ok, port()} | failure().
dial(Dial) ->
    try spawn_opt(?MODULE, init_dial, [self(), Dial], [monitor, {priority, max}]) of
        {Keeper, Monitor} ->
            receive
                {Keeper, Answer} -> demonitor(Monitor, [flush]), Answer;
                {'DOWN', Monitor, process, Keeper, Reason} -> {error, closed, no_keeper("ended", Reason)}
            end
    catch
        error:Reason -> {error, carrier_down, no_keeper("cannot be started", Reason)}     % the process limit is reached
    end.

no_keeper(Text, Reason) ->
    io_lib:format("the process handover_keeper ~ts: ~0tp", [Text, Reason]).

%% @doc Starts a keeper for a connection that was handed over. The keeper offers the connection to Kernel, the pid of
%% net_kernel, and owns Fd from now on. At the process limit the connection is closed and the event bad_fd emitted.
%% Returns at once.
-spec accept(Kernel :: pid(), fd(), connection()) -> ok.
accept(Kernel, Fd, Connection) ->
    try spawn_opt(?MODULE, init_accept, [Kernel, Fd, Connection], [{priority, max}]) of
        _ -> ok
    catch
        error:Reason ->
            handover_closer:close(Fd, Connection),
            handover_event:emit(warning, bad_fd, #{reason => Reason})
    end.

%% @doc Starts a keeper for a link whose keeper was killed. Raises system_limit at the process limit.
-spec replace(port(), fd(), connection()) -> ok.
replace(Socket, Fd, Connection) ->
    _ = spawn_opt(?MODULE, init_replacement, [Socket, Fd, Connection], [{priority, max}]),
    ok.

%% the new process

%% handover_carrier has called handover_closer:hold/3 for this process when Dial returns a descriptor.
%% @private
-spec init_dial(pid(), fun(() -> {ok, fd(), connection()} | failure())) -> ok.
init_dial(Caller, Dial) ->
    case Dial() of
        {ok, Fd, Connection} ->
            case adopt(Fd, Connection, handover_socket:options(inet_dist_connect_options)) of
                {ok, #keeper{socket = Socket} = S} ->
                    transfer_owner(Connection, Socket, Caller),
                    Caller ! {self(), {ok, Socket}},
                    loop(S);
                {error, Reason} ->
                    Caller ! {self(), {error, closed, Reason}},
                    ok
            end;
        {error, _, _} = Error ->
            Caller ! {self(), Error},
            ok
    end.

%% @private
-spec init_accept(pid(), fd(), connection()) -> ok.
init_accept(Kernel, Fd, #{peer := Peer} = Connection) ->
    handover_closer:hold(self(), Fd, Connection),
    Options = handover_socket:options(inet_dist_listen_options) ++ [{active, false}, {packet, 2}],
    case adopt(Fd, Connection, Options) of
        {ok, #keeper{socket = Socket} = S} -> offer_to_net_kernel(Kernel, Connection, Socket), loop(S);
        {error, Reason} -> handover_event:emit(warning, bad_fd, #{reason => {Reason, Peer}})
    end.

%% @private
-spec init_replacement(port(), fd(), connection()) -> ok.
init_replacement(Socket, Fd, Connection) ->
    loop(start_watching(Socket, Fd, Connection)).

%% Hibernates while it waits, so that it holds no old code: a link may outlive two upgrades of this module.
%% @private
-spec loop(#keeper{}) -> ok.
loop(#keeper{port_monitor = Port, socket = Socket, fd = Fd, connection = Connection, closer_monitor = Closer} = S) ->
    receive
        {'DOWN', Port, _, _, _} -> end_link(S);          % the type is `process' if an exit signal ended the port
        {'DOWN', Closer, _, _, _} -> loop(S#keeper{closer_monitor = watch_me(Socket, Fd, Connection)});
        {copied, Fd, Copied} -> loop(S#keeper{connection = Copied});
        _ -> loop(S)
    after 0 -> erlang:hibernate(?MODULE, loop, [S])
    end.

%% internal

adopt(Fd, Connection, Options) ->
    case handover_fd:adopt(driver(Connection), Fd, Options) of
        {ok, Socket} -> {ok, start_watching(Socket, Fd, Connection)};
        {error, _} = Error -> handover_closer:close(Fd, Connection), Error
    end.

%% Monitors the port of Socket and has handover_closer watch this process.
start_watching(Socket, Fd, Connection) ->
    #keeper{port_monitor = erlang:monitor(port, Socket), socket = Socket, fd = Fd, connection = Connection,
            closer_monitor = watch_me(Socket, Fd, Connection)}.

%% An external fun, because handover_closer may call it after an upgrade of this module.
watch_me(Socket, Fd, Connection) ->
    handover_closer:watch(Socket, Fd, Connection, fun ?MODULE:replace/3).

end_link(#keeper{socket = Socket, fd = Fd, connection = Connection}) ->
    handover_fd:await_port_end(Socket, Fd),
    handover_fd:shutdown_before_exit(Fd),
    handover_closer:close(Fd, Connection).

%% The same messages as between an accept loop and net_kernel.
offer_to_net_kernel(Kernel, #{family := Family} = Connection, Socket) ->
    Driver = driver(Connection),
    Monitor = monitor(process, Kernel),
    Kernel ! {accept, self(), Socket, Family, handover_socket:protocol()},
    receive
        {Kernel, controller, Pid} ->
            transfer_owner(Connection, Socket, Pid),
            Pid ! {self(), controller, handover};
        {Kernel, unsupported_protocol} ->
            Driver:close(Socket);
        {'DOWN', Monitor, process, Kernel, _} ->
            Driver:close(Socket)
    after ?CONTROLLER_MS ->
            Driver:close(Socket)
    end,
    demonitor(Monitor, [flush]).

%% If Pid has ended, the socket must be closed here: its port would stay open, owned by this process.
transfer_owner(Connection, Socket, Pid) ->
    Driver = driver(Connection),
    case Driver:controlling_process(Socket, Pid) of
        ok -> ok;
        {error, _} -> Driver:close(Socket)
    end.

driver(#{family := inet}) -> inet_tcp;
driver(#{family := inet6}) -> inet6_tcp.
