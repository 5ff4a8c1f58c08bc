%% @doc One process beside each link, linked to nothing, so that nothing that happens to the link's other processes keeps it
%% from its two duties: to close the fd when the port has ended (see {@link handover_fd}), and to say why a connection
%% that this node tried did not come up, even when the process that tried was killed by its timer.
-module(handover_link).

-export([start/1, dial/2, stage/2, failed/3, up/3, accept/3, inherit/3]).
-export([init_setup/2, init_accept/3, init_inherit/3, ended/1, accepted/1]).

-record(setup, {pid :: pid(),
                monitor :: reference(),
                node :: node(),
                stage = started :: atom(),
                since :: integer(),
                reported = false :: boolean(),        % a failure was reported or there is none
                port = none :: none | reference(),    % monitor; its 'DOWN' says `process' when a signal ended the port
                socket :: port() | undefined,
                fd :: non_neg_integer() | undefined,
                connection :: handover_proto:connection() | undefined,
                watch :: reference() | undefined}).     % of handover_closer

-record(accepted, {monitor :: reference(),              % of the port
                   socket :: port(),
                   fd :: non_neg_integer(),
                   connection :: handover_proto:connection(),
                   watch :: reference()}).

-define(CONTROLLER_MS, 10000).
-define(SUPERSEDED_POLL_MS, 20).
-define(SUPERSEDED_POLLS, 15).

%% @doc Starts the keeper of a connection that the calling process sets up to Node.
-spec start(node()) -> pid().
start(Node) ->
    spawn_opt(?MODULE, init_setup, [self(), Node], [{priority, max}]).

%% @doc Asks the carrier for a connection; on success the caller owns the socket.
-spec dial(pid(), map()) -> {ok, port()} | {error, handover_proto:reason() | carrier_down, Detail :: term()}.
dial(Link, Request) ->
    Monitor = monitor(process, Link),
    Link ! {dial, self(), Request},
    receive
        {Link, Answer} -> demonitor(Monitor, [flush]), Answer;
        {'DOWN', Monitor, process, Link, Reason} -> {error, carrier_down, Reason}
    end.

%% @doc What the setup is busy with: the reason that is given when its timer ends it there.
-spec stage(pid(), atom()) -> ok.
stage(Link, Stage) -> Link ! {stage, Stage}, ok.

%% @doc The setup gives up.
-spec failed(pid(), atom(), term()) -> ok.
failed(Link, Reason, Detail) -> Link ! {failed, Reason, Detail}, ok.

%% @doc The link is up.
-spec up(pid(), port(), handover | direct) -> ok.
up(Link, Socket, Via) -> Link ! {up, Socket, Via}, ok.

%% @doc Brings a connection that was handed over to net_kernel. A node at its limit of processes loses the connection, not the
%% caller.
-spec accept(pid(), non_neg_integer(), handover_proto:connection()) -> ok.
accept(Kernel, Fd, Connection) ->
    try spawn_opt(?MODULE, init_accept, [Kernel, Fd, Connection], [{priority, max}]) of
        _ -> ok
    catch
        error:Reason ->
            handover_closer:close(Fd, Connection),
            handover_event:emit(warning, bad_fd, #{reason => Reason})
    end.

%% @doc Keeps the descriptor of a link whose keeper was killed.
-spec inherit(port(), non_neg_integer(), handover_proto:connection()) -> ok.
inherit(Socket, Fd, Connection) ->
    _ = spawn_opt(?MODULE, init_inherit, [Socket, Fd, Connection], [{priority, max}]),
    ok.

%% the side that connects

%% @private
-spec init_setup(pid(), node()) -> ok.
init_setup(Pid, Node) ->
    setup(#setup{pid = Pid, monitor = monitor(process, Pid), node = Node, since = erlang:monotonic_time()}).

setup(#setup{pid = Pid, monitor = Monitor, port = PortMonitor} = S) ->
    receive
        {dial, Pid, Request} -> setup(do_dial(Request, closed(S)));
        {stage, Stage} -> setup(S#setup{stage = Stage});
        {failed, Reason, Detail} -> setup(report_failure(Reason, Detail, S));
        {up, Socket, Via} -> ended(is_up(Socket, Via, S));
        {'DOWN', Monitor, process, Pid, Reason} -> ended(report_exit(Reason, S));
        {'DOWN', PortMonitor, _, _, _} -> setup(close(S));
        {copied, Fd, Connection} -> setup(copied(Fd, Connection, S));
        {'DOWN', Watch, _, _, _} when Watch =:= S#setup.watch -> setup(watch_again(S))
    end.

%% What is left to do is to wait for the port, if there is one.
%% A link may outlive two upgrades of this module: asleep, no process is in this code, so none is killed with the old one.
%% @private
-spec ended(#setup{}) -> ok.
ended(#setup{port = none}) ->
    ok;
ended(#setup{port = PortMonitor} = S) ->
    receive
        {'DOWN', PortMonitor, _, _, _} -> close_and_end(S#setup.socket, S#setup.fd, S#setup.connection);
        {copied, Fd, Connection} -> ended(copied(Fd, Connection, S));
        {'DOWN', Watch, _, _, _} when Watch =:= S#setup.watch -> ended(watch_again(S));
        _ -> ended(S)
    after 0 -> erlang:hibernate(?MODULE, ended, [S])
    end.

do_dial(Request, #setup{pid = Pid} = S) ->
    case handover_guard:connect(Request) of
        {ok, Fd, Connection} ->
            adopt_and_transfer(Fd, Connection, S);
        {error, Reason, Detail} ->
            Pid ! {self(), {error, Reason, Detail}},
            S
    end.

adopt_and_transfer(Fd, #{family := Family} = Connection, #setup{pid = Pid} = S) ->
    Driver = driver(Family),
    case handover_fd:adopt(Driver, Fd, handover_dist:socket_options(inet_dist_connect_options, [])) of
        {ok, Socket} ->
            Monitor = erlang:monitor(port, Socket),
            Watch = handover_closer:watch(Socket, Fd, Connection),
            transfer_owner(Driver, Socket, Pid),
            Pid ! {self(), {ok, Socket}},
            S#setup{port = Monitor, socket = Socket, fd = Fd, connection = Connection, watch = Watch};
        {error, Reason} ->
            handover_closer:close(Fd, Connection),
            Pid ! {self(), {error, closed, Reason}},
            S
    end.

%% A setup that dials again has closed the socket before.
closed(#setup{port = none} = S) ->
    S;
closed(#setup{port = PortMonitor} = S) ->
    receive {'DOWN', PortMonitor, _, _, _} -> close(S) end.

copied(Fd, Connection, #setup{fd = Fd} = S) -> S#setup{connection = Connection};
copied(_, _, S) -> S.                                   % of one that has been closed

watch_again(#setup{watch = Watch, socket = Socket, fd = Fd, connection = Connection} = S) ->
    S#setup{watch = handover_closer:watch_again(Watch, Socket, Fd, Connection)}.

close(#setup{socket = Socket, fd = Fd, connection = Connection, watch = Watch} = S) ->
    demonitor(Watch, [flush]),
    handover_fd:await_port_end(Socket, Fd),
    handover_fd:shutdown(Fd),
    handover_closer:close(Fd, Connection),
    S#setup{port = none, socket = undefined, fd = undefined, connection = undefined, watch = undefined}.

close_and_end(Socket, Fd, Connection) ->
    handover_fd:await_port_end(Socket, Fd),
    handover_fd:shutdown_and_end(Fd),
    handover_closer:close(Fd, Connection).

is_up(Socket, Via, #setup{node = Node, since = Since} = S) ->
    handover_event:emit(info, connected, #{node => Node, via => Via, peer => handover_handshake:peer(Socket),
                                          duration => erlang:monotonic_time() - Since}),
    S#setup{reported = true}.

report_failure(_Reason, _Detail, #setup{reported = true} = S) ->
    S;
report_failure(Reason, Detail, #setup{node = Node, since = Since} = S) ->
    handover_guard:failed(Node, Reason, Detail),
    Fields = #{node => Node, duration => erlang:monotonic_time() - Since},
    case {Reason, Detail} of
        {other_name, {Name, Peer}} -> handover_event:emit(warning, other_name, Fields#{name => Name, peer => Peer});
        _ -> handover_event:emit(warning, setup_failed, Fields#{reason => Reason, detail => handover_log:text(Detail)})
    end,
    S#setup{reported = true}.

%% When both nodes connect at once net_kernel ends one of the two setups: remarked. A link that is taken down the moment it
%% is up ends with disconnect. Some end with shutdown just before the other is up, or before this process could look (noproc):
%% worth a moment's wait, since these are the reasons of failures as well.
report_exit(_Reason, #setup{reported = true} = S) ->
    S;
report_exit(Reason, S) when Reason =:= remarked; Reason =:= disconnect ->
    S#setup{reported = true};
report_exit(Reason, #setup{node = Node} = S) when Reason =:= shutdown; Reason =:= noproc ->
    case is_connected_soon(Node, ?SUPERSEDED_POLLS) of
        true -> S#setup{reported = true};
        false -> report_failure(handshake, "closed by the other node", S)
    end;
report_exit(setup_timer_timeout, #setup{stage = Stage} = S) ->
    report_failure(timeout, io_lib:format("while ~ts", [Stage]), S);
report_exit(Reason, #setup{stage = Stage} = S) ->
    report_failure(handshake, io_lib:format("~ts: ~0tp", [Stage, Reason]), S).

is_connected_soon(Node, Polls) ->
    case lists:member(Node, nodes(connected)) of
        true -> true;
        false when Polls =:= 0 -> false;
        false -> receive after ?SUPERSEDED_POLL_MS -> is_connected_soon(Node, Polls - 1) end
    end.

%% the side that is connected to

%% @private
-spec init_accept(pid(), non_neg_integer(), handover_proto:connection()) -> ok.
init_accept(Kernel, Fd, #{family := Family, peer := Peer} = Connection) ->
    Driver = driver(Family),
    Options = handover_dist:socket_options(inet_dist_listen_options, [{active, false}, {packet, 2}]),
    case handover_fd:adopt(Driver, Fd, Options) of
        {ok, Socket} ->
            Monitor = erlang:monitor(port, Socket),
            Watch = handover_closer:watch(Socket, Fd, Connection),
            controller(Kernel, Driver, Socket),
            accepted(#accepted{monitor = Monitor, socket = Socket, fd = Fd, connection = Connection, watch = Watch});
        {error, Reason} ->
            handover_closer:close(Fd, Connection),
            handover_event:emit(warning, bad_fd, #{reason => {Reason, Peer}})
    end.

%% @private
-spec init_inherit(port(), non_neg_integer(), handover_proto:connection()) -> ok.
init_inherit(Socket, Fd, Connection) ->
    Monitor = erlang:monitor(port, Socket),
    Watch = handover_closer:watch(Socket, Fd, Connection),
    accepted(#accepted{monitor = Monitor, socket = Socket, fd = Fd, connection = Connection, watch = Watch}).

%% As ended/1.
%% @private
-spec accepted(#accepted{}) -> ok.
accepted(#accepted{monitor = Monitor, socket = Socket, fd = Fd, connection = Connection, watch = Watch} = S) ->
    receive
        {'DOWN', Monitor, _, _, _} -> close_and_end(Socket, Fd, Connection);
        {copied, Fd, Copied} -> accepted(S#accepted{connection = Copied});
        {'DOWN', Watch, _, _, _} -> accepted(S#accepted{watch = handover_closer:watch_again(Watch, Socket, Fd, Connection)});
        _ -> accepted(S)
    after 0 -> erlang:hibernate(?MODULE, accepted, [S])
    end.

controller(Kernel, Driver, Socket) ->
    Monitor = monitor(process, Kernel),
    Kernel ! {accept, self(), Socket, Driver:family(), handover_dist:protocol()},
    receive
        {Kernel, controller, Pid} ->
            transfer_owner(Driver, Socket, Pid),
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
transfer_owner(Driver, Socket, Pid) ->
    case Driver:controlling_process(Socket, Pid) of
        ok -> ok;
        {error, _} -> Driver:close(Socket)
    end.

driver(inet) -> inet_tcp;
driver(inet6) -> inet6_tcp.
