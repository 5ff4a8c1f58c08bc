%% An -epmd_module that needs no EPMD, like that of OTP's distribution_SUITE. It stores the port that the node registers
%% in kernel's environment variable handover_ct_listens. The argument -handover_ct_port has the port of every other
%% node.
-module(handover_ct_directory).

-export([start_link/0, register_node/2, register_node/3, port_please/2, creation/0]).

start_link() -> ignore.

register_node(Name, Port) -> register_node(Name, Port, inet_tcp).

register_node(_Name, Port, _Driver) ->
    application:set_env(kernel, handover_ct_listens, Port),
    {ok, creation()}.

creation() -> 4711.

port_please(_Name, _Ip) ->
    case init:get_argument(handover_ct_port) of
        error -> {port, 42, 5};
        {ok, [["none"]]} -> noport;
        {ok, [[Port]]} -> {port, list_to_integer(Port), 5}
    end.
