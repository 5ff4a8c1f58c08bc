%% A module that `dial_module' names in the suites: it says what the environment of the node's kernel says.
-module(handover_ct_dial).

-export([route/1, askers/0]).

route(Node) ->
    application:set_env(kernel, handover_ct_askers, [process_info(self(), registered_name) | askers()]),
    case application:get_env(kernel, handover_ct_route, default) of
        crash -> error({no_route, Node});
        Route -> Route
    end.

%% The names of the processes that have asked.
askers() ->
    application:get_env(kernel, handover_ct_askers, []).
