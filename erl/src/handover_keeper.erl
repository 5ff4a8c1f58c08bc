%% @doc The keeper of a link: one process beside each link, which owns its descriptor. It makes a distribution socket of the descriptor,
%% gives the socket to the process that does the handshake, waits until the socket's port has ended, and then shuts the
%% connection down and has the descriptor closed (see {@link handover_fd}). It is linked to no process, so that nothing that happens
%% to the link's other processes prevents that.
-module(handover_keeper).

-export([dial/1, accept/3, inherit/3]).
-export([init_dial/2, init_accept/3, init_inherit/3, keep/1]).

-type fd() :: non_neg_integer().
-type connection() :: handover_proto:connection().
-type failure() :: {error, handover_proto:reason() | carrier_down, Detail :: term()}.

-record(keeper, {port :: reference(),                   % monitor of the socket's port
                 socket :: port(),
                 fd :: fd(),
                 connection :: connection(),
                 closer :: reference()}).               % monitor of handover_closer

-define(CONTROLLER_MS, 10000).

%% @doc Calls Dial in a new keeper. The caller owns the socket that is returned. If the caller ends first, the connection is closed.
-spec dial(fun(() -> {ok, fd(), connection()} | failure())) -> {ok, port()} | failure().
dial(Dial) ->
    try spawn_opt(?MODULE, init_dial, [self(), Dial], [monitor, {priority, max}]) of
        {Keeper, Monitor} ->
            receive
                {Keeper, Answer} -> demonitor(Monitor, [flush]), Answer;
                {'DOWN', Monitor, process, Keeper, Reason} -> {error, carrier_down, Reason}
            end
    catch
        error:Reason -> {error, carrier_down, Reason}   % no process can be made at the moment
    end.

%% @doc Brings a connection that was handed over to net_kernel. If this node is at its limit of processes the connection is closed.
-spec accept(Kernel :: pid(), fd(), connection()) -> ok.
accept(Kernel, Fd, Connection) ->
    try spawn_opt(?MODULE, init_accept, [Kernel, Fd, Connection], [{priority, max}]) of
        _ -> ok
    catch
        error:Reason ->
            handover_closer:close(Fd, Connection),
            handover_event:emit(warning, bad_fd, #{reason => Reason})
    end.

%% @doc Starts a keeper for a link whose keeper was killed.
-spec inherit(port(), fd(), connection()) -> ok.
inherit(Socket, Fd, Connection) ->
    _ = spawn_opt(?MODULE, init_inherit, [Socket, Fd, Connection], [{priority, max}]),
    ok.

%% the new process

%% @private
-spec init_dial(pid(), fun(() -> {ok, fd(), connection()} | failure())) -> ok.
init_dial(Caller, Dial) ->
    case Dial() of
        {ok, Fd, Connection} ->
            case adopt(Fd, Connection, handover_socket:options(inet_dist_connect_options)) of
                {ok, #keeper{socket = Socket} = S} ->
                    transfer_owner(Connection, Socket, Caller),
                    Caller ! {self(), {ok, Socket}},
                    keep(S);
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
    Options = handover_socket:options(inet_dist_listen_options) ++ [{active, false}, {packet, 2}],
    case adopt(Fd, Connection, Options) of
        {ok, #keeper{socket = Socket} = S} -> offer(Kernel, Connection, Socket), keep(S);
        {error, Reason} -> handover_event:emit(warning, bad_fd, #{reason => {Reason, Peer}})
    end.

%% @private
-spec init_inherit(port(), fd(), connection()) -> ok.
init_inherit(Socket, Fd, Connection) ->
    keep(keeper(Socket, Fd, Connection)).

%% A link may outlive two upgrades of this module: asleep, no process is in this code, so none is killed with the old one.
%% @private
-spec keep(#keeper{}) -> ok.
keep(#keeper{port = Port, socket = Socket, fd = Fd, connection = Connection, closer = Closer} = S) ->
    receive
        {'DOWN', Port, _, _, _} -> close(S);             % `process', not `port', if a signal ended the port
        {'DOWN', Closer, _, _, _} -> keep(S#keeper{closer = watch(Socket, Fd, Connection)});
        {copied, Fd, Copied} -> keep(S#keeper{connection = Copied});
        _ -> keep(S)
    after 0 -> erlang:hibernate(?MODULE, keep, [S])
    end.

%% internal

adopt(Fd, Connection, Options) ->
    case handover_fd:adopt(driver(Connection), Fd, Options) of
        {ok, Socket} -> {ok, keeper(Socket, Fd, Connection)};
        {error, _} = Error -> handover_closer:close(Fd, Connection), Error
    end.

keeper(Socket, Fd, Connection) ->
    #keeper{port = erlang:monitor(port, Socket), socket = Socket, fd = Fd, connection = Connection,
            closer = watch(Socket, Fd, Connection)}.

%% An external fun: the one who calls it may have started before an upgrade.
watch(Socket, Fd, Connection) ->
    handover_closer:watch(Socket, Fd, Connection, fun ?MODULE:inherit/3).

close(#keeper{socket = Socket, fd = Fd, connection = Connection}) ->
    handover_fd:await_port_end(Socket, Fd),
    handover_fd:shutdown_and_end(Fd),
    handover_closer:close(Fd, Connection).

%% As an acceptor of net_kernel's does.
offer(Kernel, #{family := Family} = Connection, Socket) ->
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

%% A process that has ended can't own the port: it would stay with this one, and open.
transfer_owner(Connection, Socket, Pid) ->
    Driver = driver(Connection),
    case Driver:controlling_process(Socket, Pid) of
        ok -> ok;
        {error, _} -> Driver:close(Socket)
    end.

driver(#{family := inet}) -> inet_tcp;
driver(#{family := inet6}) -> inet6_tcp.
