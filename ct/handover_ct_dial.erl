%% A module that `dial_module' names in the suites: it says what the environment of the node's kernel says.
-module(handover_ct_dial).

-export([route/1]).

route(Node) ->
    case application:get_env(kernel, handover_ct_route, default) of
        crash -> error({no_route, Node});
        Route -> Route
    end.
