%% @doc Calls the module that the key `telemetry' names for each event: `Module:execute([handover, Event], Measurements,
%% Metadata)'. The telemetry library has this function, so the key can be `telemetry' itself; handover does not depend
%% on that library.
%%
%% Each call runs in a process of its own. Calls that crash are counted, and the first crash is reported. While 100
%% calls are running, further events are dropped and counted.
-module(handover_telemetry).

-export([new/0, notify/3]).
-export([run/4]).

-type on_failure() :: fun((module(), Reason :: term()) -> ok).

%% Indexes in the atomics array: how many calls are running, and how many have crashed.
-define(RUNNING, 1).
-define(FAILED, 2).
-define(MAX_RUNNING, 100).

%% @doc Creates the atomics array. Is a no-op if it exists.
-spec new() -> ok.
new() ->
    case persistent_term:get(?MODULE, none) of
        none -> persistent_term:put(?MODULE, atomics:new(2, []));
        _ -> ok
    end.

%% @doc Passes an event to the configured module, if any. Returns at once. Calls OnFailure when a call crashes for the
%% first time, in the process of that call.
-spec notify(atom(), map(), on_failure()) -> ok.
notify(telemetry_failed, _, _) ->
    ok;
notify(Event, Fields, OnFailure) ->
    case handover_config:get(telemetry) of
        none -> ok;
        Module -> start_callback(Module, Event, Fields, OnFailure, persistent_term:get(?MODULE, none))
    end.

start_callback(_, _, _, _, none) ->
    ok;
start_callback(Module, Event, Fields, OnFailure, Calls) ->
    case atomics:add_get(Calls, ?RUNNING, 1) of
        N when N =< ?MAX_RUNNING -> spawn_callback(Module, Event, Fields, OnFailure, Calls);
        _ -> drop(Calls)
    end.

spawn_callback(Module, Event, Fields, OnFailure, Calls) ->
    try spawn(?MODULE, run, [Module, Event, Fields, OnFailure]) of
        _ -> ok
    catch
        error:_ -> drop(Calls)           % the process limit is reached
    end.

drop(Calls) ->
    atomics:sub(Calls, ?RUNNING, 1),
    handover_stats:count(telemetry_failed, #{}).

%% @private
-spec run(module(), atom(), map(), on_failure()) -> ok.
run(Module, Event, Fields, OnFailure) ->
    try Module:execute([handover, Event], maps:merge(#{count => 1}, maps:with([duration], Fields)),
                       maps:without([duration, label], Fields)) of
        _ -> ok
    catch
        Class:Reason -> callback_failed(Module, {Class, Reason}, OnFailure)
    after
        atomics:sub(persistent_term:get(?MODULE), ?RUNNING, 1)
    end.

callback_failed(Module, Reason, OnFailure) ->
    case atomics:add_get(persistent_term:get(?MODULE), ?FAILED, 1) of
        1 -> OnFailure(Module, Reason);
        _ -> handover_stats:count(telemetry_failed, #{})
    end.
