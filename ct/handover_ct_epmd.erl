%% An -epmd_module that knows the addresses of some hosts and leaves everything else to erl_epmd, as users write them.
-module(handover_ct_epmd).

-export([start_link/0, register_node/2, register_node/3, address_please/3, port_please/2, port_please/3, names/1]).
-export([calls/0]).

start_link() -> erl_epmd:start_link().
register_node(Name, Port) -> erl_epmd:register_node(Name, Port).
register_node(Name, Port, Driver) -> erl_epmd:register_node(Name, Port, Driver).
port_please(Name, Host) -> erl_epmd:port_please(Name, Host).
port_please(Name, Host, Timeout) -> erl_epmd:port_please(Name, Host, Timeout).
names(Host) -> erl_epmd:names(Host).

address_please(Name, "nowhere.invalid" = Host, inet) ->
    application:set_env(kernel, handover_ct_calls, [{address_please, Name, Host} | calls()]),
    {ok, {127, 0, 0, 1}};
address_please(Name, "direct.invalid" = Host, inet) ->
    application:set_env(kernel, handover_ct_calls, [{address_please, Name, Host} | calls()]),
    {ok, {127, 0, 0, 1}, application:get_env(kernel, handover_ct_port, 1), 6};
address_please(_Name, Host, Family) ->
    inet:getaddr(Host, Family).

%% The calls of address_please/3 for the hosts that this module knows, the last one first.
calls() -> application:get_env(kernel, handover_ct_calls, []).
