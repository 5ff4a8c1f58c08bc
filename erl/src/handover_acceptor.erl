%% @doc What net_kernel starts to take connections, and restarts when it ends. It does nothing itself that can fail or block
%% net_kernel: it keeps two others running, each with a backoff. They are the loop that accepts at the ordinary listen port, and
%% the guard handover_guard, which net_sup never restarts.
-module(handover_acceptor).

-export([start/1]).
-export([init/2, keep/1, accept/3]).

-define(BACKOFF_FIRST_MS, 50).
-define(BACKOFF_LAST_MS, 5000).
-define(STABLE_MS, 10000).          % what lived this long resets the backoff

-record(backoff, {ms = ?BACKOFF_FIRST_MS :: pos_integer(),
                  started = 0 :: integer()}).

-record(st, {kernel :: pid(),
             listen :: handover_dist:listen(),
             loop = none :: none | pid(),
             loop_backoff = #backoff{} :: #backoff{},
             guard = none :: none | reference(),      % monitor
             guard_backoff = #backoff{} :: #backoff{}}).

%% @doc Starts the acceptor, linked to net_kernel, which calls this.
-spec start(handover_dist:listen()) -> pid().
start(Listen) ->
    spawn_opt(?MODULE, init, [self(), Listen], [link, {priority, max}]).

%% @private
-spec init(pid(), handover_dist:listen()) -> no_return().
init(Kernel, Listen) ->
    process_flag(trap_exit, true),
    S = attach_guard(start_loop(#st{kernel = Kernel, listen = Listen})),
    handover_dist:preload_later(),
    keep(S).

%% Asleep it is in no code, so an upgrade of this module does not end it. The loop, which waits in accept, is ended by an upgrade
%% and started again; connections meanwhile wait in the listen queue.
%% @private
-spec keep(#st{}) -> no_return().
keep(#st{kernel = Kernel, loop = Loop, guard = Guard} = S) ->
    receive
        {'EXIT', Kernel, _} -> exit(shutdown);
        {'EXIT', Loop, Reason} -> keep(later(loop, loop_ended(Reason, S)));
        {'DOWN', Guard, process, _, _} -> keep(later(guard, S#st{guard = none}));
        {start, loop} -> keep(start_loop(S));
        {start, guard} -> keep(attach_guard(S));
        _ -> keep(S)
    after 0 -> erlang:hibernate(?MODULE, keep, [S])
    end.

%% internal: what is kept

start_loop(#st{kernel = Kernel, listen = Listen, loop_backoff = Backoff} = S) ->
    case handover_dist:listener(Listen) of
        {_Driver, none} -> S;
        {Driver, Socket} ->
            try spawn_opt(?MODULE, accept, [Kernel, Driver, Socket], [link, {priority, max}]) of
                Loop -> S#st{loop = Loop, loop_backoff = Backoff#backoff{started = now_ms()}}
            catch
                error:_ -> later(loop, S)             % no process can be made at the moment
            end
    end.

loop_ended({accept, Reason}, S) ->
    handover_event:emit(warning, bad_fd, #{reason => {accept, Reason}}),
    S#st{loop = none};
loop_ended(_, S) ->
    S#st{loop = none}.

%% net_sup may take its time to answer: while it starts, and while it stops, after which net_kernel's 'EXIT' is in the mailbox.
attach_guard(#st{kernel = Kernel, listen = Listen, guard_backoff = Backoff} = S) ->
    case handover_guard:accept(Kernel, handover_dist:registration(Listen)) of
        {ok, Guard} -> S#st{guard = monitor(process, Guard), guard_backoff = Backoff#backoff{started = now_ms()}};
        {error, _} -> later(guard, S)
    end.

later(loop, #st{loop_backoff = Backoff} = S) -> S#st{loop_backoff = start_later(loop, Backoff)};
later(guard, #st{guard_backoff = Backoff} = S) -> S#st{guard_backoff = start_later(guard, Backoff)}.

start_later(What, #backoff{ms = Last, started = Started}) ->
    Ms = case now_ms() - Started > ?STABLE_MS of
             true -> ?BACKOFF_FIRST_MS;
             false -> Last
         end,
    _ = erlang:send_after(Ms, self(), {start, What}),
    #backoff{ms = min(Ms * 2, ?BACKOFF_LAST_MS), started = now_ms()}.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% internal: the loop

%% @private
-spec accept(pid(), module(), port()) -> no_return().
accept(Kernel, Driver, Listener) ->
    case Driver:accept(Listener) of
        {ok, Socket} ->
            Kernel ! {accept, self(), Socket, Driver:family(), handover_socket:protocol()},
            controller(Kernel, Driver, Socket),
            accept(Kernel, Driver, Listener);
        {error, Reason} ->
            exit({accept, Reason})
    end.

%% net_kernel answers at once, with the process that does the handshake.
controller(Kernel, Driver, Socket) ->
    receive
        {Kernel, controller, Pid} ->
            _ = Driver:controlling_process(Socket, Pid),
            Pid ! {self(), controller, direct},
            ok;
        {Kernel, unsupported_protocol} ->
            Driver:close(Socket)
    end.
