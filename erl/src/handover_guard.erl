%% @doc The guard: the child that net_sup starts before the distribution. It keeps one handover_carrier running, and what must
%% outlive a restart of it: the registration, net_kernel's pid, connections handed over before net_kernel took any, and why
%% recent connections failed.
%%
%% net_sup is one_for_all with intensity 0, so a permanent child that crashed would take the node down. This one traps
%% exits, does nothing that can fail, and is a temporary child. If it ends all the same, handover_acceptor starts it again; on a node
%% that does not listen, the next process that needs it does.
-module(handover_guard).

-behaviour(gen_server).

-export([child_spec/0, start_link/0, register/1, accept/2, connect/1, failed/3, last_failure/2, failure/1, info/0]).
-export([init/1, handle_call/3, handle_cast/2, handle_info/2, terminate/2]).

-define(BACKOFF_FIRST_MS, 50).
-define(BACKOFF_LAST_MS, 5000).
-define(STABLE_MS, 10000).          % a worker that lived this long resets the backoff
-define(REGISTER_MS, 15000).
-define(MAX_EARLY, 64).             % connections kept until net_kernel takes them; more are closed
-define(MAX_FAILURES, 128).         % nodes whose last failure is remembered
-define(FAILURE_WAIT_MS, 500).

-record(st, {worker = none :: none | pid(),          % a handover_carrier that said hello
             os_pid = 0 :: non_neg_integer(),         % of the worker's program
             starting = none :: none | pid(),
             started = 0 :: integer(),
             backoff = ?BACKOFF_FIRST_MS :: pos_integer(),
             restarts = 0 :: non_neg_integer(),
             waiting = [] :: [gen_server:from()],     % callers who want a worker
             registration = none :: none | map(),
             epmd = down :: handover | stock | down,
             kernel = none :: none | pid(),
             early = [] :: [{non_neg_integer(), handover_proto:connection()}],
             failures = #{} :: #{node() => {integer(), {atom(), term()}}},
             failure_waiters = [] :: [{node(), integer(), gen_server:from()}]}).

%% @doc The child of net_sup.
-spec child_spec() -> supervisor:child_spec().
child_spec() ->
    #{id => ?MODULE,
      start => {?MODULE, start_link, []},
      restart => temporary,
      shutdown => 900,
      type => worker,
      modules => [?MODULE]}.

-spec start_link() -> {ok, pid()} | {error, term()}.
start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% @doc Registers the node with the local EPMD, and again whenever that becomes necessary. Called while net_sup starts.
-spec register(map()) -> {ok, Creation :: integer()} | {error, duplicate_name | {atom(), term()}}.
register(Registration) ->
    case with_worker(fun(Worker) -> {Worker, handover_carrier:register(Worker, Registration)} end) of
        {Worker, {ok, Creation, Kind}} ->
            _ = ask({keep, Registration, Kind, Worker}, ok),
            {ok, Creation};
        {_Worker, Error} -> register_error(Error);
        Error -> register_error(Error)
    end.

register_error({error, duplicate_name, _}) -> {error, duplicate_name};
register_error({error, Reason, Detail}) -> {error, {Reason, Detail}}.

%% @doc From now on connections that are handed over go to Kernel, and Registration is what the node is registered by. Starts the
%% guard if it is not there.
-spec accept(pid(), none | map()) -> {ok, Guard :: pid()} | {error, term()}.
accept(Kernel, Registration) ->
    case ensure_started() of
        {ok, Guard} ->
            try gen_server:call(Guard, {accept, Kernel, Registration}, infinity) of
                ok -> {ok, Guard}
            catch
                exit:{Reason, _} -> {error, Reason}
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc A connection to a remote EPMD with HANDOVER_REQ sent.
-spec connect(map()) -> {ok, non_neg_integer(), handover_proto:connection()} | {error, atom(), term()}.
connect(Request) ->
    _ = ensure_started(),
    with_worker(fun(Worker) -> handover_carrier:connect(Worker, Request) end).

%% @doc Remembers why a connection failed.
-spec failed(node(), atom(), term()) -> ok.
failed(Node, Reason, Detail) ->
    gen_server:cast(?MODULE, {failed, Node, erlang:monotonic_time(), {Reason, Detail}}).

%% @doc Why the last connection to Node failed, at Since or later. Waits a moment for who is about to tell.
-spec last_failure(node(), integer()) -> {atom(), term()}.
last_failure(Node, Since) ->
    ask({last_failure, Node, Since}, {carrier_down, ""}).

%% @doc The last failure that is remembered of Node, and when it was (erlang:monotonic_time()).
-spec failure(node()) -> {integer(), {atom(), term()}} | none.
failure(Node) ->
    ask({failure, Node}, none).

-spec info() -> map().
info() ->
    ask(info, info(#st{})).

%% callbacks

%% @private
init([]) ->
    process_flag(trap_exit, true),
    handover_closer:start(),
    handover_dial:new(),
    handover_stats:new(),
    handover_telemetry:new(),
    handover_log_limit:new(),
    {ok, start_worker(#st{})}.

%% @private
handle_call(worker, From, #st{worker = none, waiting = Waiting} = S) ->
    {noreply, S#st{waiting = [From | Waiting]}};
handle_call(worker, _From, #st{worker = Worker} = S) ->
    {reply, {ok, Worker}, S};
handle_call({accept, Kernel, Registration}, _From, #st{early = Early} = S) ->
    lists:foreach(fun({Fd, Connection}) -> handover_keeper:accept(Kernel, Fd, Connection) end, lists:reverse(Early)),
    lists:foreach(fun(Worker) -> handover_carrier:accept(Worker, Kernel) end, workers(S)),
    {reply, ok, keep(Registration, S#st{kernel = Kernel, early = []})};
handle_call({keep, Registration, Kind, Worker}, _From, #st{worker = Worker} = S) ->
    {reply, ok, S#st{registration = Registration, epmd = Kind}};
handle_call({keep, Registration, _, _}, _From, S) ->
    {reply, ok, keep(Registration, S)};
handle_call({last_failure, Node, Since}, From, S) ->
    last_failure(maps:get(Node, S#st.failures, none), Node, Since, From, S);
handle_call({failure, Node}, _From, S) ->
    {reply, maps:get(Node, S#st.failures, none), S};
handle_call(info, _From, S) ->
    {reply, info(S), S};
handle_call(_, _From, S) ->
    {reply, {error, unknown_call}, S}.

%% What handover_carrier:start_link/3 lists, and failed/3.
%% @private
handle_cast({ready, Worker, OsPid}, #st{starting = Worker, waiting = Waiting} = S) ->
    lists:foreach(fun(From) -> gen_server:reply(From, {ok, Worker}) end, Waiting),
    {noreply, S#st{worker = Worker, os_pid = OsPid, starting = none, waiting = []}};
handle_cast({epmd, Epmd}, S) ->
    {noreply, S#st{epmd = Epmd}};
handle_cast({handed_over, Fd, Connection}, S) ->
    {noreply, take(Fd, Connection, S)};
handle_cast({failed, Node, Time, Failure}, S) ->
    {noreply, remember(Node, Time, Failure, S)};
handle_cast(_, S) ->
    {noreply, S}.

%% @private
handle_info({'EXIT', Pid, Reason}, #st{worker = Worker, starting = Starting} = S)
  when Pid =:= Worker; Pid =:= Starting ->
    {noreply, restart_later(Reason, S)};
handle_info(start_worker, S) ->
    {noreply, start_worker(S)};
handle_info({log_minute_over, Key}, S) ->
    handover_event:minute_over(Key),
    {noreply, S};
handle_info({waited, From}, #st{failure_waiters = Waiters} = S) ->
    {noreply, S#st{failure_waiters = answer_waiters(fun({_, _, F}) -> F =:= From end, {timeout, ""}, Waiters)}};
handle_info(_, S) ->
    {noreply, S}.

%% @private
terminate(_Reason, S) ->
    lists:foreach(fun handover_carrier:stop/1, workers(S)).

%% internal: the guard itself

ask(Question, Otherwise) ->
    try gen_server:call(?MODULE, Question, infinity) catch exit:_ -> Otherwise end.

%% Not in a process that net_sup waits for.
ensure_started() ->
    case whereis(?MODULE) of
        undefined ->
            try supervisor:start_child(net_sup, child_spec()) of
                {ok, Guard} -> {ok, Guard};
                {error, {already_started, Guard}} -> {ok, Guard};
                {error, Reason} -> {error, Reason}
            catch
                exit:{Reason, _} -> {error, Reason}      % the distribution is being stopped
            end;
        Guard ->
            {ok, Guard}
    end.

%% internal: the worker

%% A worker that did not register itself is told to.
keep(none, S) ->
    S;
keep(_, #st{registration = Registration} = S) when Registration =/= none ->
    S;
keep(Registration, S) ->
    lists:foreach(fun(Worker) -> handover_carrier:keep(Worker, Registration) end, workers(S)),
    S#st{registration = Registration}.

workers(#st{worker = Worker, starting = Starting}) ->
    [Pid || Pid <- [Worker, Starting], is_pid(Pid)].

with_worker(Fun) ->
    try
        case gen_server:call(?MODULE, worker, ?REGISTER_MS) of
            {ok, Worker} -> Fun(Worker);
            {error, carrier_down, _} = Error -> Error
        end
    catch
        exit:{Reason, _} -> {error, carrier_down, Reason}
    end.

start_worker(#st{registration = Registration, kernel = Kernel} = S) ->
    try handover_carrier:start_link(self(), Registration, Kernel) of
        {ok, Worker} -> S#st{starting = Worker, started = now_ms()};
        {error, Reason} -> restart_later(Reason, S#st{started = now_ms()})
    catch
        error:Reason -> restart_later(Reason, S#st{started = now_ms()})
    end.

%% Who waits for a program that does not even start is told why; who asks later waits for the next try.
restart_later(Reason, #st{started = Started, backoff = Backoff, restarts = Restarts, waiting = Waiting} = S) ->
    lists:foreach(fun(From) -> gen_server:reply(From, {error, carrier_down, Reason}) end, Waiting),
    Ms = case now_ms() - Started > ?STABLE_MS of
             true -> ?BACKOFF_FIRST_MS;
             false -> Backoff
         end,
    handover_event:emit(warning, carrier_ended, #{reason => Reason, restart_ms => Ms}),
    erlang:send_after(Ms, self(), start_worker),
    S#st{worker = none, starting = none, waiting = [], epmd = down, restarts = Restarts + 1,
         backoff = min(Ms * 2, ?BACKOFF_LAST_MS)}.

now_ms() ->
    erlang:monotonic_time(millisecond).

%% internal: connections

take(Fd, Connection, #st{kernel = Kernel} = S) when is_pid(Kernel) ->
    handover_keeper:accept(Kernel, Fd, Connection),
    S;
take(Fd, Connection, #st{early = Early} = S) when length(Early) < ?MAX_EARLY ->
    S#st{early = [{Fd, Connection} | Early]};
take(Fd, Connection, S) ->
    handover_closer:close(Fd, Connection),
    S.

%% internal: failures

last_failure({Time, Failure}, _Node, Since, _From, S) when Time >= Since ->
    {reply, Failure, S};
last_failure(_, Node, Since, From, #st{failure_waiters = Waiters} = S) ->
    erlang:send_after(?FAILURE_WAIT_MS, self(), {waited, From}),
    {noreply, S#st{failure_waiters = [{Node, Since, From} | Waiters]}}.

remember(Node, Time, Failure, #st{failures = Failures, failure_waiters = Waiters} = S) ->
    Kept = case maps:size(Failures) < ?MAX_FAILURES of
               true -> Failures;
               false -> #{}
           end,
    Answered = answer_waiters(fun({N, Since, _}) -> N =:= Node andalso Time >= Since end, Failure, Waiters),
    S#st{failures = Kept#{Node => {Time, Failure}}, failure_waiters = Answered}.

answer_waiters(Which, Answer, Waiters) ->
    {Now, Later} = lists:partition(Which, Waiters),
    lists:foreach(fun({_, _, From}) -> gen_server:reply(From, Answer) end, Now),
    Later.

info(#st{worker = none, restarts = Restarts, epmd = Epmd}) ->
    #{carrier => down, epmd => Epmd, restarts => Restarts};
info(#st{os_pid = OsPid, restarts = Restarts, epmd = Epmd}) ->
    #{carrier => up, epmd => Epmd, restarts => Restarts, os_pid => OsPid}.
