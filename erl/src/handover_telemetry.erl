%% @doc The event callback: `telemetry' names a module whose execute/3 is called with each event, as
%% `Module:execute([handover, Event], Measurements, Metadata)'. That is the form of the telemetry library, so
%% `telemetry' itself can be named; handover does not depend on it.
%%
%% A callback runs in a process of its own. One that crashes is counted, and the first is logged; while 100 are at work
%% further events are counted and dropped.
-module(handover_telemetry).

-export([new/0, event/2]).
-export([run/3]).

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

%% @doc Passes an event on to the callback, if there is one.
-spec event(atom(), map()) -> ok.
event(telemetry_failed, _) ->
    ok;
event(Event, Fields) ->
    case handover_config:get(telemetry) of
        none -> ok;
        Module -> start(Module, Event, Fields, persistent_term:get(?MODULE, none))
    end.

start(_, _, _, none) ->
    ok;
start(Module, Event, Fields, Calls) ->
    case atomics:add_get(Calls, ?AT_WORK, 1) of
        N when N =< ?MOST -> run_beside(Module, Event, Fields, Calls);
        _ -> drop(Calls)
    end.

run_beside(Module, Event, Fields, Calls) ->
    try spawn(?MODULE, run, [Module, Event, Fields]) of
        _ -> ok
    catch
        error:_ -> drop(Calls)           % no process can be made at the moment
    end.

drop(Calls) ->
    atomics:sub(Calls, ?AT_WORK, 1),
    handover_stats:count(telemetry_failed, #{}).

%% @private
-spec run(module(), atom(), map()) -> ok.
run(Module, Event, Fields) ->
    try Module:execute([handover, Event], maps:merge(#{count => 1}, maps:with([duration], Fields)),
                       maps:without([duration, label], Fields)) of
        _ -> ok
    catch
        Class:Reason -> failed(Module, {Class, Reason})
    after
        atomics:sub(persistent_term:get(?MODULE), ?AT_WORK, 1)
    end.

failed(Module, Reason) ->
    case atomics:add_get(persistent_term:get(?MODULE), ?FAILED, 1) of
        1 -> handover_log:event(warning, telemetry_failed, #{module => Module, reason => Reason});
        _ -> handover_stats:count(telemetry_failed, #{})
    end.
