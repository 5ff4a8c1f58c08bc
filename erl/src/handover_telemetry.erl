%% @doc The event callback: `telemetry' names a module whose execute/3 is called with each event, as
%% `Module:execute([handover, Event], Measurements, Metadata)'. That is the form of the telemetry library, so
%% `telemetry' itself can be named; handover does not depend on it.
%%
%% A callback runs in a process of its own. One that crashes is counted, and the first is reported; while 100 are at work further
%% events are counted and dropped.
-module(handover_telemetry).

-export([new/0, event/3]).
-export([run/4]).

-type failed() :: fun((module(), Reason :: term()) -> ok).

%% In atomics: the calls at work, and those that failed.
-define(AT_WORK, 1).
-define(FAILED, 2).
-define(MOST, 100).

-spec new() -> ok.
new() ->
    case persistent_term:get(?MODULE, none) of
        none -> persistent_term:put(?MODULE, atomics:new(2, []));
        _ -> ok
    end.

%% @doc Passes an event on to the callback, if there is one. Failed is called when a callback fails for the first time.
-spec event(atom(), map(), failed()) -> ok.
event(telemetry_failed, _, _) ->
    ok;
event(Event, Fields, Failed) ->
    case handover_config:get(telemetry) of
        none -> ok;
        Module -> start(Module, Event, Fields, Failed, persistent_term:get(?MODULE, none))
    end.

start(_, _, _, _, none) ->
    ok;
start(Module, Event, Fields, Failed, Calls) ->
    case atomics:add_get(Calls, ?AT_WORK, 1) of
        N when N =< ?MOST -> run_beside(Module, Event, Fields, Failed, Calls);
        _ -> drop(Calls)
    end.

run_beside(Module, Event, Fields, Failed, Calls) ->
    try spawn(?MODULE, run, [Module, Event, Fields, Failed]) of
        _ -> ok
    catch
        error:_ -> drop(Calls)           % no process can be made at the moment
    end.

drop(Calls) ->
    atomics:sub(Calls, ?AT_WORK, 1),
    handover_stats:count(telemetry_failed, #{}).

%% @private
-spec run(module(), atom(), map(), failed()) -> ok.
run(Module, Event, Fields, Failed) ->
    try Module:execute([handover, Event], maps:merge(#{count => 1}, maps:with([duration], Fields)),
                       maps:without([duration, label], Fields)) of
        _ -> ok
    catch
        Class:Reason -> failed(Module, {Class, Reason}, Failed)
    after
        atomics:sub(persistent_term:get(?MODULE), ?AT_WORK, 1)
    end.

failed(Module, Reason, Failed) ->
    case atomics:add_get(persistent_term:get(?MODULE), ?FAILED, 1) of
        1 -> Failed(Module, Reason);
        _ -> handover_stats:count(telemetry_failed, #{})
    end.
