%% A dial_module for the suites. It returns what kernel's environment variable handover_ct_route has.
-module(handover_ct_dial).

-export([route/1, callers/0]).

route(Node) ->
    application:set_env(kernel, handover_ct_callers, [process_info(self(), registered_name) | callers()]),
    case application:get_env(kernel, handover_ct_route, default) of
        crash -> error({no_route, Node});
        Route -> Route
    end.

%% process_info(Pid, registered_name) of each process that has called route/1.
callers() ->
    application:get_env(kernel, handover_ct_callers, []).
