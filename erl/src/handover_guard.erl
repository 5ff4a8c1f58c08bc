%% @doc The guard: a child of net_sup that keeps one handover_carrier running. It holds the state that must outlive a
%% handover_carrier: the registration, net_kernel's pid, connections that were handed over before that pid was known,
%% and the reasons of recent failures.
%%
%% net_sup is one_for_all with intensity 0, so the crash of a permanent child would take the node down. The guard is a
%% temporary child, traps exits, and does nothing that can fail. If it is killed, handover_acceptor restarts it. A node
%% with `-dist_listen false' has no handover_acceptor: there the next connect/1 restarts it.
-module(handover_guard).

-behaviour(gen_server).

-export([child_spec/0, start_link/0, register/1, attach_net_kernel/2, connect/1]).
-export([store_failure/3, await_failure/2, last_failure/1, info/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(BACKOFF_FIRST_MS, 50).
-define(BACKOFF_MAX_MS, 5000).
-define(STABLE_MS, 10000).          % a handover_carrier that lived this long resets the backoff
-define(GET_CARRIER_MS, 15000).
-define(MAX_UNDELIVERED, 64).       % stored connections; further ones are closed
-define(MAX_FAILURES, 128).         % nodes whose last failure is stored; then the store is emptied
-define(FAILURE_WAIT_MS, 500).

-record(st, {carrier_pid = none :: none | pid(),      % a handover_carrier whose program is ready
             os_pid = 0 :: non_neg_integer(),         % of the carrier program
             starting_pid = none :: none | pid(),     % a handover_carrier whose program is not ready yet
             started_at = 0 :: integer(),             % of the newest handover_carrier: monotonic time in ms
             backoff = ?BACKOFF_FIRST_MS :: pos_integer(),
             restarts = 0 :: non_neg_integer(),
             carrier_waiters = [] :: [gen_server:from()], % callers that wait for a handover_carrier
             registration = none :: none | map(),
             epmd = down :: handover | stock | down,
             net_kernel = none :: none | pid(),       % receives connections that are handed over
             %% connections that were handed over before net_kernel's pid was known, the newest first
             undelivered = [] :: [{non_neg_integer(), handover_proto:connection()}],
             failures = #{} :: #{node() => {integer(), {atom(), term()}}},
             failure_waiters = [] :: [{node(), integer(), gen_server:from()}]}).

%% @doc Returns the child specification for net_sup.
-spec child_spec() -> supervisor:child_spec().
child_spec() ->
    #{id => ?MODULE,
      start => {?MODULE, start_link, []},
      restart => temporary,
      shutdown => 900,
      type => worker,
      modules => [?MODULE]}.

%% @doc Starts the guard, linked to net_sup, which calls this.
-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Registers the node with the local EPMD and returns its creation. Afterwards the node is registered again
%% whenever the registration is lost. net_kernel calls this while net_sup starts.
-spec register(map()) -> {ok, Creation :: integer()} | {error, duplicate_name | {atom(), term()}}.
register(Registration) ->
    case with_carrier(fun(CarrierPid) -> {CarrierPid, handover_carrier:register(CarrierPid, Registration)} end) of
        {CarrierPid, {ok, Creation, Kind}} ->
            _ = call_guard({registered, Registration, Kind, CarrierPid}, ok),
            {ok, Creation};
        {_CarrierPid, Error} -> register_error(Error);
        Error -> register_error(Error)
    end.

register_error({error, duplicate_name, _}) -> {error, duplicate_name};
register_error({error, Reason, Detail}) -> {error, {Reason, Detail}}.

%% @doc Sets net_kernel's pid, which receives handed-over connections from now on, and the registration, if the guard
%% has none. Starts the guard if it is not running. The caller must monitor Guard and call this again when it ends.
-spec attach_net_kernel(pid(), none | map()) -> {ok, Guard :: pid()} | {error, term()}.
attach_net_kernel(Kernel, Registration) ->
    case ensure_started() of
        {ok, Guard} ->
            try gen_server:call(Guard, {attach_net_kernel, Kernel, Registration}, infinity) of
                ok -> {ok, Guard}
            catch
                exit:{Reason, _} -> {error, Reason}
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc Connects to a remote EPMD and sends HANDOVER_REQ; see {@link handover_carrier:connect/2}. The reason is
%% `carrier_down' if no carrier is running.
-spec connect(map()) -> {ok, non_neg_integer(), handover_proto:connection()} | {error, atom(), term()}.
connect(Request) ->
    _ = ensure_started(),
    with_carrier(fun(CarrierPid) -> handover_carrier:connect(CarrierPid, Request) end).

%% @doc Stores why a connection to Node failed. Returns at once.
-spec store_failure(node(), atom(), term()) -> ok.
store_failure(Node, Reason, Detail) ->
    gen_server:cast(?MODULE, {store_failure, Node, erlang:monotonic_time(), {Reason, Detail}}).

%% @doc Returns why a connection to Node failed at Since (erlang:monotonic_time()) or later. Waits up to 500 ms for the
%% report of the failure, then returns `{timeout, ""}'. Without a guard the reason is `carrier_down'.
-spec await_failure(node(), integer()) -> {atom(), term()}.
await_failure(Node, Since) ->
    call_guard({await_failure, Node, Since}, {carrier_down, ""}).

%% @doc Returns the last stored failure of Node and its time (erlang:monotonic_time()), or `none'.
-spec last_failure(node()) -> {integer(), {atom(), term()}} | none.
last_failure(Node) ->
    call_guard({last_failure, Node}, none).

%% @doc Returns the guard's part of handover:info/0. Without a guard everything is `down'.
-spec info() -> map().
info() ->
    call_guard(info, info(#st{})).

%% callbacks

%% @private
init([]) ->
    process_flag(trap_exit, true),
    handover_closer:start(),
    handover_dial:new(),
    handover_stats:new(),
    handover_telemetry:new(),
    handover_log_limit:new(),
    {ok, start_carrier(#st{})}.

%% @private
handle_call(get_carrier, From, #st{carrier_pid = none, carrier_waiters = CarrierWaiters} = S) ->
    {noreply, S#st{carrier_waiters = [From | CarrierWaiters]}};
handle_call(get_carrier, _From, #st{carrier_pid = CarrierPid} = S) ->
    {reply, {ok, CarrierPid}, S};
handle_call({attach_net_kernel, Kernel, Registration}, _From, #st{undelivered = Undelivered} = S) ->
    lists:foreach(fun({Fd, Connection}) -> handover_keeper:accept(Kernel, Fd, Connection) end,
                  lists:reverse(Undelivered)),
    lists:foreach(fun(CarrierPid) -> handover_carrier:set_net_kernel(CarrierPid, Kernel) end, carrier_pids(S)),
    {reply, ok, set_registration(Registration, S#st{net_kernel = Kernel, undelivered = []})};
handle_call({registered, Registration, Kind, CarrierPid}, _From, #st{carrier_pid = CarrierPid} = S) ->
    {reply, ok, S#st{registration = Registration, epmd = Kind}};
handle_call({registered, Registration, _, _}, _From, S) ->
    {reply, ok, set_registration(Registration, S)};
handle_call({await_failure, Node, Since}, From, S) ->
    await_failure(maps:get(Node, S#st.failures, none), Node, Since, From, S);
handle_call({last_failure, Node}, _From, S) ->
    {reply, maps:get(Node, S#st.failures, none), S};
handle_call(info, _From, S) ->
    {reply, info(S), S};
handle_call(_, _From, S) ->
    {reply, {error, unknown_call}, S}.

%% The casts that handover_carrier:start_link/3 lists, and that of store_failure/3.
%% @private
handle_cast({ready, CarrierPid, OsPid}, #st{starting_pid = CarrierPid, carrier_waiters = CarrierWaiters} = S) ->
    lists:foreach(fun(From) -> gen_server:reply(From, {ok, CarrierPid}) end, CarrierWaiters),
    {noreply, S#st{carrier_pid = CarrierPid, os_pid = OsPid, starting_pid = none, carrier_waiters = []}};
handle_cast({epmd, Epmd}, S) ->
    {noreply, S#st{epmd = Epmd}};
handle_cast({handed_over, Fd, Connection}, S) ->
    {noreply, deliver(Fd, Connection, S)};
handle_cast({store_failure, Node, Time, Failure}, S) ->
    {noreply, store_failure(Node, Time, Failure, S)};
handle_cast(_, S) ->
    {noreply, S}.

%% @private
handle_info({'EXIT', Pid, Reason}, #st{carrier_pid = CarrierPid, starting_pid = StartingPid} = S)
  when Pid =:= CarrierPid; Pid =:= StartingPid ->
    {noreply, restart_later(Reason, S)};
handle_info(start_carrier, S) ->
    {noreply, start_carrier(S)};
handle_info({log_minute_over, Key}, S) ->
    handover_event:report_repeated(Key),
    {noreply, S};
handle_info({await_timeout, From}, #st{failure_waiters = Waiters} = S) ->
    {noreply, S#st{failure_waiters = answer_waiters(fun({_, _, F}) -> F =:= From end, {timeout, ""}, Waiters)}};
handle_info(_, S) ->
    {noreply, S}.

%% @private
terminate(_Reason, #st{undelivered = Undelivered} = S) ->
    lists:foreach(fun({Fd, Connection}) -> handover_closer:close(Fd, Connection) end, Undelivered),
    lists:foreach(fun handover_carrier:stop/1, carrier_pids(S)).

%% internal: the guard itself

call_guard(Request, Default) ->
    try gen_server:call(?MODULE, Request, infinity) catch exit:_ -> Default end.

%% Must not be called by a process that net_sup waits for: start_child would block forever.
ensure_started() ->
    case whereis(?MODULE) of
        undefined ->
            try supervisor:start_child(net_sup, child_spec()) of
                {ok, Guard} -> {ok, Guard};
                {error, {already_started, Guard}} -> {ok, Guard};
                {error, Reason} -> {error, Reason}
            catch
                exit:{Reason, _} -> {error, Reason}      % net_sup is stopping
            end;
        Guard ->
            {ok, Guard}
    end.

%% internal: handover_carrier

%% If the guard had no registration (it was restarted), handover_carrier may not have one either.
set_registration(none, S) ->
    S;
set_registration(_, #st{registration = Registration} = S) when Registration =/= none ->
    S;
set_registration(Registration, S) ->
    lists:foreach(fun(CarrierPid) -> handover_carrier:keep_registered(CarrierPid, Registration) end, carrier_pids(S)),
    S#st{registration = Registration}.

carrier_pids(#st{carrier_pid = CarrierPid, starting_pid = StartingPid}) ->
    [Pid || Pid <- [CarrierPid, StartingPid], is_pid(Pid)].

%% Calls Fun with the pid of the handover_carrier whose program is ready. Waits for one if there is none.
with_carrier(Fun) ->
    try
        case gen_server:call(?MODULE, get_carrier, ?GET_CARRIER_MS) of
            {ok, CarrierPid} -> Fun(CarrierPid);
            {error, carrier_down, _} = Error -> Error
        end
    catch
        exit:{Reason, _} -> {error, carrier_down, Reason}
    end.

start_carrier(#st{registration = Registration, net_kernel = Kernel} = S) ->
    try handover_carrier:start_link(self(), Registration, Kernel) of
        {ok, CarrierPid} -> S#st{starting_pid = CarrierPid, started_at = now_ms()};
        {error, Reason} -> restart_later(Reason, S#st{started_at = now_ms()})
    catch
        error:Reason -> restart_later(Reason, S#st{started_at = now_ms()})
    end.

%% Callers already waiting get the reason at once; later callers wait for the next attempt.
restart_later(Reason, #st{started_at = StartedAt, backoff = Backoff, restarts = Restarts} = S) ->
    lists:foreach(fun(From) -> gen_server:reply(From, {error, carrier_down, Reason}) end, S#st.carrier_waiters),
    Ms = case now_ms() - StartedAt > ?STABLE_MS of
             true -> ?BACKOFF_FIRST_MS;
             false -> Backoff
         end,
    handover_event:emit(warning, carrier_ended, #{reason => Reason, restart_ms => Ms}),
    erlang:send_after(Ms, self(), start_carrier),
    S#st{carrier_pid = none, starting_pid = none, carrier_waiters = [], epmd = down, restarts = Restarts + 1,
         backoff = min(Ms * 2, ?BACKOFF_MAX_MS)}.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% internal: connections

deliver(Fd, Connection, #st{net_kernel = Kernel} = S) when is_pid(Kernel) ->
    handover_keeper:accept(Kernel, Fd, Connection),
    S;
deliver(Fd, Connection, #st{undelivered = Undelivered} = S) when length(Undelivered) < ?MAX_UNDELIVERED ->
    S#st{undelivered = [{Fd, Connection} | Undelivered]};
deliver(Fd, Connection, S) ->
    handover_closer:close(Fd, Connection),
    S.

%% internal: failures

await_failure({Time, Failure}, _Node, Since, _From, S) when Time >= Since ->
    {reply, Failure, S};
await_failure(_, Node, Since, From, #st{failure_waiters = Waiters} = S) ->
    erlang:send_after(?FAILURE_WAIT_MS, self(), {await_timeout, From}),
    {noreply, S#st{failure_waiters = [{Node, Since, From} | Waiters]}}.

store_failure(Node, Time, Failure, #st{failures = Failures, failure_waiters = Waiters} = S) ->
    Bounded = case maps:size(Failures) < ?MAX_FAILURES of
                  true -> Failures;
                  false -> #{}
              end,
    StillWaiting = answer_waiters(fun({N, Since, _}) -> N =:= Node andalso Time >= Since end, Failure, Waiters),
    S#st{failures = Bounded#{Node => {Time, Failure}}, failure_waiters = StillWaiting}.

answer_waiters(IsMatch, Answer, Waiters) ->
    {Now, Later} = lists:partition(IsMatch, Waiters),
    lists:foreach(fun({_, _, From}) -> gen_server:reply(From, Answer) end, Now),
    Later.

info(#st{carrier_pid = none, restarts = Restarts, epmd = Epmd}) ->
    #{carrier => down, epmd => Epmd, restarts => Restarts};
info(#st{os_pid = OsPid, restarts = Restarts, epmd = Epmd}) ->
    #{carrier => up, epmd => Epmd, restarts => Restarts, os_pid => OsPid}.
