%% @doc Keeps two processes running and restarts each of them with a backoff. It accepts no connections itself.
%%
%% The two processes are the accept loop, which accepts connections at the node's own port, and the guard
%% (handover_guard), which net_sup does not restart. For net_kernel this process is the acceptor: net_kernel starts it,
%% and restarts it when it ends. It does nothing that can fail or that blocks net_kernel.
-module(handover_acceptor).

-export([start/1]).
-export([init/2, loop/1, accept/3]).

-define(BACKOFF_FIRST_MS, 50).
-define(BACKOFF_MAX_MS, 5000).
-define(STABLE_MS, 10000).          % a process that lived this long resets its backoff

-record(backoff, {ms = ?BACKOFF_FIRST_MS :: pos_integer(),
                  started = 0 :: integer()}).

-record(st, {net_kernel :: pid(),
             listen :: handover_dist:listen(),
             accept_loop = none :: none | pid(),
             accept_backoff = #backoff{} :: #backoff{},
             guard_monitor = none :: none | reference(),
             guard_backoff = #backoff{} :: #backoff{}}).

%% @doc Starts the acceptor and links it to the caller, which must be net_kernel.
-spec start(handover_dist:listen()) -> pid().
start(Listen) ->
    spawn_opt(?MODULE, init, [self(), Listen], [link, {priority, max}]).

%% @private
-spec init(pid(), handover_dist:listen()) -> no_return().
init(Kernel, Listen) ->
    process_flag(trap_exit, true),
    S = attach_guard(start_accept_loop(#st{net_kernel = Kernel, listen = Listen})),
    handover_dist:preload_modules_later(),
    loop(S).

%% Hibernates while it waits, so that it holds no old code and survives an upgrade of this module. The accept loop
%% blocks in accept, so an upgrade kills it. It is restarted, and new connections wait in the listen queue until then.
%% @private
-spec loop(#st{}) -> no_return().
loop(#st{net_kernel = Kernel, accept_loop = Loop, guard_monitor = Monitor} = S) ->
    receive
        {'EXIT', Kernel, _} -> exit(shutdown);
        {'EXIT', Loop, Reason} -> loop(restart_later(accept_loop, accept_loop_ended(Reason, S)));
        {'DOWN', Monitor, process, _, _} -> loop(restart_later(guard, S#st{guard_monitor = none}));
        {start, accept_loop} -> loop(start_accept_loop(S));
        {start, guard} -> loop(attach_guard(S));
        _ -> loop(S)
    after 0 -> erlang:hibernate(?MODULE, loop, [S])
    end.

%% internal: the two processes

start_accept_loop(#st{net_kernel = Kernel, listen = Listen, accept_backoff = Backoff} = S) ->
    case handover_dist:listener(Listen) of
        {_Driver, none} -> S;
        {Driver, ListenSocket} ->
            try spawn_opt(?MODULE, accept, [Kernel, Driver, ListenSocket], [link, {priority, max}]) of
                Loop -> S#st{accept_loop = Loop, accept_backoff = Backoff#backoff{started = now_ms()}}
            catch
                error:_ -> restart_later(accept_loop, S)             % the process limit is reached
            end
    end.

accept_loop_ended({accept, Reason}, S) ->
    handover_event:emit(warning, bad_fd, #{reason => {accept, Reason}}),
    S#st{accept_loop = none};
accept_loop_ended(_, S) ->
    S#st{accept_loop = none}.

%% This call may block while net_sup starts or stops. If net_sup stopped, net_kernel's 'EXIT' is in the mailbox
%% afterwards.
attach_guard(#st{net_kernel = Kernel, listen = Listen, guard_backoff = Backoff} = S) ->
    case handover_guard:attach_net_kernel(Kernel, handover_dist:registration(Listen)) of
        {ok, Guard} ->
            S#st{guard_monitor = monitor(process, Guard), guard_backoff = Backoff#backoff{started = now_ms()}};
        {error, _} -> restart_later(guard, S)
    end.

restart_later(accept_loop, #st{accept_backoff = Backoff} = S) ->
    S#st{accept_backoff = schedule_start(accept_loop, Backoff)};
restart_later(guard, #st{guard_backoff = Backoff} = S) ->
    S#st{guard_backoff = schedule_start(guard, Backoff)}.

schedule_start(What, #backoff{ms = Last, started = Started}) ->
    Ms = case now_ms() - Started > ?STABLE_MS of
             true -> ?BACKOFF_FIRST_MS;
             false -> Last
         end,
    _ = erlang:send_after(Ms, self(), {start, What}),
    #backoff{ms = min(Ms * 2, ?BACKOFF_MAX_MS), started = now_ms()}.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% internal: the accept loop

%% @private
-spec accept(pid(), module(), port()) -> no_return().
accept(Kernel, Driver, ListenSocket) ->
    case Driver:accept(ListenSocket) of
        {ok, Socket} ->
            Kernel ! {accept, self(), Socket, Driver:family(), handover_socket:protocol()},
            transfer_owner(Kernel, Driver, Socket),
            accept(Kernel, Driver, ListenSocket);
        {error, Reason} ->
            exit({accept, Reason})
    end.

%% net_kernel answers at once with the process that does the handshake, so there is no timeout.
transfer_owner(Kernel, Driver, Socket) ->
    receive
        {Kernel, controller, Pid} ->
            _ = Driver:controlling_process(Socket, Pid),
            Pid ! {self(), controller, direct},
            ok;
        {Kernel, unsupported_protocol} ->
            Driver:close(Socket)
    end.
