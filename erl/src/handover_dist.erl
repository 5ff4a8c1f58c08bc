%% @doc What the callbacks of handover_tcp_dist and handover_tcp6_dist have in common. `Driver' is inet_tcp or inet6_tcp.
-module(handover_dist).

-export([childspecs/1, listen/3, address/1, close/1, select/2, setopts/2, getopts/2, is_node_name/1]).
-export([preload/0, preload_later/0, registration/1, drivers/1, is_address/2, address/4, uses_epmd/0, has_node_port/2, listener/1,
         epmd_call/2]).

-export_type([listen/0]).

-include_lib("kernel/include/net_address.hrl").

-record(listen, {driver :: module(),
                 socket :: port() | none,                    % none: `listen' is off, or not bound to any port
                 registration = none :: none | map()}).      % none: EPMD does not know the node

-opaque listen() :: #listen{}.

%% A dist version below 6 is of OTP 22 and older, which this library does not run on.
-define(HIGHEST, 6).
-define(LOWEST, 5).
-define(NODE_TYPE_NORMAL, 77).

%% Whether EPMD knows this node, or a module that -epmd_module names and that does without EPMD. Not there before the node is
%% registered, and on a node that does not listen.
-define(USES_EPMD, {?MODULE, uses_epmd}).

%% callbacks

%% Of several protocols of ours (`-proto_dist handover_tcp handover_tcp6') the first brings the child.
-spec childspecs(Protocol :: string()) -> {ok, [supervisor:child_spec()]}.
childspecs(Protocol) ->
    {ok, [Protocols]} = init:get_argument(proto_dist),
    case lists:filter(fun(P) -> lists:prefix("handover_tcp", P) end, Protocols) of
        [Protocol | _] -> childspecs();
        _ -> {ok, []}
    end.

childspecs() ->
    _ = persistent_term:erase(?USES_EPMD),
    {ok, [handover_guard:child_spec()]}.

-spec listen(module(), atom(), string()) -> {ok, {listen(), tuple(), integer()}} | {error, term()}.
listen(Driver, Name, Host) ->
    maybe_listen(handover_config:check(), Driver, Name, Host).

maybe_listen(ok, Driver, Name, Host) ->
    case open(Driver, Name, Host) of
        {ok, Listen, Address} -> register(Listen, Address, Name);
        {error, _} = Error -> Error
    end;
maybe_listen({error, _} = Error, _, _, _) ->
    Error.

-spec address(module()) -> tuple().
address(Driver) ->
    {ok, Host} = inet:gethostname(),
    #net_address{host = Host, protocol = handover_socket:protocol(), family = Driver:family()}.

-spec close(listen()) -> ok.
close(#listen{socket = none}) -> ok;
close(#listen{driver = Driver, socket = Socket}) -> _ = Driver:close(Socket), ok.

%% Runs inside net_kernel (before OTP 29), so it asks nobody: it looks at the name only. Whether the node can be reached, and by which
%% family, the setup finds out in its own process. A name without a host is refused here: net_kernel never takes down a setup
%% of the node `undefined', and whoever waits for it would wait forever.
-spec select(module(), node()) -> boolean().
select(Driver, Node) ->
    case dist_util:split_node(Node) of
        {node, _Name, Host} -> is_alone() orelse is_for(drivers(Driver), Host);
        _ -> false
    end.

is_alone() ->
    {ok, [Protocols | _]} = init:get_argument(proto_dist),
    length(Protocols) =:= 1.

%% Addresses of the other family are for another protocol, if that is not one of ours.
is_for([Driver], Host) -> is_address(Driver, Host) orelse not is_address(other(Driver), Host);
is_for([_, _], _) -> true.

other(inet_tcp) -> inet6_tcp;
other(inet6_tcp) -> inet_tcp.

%% net_kernel:setopts(new, ...) comes here first; what it changes for handed-over connections it leaves in kernel's
%% environment, where handover_socket:options/1 finds it.
-spec setopts(listen() | port() | undefined, list()) -> ok | {error, term()}.
setopts(Listen, Options) ->
    handover_socket:setopts(socket(Listen), Options).

-spec getopts(listen() | port() | undefined, list()) -> {ok, list()} | {error, term()}.
getopts(Listen, Options) ->
    handover_socket:getopts(socket(Listen), Options).

socket(#listen{socket = Socket}) -> Socket;
socket(Socket) -> Socket.

-spec is_node_name(term()) -> boolean().
is_node_name(Node) ->
    is_atom(Node) andalso dist_util:is_node_name(atom_to_list(Node)).

%% for the siblings

%% What OTP logs with. It loads much of that with the first report, and if that fails it removes its default handler for good.
-define(OTP_MODULES,
        [logger, logger_backend, logger_config, logger_filters, logger_formatter, logger_h_common, logger_handler_watcher,
         logger_olp, logger_proxy, logger_server, logger_simple_h, logger_std_h, error_logger, proc_lib, sys,
         gen, gen_event, gen_server, gen_statem, supervisor, supervisor_bridge,
         io, io_lib, io_lib_format, io_lib_pretty, unicode, unicode_util, string, calendar, timer, queue, re, maps, sets, ordsets,
         proplists, filename, erl_error, erl_anno, erl_scan, erl_internal, erl_erts_errors, erl_stdlib_errors, erl_kernel_errors,
         dist_util, erpc, erl_epmd, socket, inet_parse, inet_tcp, inet6_tcp]).

%% @doc Loads what is not loaded yet of handover, and of OTP what is needed to log, while files can be opened: a node that has run out
%% of descriptors could not. Not before the node is up: it would take a tenth of the boot.
-spec preload() -> ok.
preload() ->
    _ = application:load(handover),
    Ours = case application:get_key(handover, modules) of
               {ok, Modules} -> Modules;
               undefined -> []               % no handover.app in the path
           end,
    lists:foreach(fun code:ensure_loaded/1, Ours ++ ?OTP_MODULES).

%% @doc As preload/0, in a process of its own.
-spec preload_later() -> ok.
preload_later() ->
    try spawn(?MODULE, preload, []) of
        _ -> ok
    catch
        error:_ -> ok                    % no process can be made at the moment
    end.

%% @doc What the node is registered with EPMD by.
-spec registration(listen()) -> none | map().
registration(#listen{registration = Registration}) -> Registration.

%% @doc The drivers that a setup which was given Driver tries, in this order: with both protocols configured, that of the first.
-spec drivers(module()) -> [module()].
drivers(Driver) ->
    {ok, [Protocols | _]} = init:get_argument(proto_dist),
    case [D || Protocol <- Protocols, D <- [driver(Protocol)], D =/= none] of
        [_, _] = Both -> Both;
        _ -> [Driver]
    end.

driver("handover_tcp") -> inet_tcp;
driver("handover_tcp6") -> inet6_tcp;
driver(_) -> none.

%% @doc Reports whether Host is an IP address of the driver's family.
-spec is_address(module(), string()) -> boolean().
is_address(Driver, Host) ->
    element(1, Driver:parse_address(Host)) =:= ok.

%% @doc The address of a node's host, or of where {@link handover_dial} says to dial instead. The module that
%% `-epmd_module' names is asked for the former only, and may know the node's port as well; erl_epmd asks the resolver, which
%% takes longer than all else here where the host is an address.
-spec address(module(), handover_dial:source(), string(), string() | inet:ip_address()) ->
          {ok, inet:ip_address()} | {ok, inet:ip_address(), inet:port_number(), integer()} | {error, term()}.
address(Driver, name, Name, Host) ->
    case net_kernel:epmd_module() =:= erl_epmd andalso Driver:parse_address(Host) of
        {ok, Ip} -> {ok, Ip};
        _ -> epmd_call(address_please, [Name, Host, Driver:family()])
    end;
address(Driver, _, _, Host) ->
    inet:getaddr(Host, Driver:family()).

%% @doc Reports whether nodes are found by EPMD: OTP's erl_epmd is used, or by the module that -epmd_module names.
-spec uses_epmd() -> boolean().
uses_epmd() ->
    case persistent_term:get(?USES_EPMD, unknown) of
        unknown -> net_kernel:epmd_module() =:= erl_epmd orelse is_pid(whereis(erl_epmd));
        UsesEpmd -> UsesEpmd
    end.

%% @doc Reports whether all nodes listen at one port that is known without asking (`-erl_epmd_port', and from OTP 27 on kernel's
%% `erl_epmd_node_listen_port').
-spec has_node_port(string() | atom(), string()) -> boolean().
has_node_port(Name, Host) ->
    erl_epmd:listen_port_please(Name, Host) =/= {ok, 0}.

-spec listener(listen()) -> {module(), port() | none}.
listener(#listen{driver = Driver, socket = Socket}) -> {Driver, Socket}.

%% @doc Calls the module that `-epmd_module' names, or erl_epmd where that lacks the function.
-spec epmd_call(atom(), list()) -> term().
epmd_call(Function, Args) ->
    Module = net_kernel:epmd_module(),
    _ = code:ensure_loaded(Module),
    case erlang:function_exported(Module, Function, length(Args)) of
        true -> apply(Module, Function, Args);
        false -> apply(erl_epmd, Function, Args)
    end.

%% internal

open(Driver, Name, Host) ->
    Address = address(Driver),
    case handover_config:get(listen) of
        true -> open_port(Driver, Name, Host, Address);
        false -> open_none(Driver, Address)
    end.

%% Without a port of its own the node still takes connections only at the address that it would listen at.
open_none(Driver, Address) ->
    case Driver:listen(0, listen_options()) of
        {ok, Socket} ->
            {ok, {Ip, _}} = inet:sockname(Socket),
            _ = Driver:close(Socket),
            {ok, #listen{driver = Driver, socket = none}, Address#net_address{address = {Ip, 0}}};
        {error, _} = Error ->
            Error
    end.

open_port(Driver, Name, Host, Address) ->
    {First, Last} = case epmd_call(listen_port_please, [Name, Host]) of
                        {ok, 0} -> port_range();
                        {ok, Port} -> {Port, Port}
                    end,
    case first_free(Driver, First, Last, listen_options()) of
        {ok, Socket} ->
            {ok, Bound} = inet:sockname(Socket),
            {ok, #listen{driver = Driver, socket = Socket}, Address#net_address{address = Bound}};
        {error, _} = Error ->
            Error
    end.

any(inet_tcp) -> {0, 0, 0, 0};
any(inet6_tcp) -> {0, 0, 0, 0, 0, 0, 0, 0}.

port_range() ->
    case {application:get_env(kernel, inet_dist_listen_min), application:get_env(kernel, inet_dist_listen_max)} of
        {{ok, Min}, {ok, Max}} when is_integer(Min), is_integer(Max) -> {Min, Max};
        {{ok, Min}, _} when is_integer(Min) -> {Min, Min};
        _ -> {0, 0}
    end.

first_free(_Driver, First, Last, _Options) when First > Last ->
    {error, eaddrinuse};
first_free(Driver, First, Last, Options) ->
    case Driver:listen(First, Options) of
        {error, eaddrinuse} -> first_free(Driver, First + 1, Last, Options);
        Other -> Other
    end.

%% Defaults first, then the user's, then what the distribution needs: the last one counts.
listen_options() ->
    User = application:get_env(kernel, inet_dist_listen_options, []),
    Interface = case application:get_env(kernel, inet_dist_use_interface) of
                    {ok, Ip} -> [{ip, Ip}];
                    undefined -> []
                end,
    Forced = [{active, false}, {packet, 2} | Interface],
    Given = [Key || {Key, _} <- User],
    [D || {Key, _} = D <- [{reuseaddr, true}, {backlog, 128}], not lists:member(Key, Given)]
        ++ [O || O <- User, not lists:keymember(option_key(O), 1, Forced)]
        ++ Forced.

option_key(Option) when is_tuple(Option) -> element(1, Option);
option_key(Option) -> Option.

register(#listen{driver = Driver} = Listen, #net_address{address = {_, Port} = Bound} = Address, Name) ->
    Marked = handover_erl_epmd:mark(Name, Port, Driver:family()),
    case registered(net_kernel:epmd_module(), Listen, Bound, Name) of
        {ok, Registered, Creation} ->
            persistent_term:put(?USES_EPMD, is_by_carrier(Registered) orelse net_kernel:epmd_module() =:= erl_epmd),
            Marked andalso not is_by_carrier(Registered) andalso handover_erl_epmd:unmark(),
            {ok, {Registered, Address, Creation}};
        {error, _} = Error ->
            Marked andalso handover_erl_epmd:unmark(),
            close(Listen),
            Error
    end.

is_by_carrier(#listen{registration = Registration}) -> Registration =/= none.

%% What a module of the user's answers counts, as with inet_tcp. If it passes the question on to erl_epmd, that says that the node is
%% registered already, and so it will be, by the carrier.
registered(erl_epmd, Listen, Bound, Name) ->
    by_carrier(Listen, Bound, Name);
registered(Module, #listen{driver = Driver} = Listen, {_, Port} = Bound, Name) ->
    case Module:register_node(Name, Port, Driver) of
        {ok, Creation} ->
            handover_event:emit(notice, not_registered, #{name => Name, reason => "-epmd_module has registered it elsewhere"}),
            {ok, Listen, Creation};
        {error, already_registered} -> by_carrier(Listen, Bound, Name);
        {error, _} = Error -> Error;
        Other -> {error, Other}
    end.

by_carrier(#listen{driver = Driver} = Listen, {Ip, Port}, Name) ->
    Registration = registration(Driver, Name, Ip, Port),
    case handover_guard:register(Registration) of
        {ok, Creation} -> {ok, Listen#listen{registration = Registration}, Creation};
        {error, Reason} -> without_epmd(has_node_port(Name, ""), Listen, Name, Reason)
    end.

%% A node that can be reached without EPMD starts without it, as OTP's does.
without_epmd(true, Listen, Name, Reason) ->
    handover_event:emit(warning, not_registered, #{name => Name, reason => Reason}),
    {ok, Listen, -1};
without_epmd(false, _, _, Reason) ->
    {error, Reason}.

registration(Driver, Name, Ip, Port) ->
    #{name => atom_to_binary(Name, utf8),
      port => Port,
      bind => case any(Driver) of Ip -> <<>>; _ -> handover_proto:ip_to_binary(Ip) end,
      address => handover_proto:ip_to_binary(loopback(Driver)),
      epmd_port => handover_config:epmd_port(),
      highest => ?HIGHEST,
      lowest => ?LOWEST,
      node_type => ?NODE_TYPE_NORMAL,
      extra => extra()}.

%% EPMD's listener is bound to no device and to no other network namespace, so connections that it hands over may come from anywhere.
extra() ->
    case [O || {Key, _} = O <- application:get_env(kernel, inet_dist_listen_options, []), Key =:= bind_to_device orelse Key =:= netns] of
        [] ->
            <<"handover/1">>;
        [Option | _] ->
            handover_event:emit(warning, unsupported_option,
                               #{option => Option, reason => "this node takes no handovers, which could come from elsewhere"}),
            <<>>
    end.

loopback(inet_tcp) -> {127, 0, 0, 1};
loopback(inet6_tcp) -> {0, 0, 0, 0, 0, 0, 0, 1}.
