%% A telemetry module for the suites. Kernel's environment variable handover_ct_telemetry says what execute/3 does: keep
%% (the default) stores the event, hang waits for release/0.
-module(handover_ct_telemetry).

-export([execute/3, events/0, release/0]).

execute(Event, Measurements, Metadata) ->
    case application:get_env(kernel, handover_ct_telemetry, keep) of
        keep ->
            logger:info(#{label => {handover, {telemetry, Event}}, measurements => Measurements, metadata => Metadata});
        hang -> receive release -> ok end
    end.

%% The stored events. handover_ct:record_reports/1 must have been called on this node, because they are stored as
%% reports.
events() ->
    [{Event, Measurements, Metadata}
     || #{event := {telemetry, Event}, measurements := Measurements, metadata := Metadata} <- handover_ct_logs:get()].

%% Ends the calls of execute/3 that hang.
release() ->
    [P ! release || P <- processes(), {initial_call, {handover_telemetry, run, 4}} =:= process_info(P, initial_call)],
    ok.
