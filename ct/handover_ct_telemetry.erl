%% What `telemetry' names in the suites: it keeps the events, or does what the environment of the node's kernel says.
-module(handover_ct_telemetry).

-export([execute/3, got/0, release/0]).

execute(Event, Measurements, Metadata) ->
    case application:get_env(kernel, handover_ct_telemetry, keep) of
        keep -> logger:info(#{label => {handover, {telemetry, Event}}, measurements => Measurements, metadata => Metadata});
        crash -> error(no_good);
        hang -> receive release -> ok end
    end.

%% Needs handover_ct:logs/1.
got() ->
    [{Event, Measurements, Metadata}
     || #{event := {telemetry, Event}, measurements := Measurements, metadata := Metadata} <- handover_ct_logs:get()].

%% Lets go of all that hang.
release() ->
    [P ! release || P <- processes(), {initial_call, {handover_telemetry, run, 4}} =:= process_info(P, initial_call)],
    ok.
