%% @doc Implements the callbacks that handover_tcp_dist and handover_tcp6_dist share: it opens the node's own port and
%% registers the node with EPMD. Also has helpers for the setup of connections. `Driver' is inet_tcp or
%% inet6_tcp.
-module(handover_dist).

-export([childspecs/1, listen/3, address/1, close/1, select/2, setopts/2, getopts/2, is_node_name/1]).
-export([preload_modules/0, preload_modules_later/0, registration/1, listener/1, drivers/1, is_address/2, resolve/4,
         uses_epmd/0, has_fixed_port/2, epmd_call/2]).

-export_type([listen/0]).

-include_lib("kernel/include/net_address.hrl").

-record(listen, {driver :: module(),
                 socket :: port() | none,                    % none: `listen' is off
                 registration = none :: none | map()}).      % none: not registered by the carrier

-opaque listen() :: #listen{}.

%% The distribution versions that this node registers.
-define(HIGHEST, 6).
-define(LOWEST, 5).
-define(NODE_TYPE_NORMAL, 77).

%% Whether nodes are found by EPMD. It is false if -epmd_module names a module that does not use EPMD. Unset until the
%% node is registered, and on a node that does not listen.
-define(USES_EPMD, {?MODULE, uses_epmd}).

%% callbacks

%% @doc Returns the child specification of the guard. If both protocols of handover are configured (`-proto_dist
%% handover_tcp handover_tcp6'), only the first returns it.
-spec childspecs(Protocol :: string()) -> {ok, [supervisor:child_spec()]}.
childspecs(Protocol) ->
    {ok, [Protocols]} = init:get_argument(proto_dist),
    case lists:filter(fun(P) -> lists:prefix("handover_tcp", P) end, Protocols) of
        [Protocol | _] -> guard_childspec();
        _ -> {ok, []}
    end.

guard_childspec() ->
    _ = persistent_term:erase(?USES_EPMD),
    {ok, [handover_guard:child_spec()]}.

%% @doc Checks the configuration, opens the node's own port unless `listen' is off, and registers the node. Returns its
%% creation.
-spec listen(module(), atom(), string()) -> {ok, {listen(), tuple(), integer()}} | {error, term()}.
listen(Driver, Name, Host) ->
    maybe_listen(handover_config:check(), Driver, Name, Host).

maybe_listen(ok, Driver, Name, Host) ->
    case open_listen(Driver, Name, Host) of
        {ok, Listen, Address} -> register(Listen, Address, Name);
        {error, _} = Error -> Error
    end;
maybe_listen({error, _} = Error, _, _, _) ->
    Error.

%% @doc Returns the #net_address{} of a node that does not listen.
-spec address(module()) -> tuple().
address(Driver) ->
    {ok, Host} = inet:gethostname(),
    #net_address{host = Host, protocol = handover_socket:protocol(), family = Driver:family()}.

%% @doc Closes the node's own port.
-spec close(listen()) -> ok.
close(#listen{socket = none}) -> ok;
close(#listen{driver = Driver, socket = Socket}) -> _ = Driver:close(Socket), ok.

%% @doc Reports whether this protocol can connect to Node, judging by the name only. It makes no calls, because before
%% OTP 29 it runs inside net_kernel; handover_setup resolves the host in its own process.
%%
%% A name without a host must be refused here: net_kernel never ends a setup for the node `undefined', so a caller that
%% waits for it would wait forever.
-spec select(module(), node()) -> boolean().
select(Driver, Node) ->
    case dist_util:split_node(Node) of
        {node, _Name, Host} -> is_only_protocol() orelse serves_host(drivers(Driver), Host);
        _ -> false
    end.

is_only_protocol() ->
    {ok, [Protocols | _]} = init:get_argument(proto_dist),
    length(Protocols) =:= 1.

%% If only one protocol of handover is configured, an address of the other family is left to other protocols.
serves_host([Driver], Host) -> is_address(Driver, Host) orelse not is_address(other_driver(Driver), Host);
serves_host([_, _], _) -> true.

other_driver(inet_tcp) -> inet6_tcp;
other_driver(inet6_tcp) -> inet_tcp.

%% @doc Sets options of the node's own port; see {@link handover_socket:setopts/2}. net_kernel:setopts(new, ...) calls
%% this and also stores the options in kernel's environment, from where handover_socket:options/1 applies them to
%% handed-over connections.
-spec setopts(listen() | port() | undefined, list()) -> ok | {error, term()}.
setopts(Listen, Options) ->
    handover_socket:setopts(listen_socket(Listen), Options).

%% @doc Gets options of the node's own port; see {@link handover_socket:getopts/2}.
-spec getopts(listen() | port() | undefined, list()) -> {ok, list()} | {error, term()}.
getopts(Listen, Options) ->
    handover_socket:getopts(listen_socket(Listen), Options).

listen_socket(#listen{socket = Socket}) -> Socket;
listen_socket(Socket) -> Socket.

%% @doc Reports whether Node is an atom of the form name@host.
-spec is_node_name(term()) -> boolean().
is_node_name(Node) ->
    is_atom(Node) andalso dist_util:is_node_name(atom_to_list(Node)).

%% for the other modules of handover

%% The modules with which OTP logs. OTP loads many of them at the first report. If that fails, it removes its default
%% handler for good.
-define(OTP_MODULES,
        [logger, logger_backend, logger_config, logger_filters, logger_formatter, logger_h_common,
         logger_handler_watcher, logger_olp, logger_proxy, logger_server, logger_simple_h, logger_std_h, error_logger,
         proc_lib, sys,
         gen, gen_event, gen_server, gen_statem, supervisor, supervisor_bridge,
         io, io_lib, io_lib_format, io_lib_pretty, unicode, unicode_util, string, calendar, timer, queue, re, maps,
         sets, ordsets, proplists, filename, erl_error, erl_anno, erl_scan, erl_internal, erl_erts_errors,
         erl_stdlib_errors, erl_kernel_errors, dist_util, erpc, erl_epmd, socket, inet_parse, inet_tcp, inet6_tcp]).

%% @doc Loads all modules of handover, and the OTP modules that logging needs, because a node that has run out of
%% descriptors cannot load modules. Must be called after the node is up: it would make the boot a tenth slower.
-spec preload_modules() -> ok.
preload_modules() ->
    _ = application:load(handover),
    Ours = case application:get_key(handover, modules) of
               {ok, Modules} -> Modules;
               undefined -> []               % handover.app is not in the path
           end,
    lists:foreach(fun code:ensure_loaded/1, Ours ++ ?OTP_MODULES).

%% @doc Calls preload_modules/0 in a new process. Does nothing at the process limit.
-spec preload_modules_later() -> ok.
preload_modules_later() ->
    try spawn(?MODULE, preload_modules, []) of
        _ -> ok
    catch
        error:_ -> ok                    % the process limit is reached
    end.

%% @doc Returns the arguments of the registration with EPMD (see `register' in docs/PROTOCOL.md), or `none'.
-spec registration(listen()) -> none | map().
registration(#listen{registration = Registration}) -> Registration.

%% @doc Returns the drivers that a setup tries, in this order. If both protocols of handover are configured, these are
%% both drivers, in the configured order; otherwise only Driver.
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

%% @doc Resolves the host to dial. If Source is `name' (the host in the node's name), the module that `-epmd_module'
%% names resolves it, and may also return the node's port and version. A configured host is resolved by inet. An IP
%% address is not passed to erl_epmd, because its call of the resolver would take longer than the rest of the setup.
-spec resolve(module(), handover_dial:source(), string(), string() | inet:ip_address()) ->
          {ok, inet:ip_address()} | {ok, inet:ip_address(), inet:port_number(), integer()} | {error, term()}.
resolve(Driver, name, Name, Host) ->
    case net_kernel:epmd_module() =:= erl_epmd andalso Driver:parse_address(Host) of
        {ok, Ip} -> {ok, Ip};
        _ -> epmd_call(address_please, [Name, Host, Driver:family()])
    end;
resolve(Driver, _, _, Host) ->
    inet:getaddr(Host, Driver:family()).

%% @doc Reports whether nodes are found by EPMD. False if -epmd_module names a module that finds them in another way.
-spec uses_epmd() -> boolean().
uses_epmd() ->
    case persistent_term:get(?USES_EPMD, unknown) of
        unknown -> net_kernel:epmd_module() =:= erl_epmd orelse is_pid(whereis(erl_epmd));
        UsesEpmd -> UsesEpmd
    end.

%% @doc Reports whether the port of all nodes is configured (`-erl_epmd_port', and since OTP 27 kernel's
%% `erl_epmd_node_listen_port'), so that EPMD is not needed to find it.
-spec has_fixed_port(string() | atom(), string()) -> boolean().
has_fixed_port(Name, Host) ->
    erl_epmd:listen_port_please(Name, Host) =/= {ok, 0}.

%% @doc Returns the driver and the listen socket of the node's own port.
-spec listener(listen()) -> {module(), port() | none}.
listener(#listen{driver = Driver, socket = Socket}) -> {Driver, Socket}.

%% @doc Calls Function in the module that `-epmd_module' names, or in erl_epmd if that module does not export it.
-spec epmd_call(atom(), list()) -> term().
epmd_call(Function, Args) ->
    Module = net_kernel:epmd_module(),
    _ = code:ensure_loaded(Module),
    case erlang:function_exported(Module, Function, length(Args)) of
        true -> apply(Module, Function, Args);
        false -> apply(erl_epmd, Function, Args)
    end.

%% internal

open_listen(Driver, Name, Host) ->
    Address = address(Driver),
    case handover_config:get(listen) of
        true -> open_port(Driver, Name, Host, Address);
        false -> find_bound_address(Driver, Address)
    end.

%% Also without a port of its own, the node accepts handed-over connections only at the address at which it would
%% listen. To find that address, this opens a port and closes it.
find_bound_address(Driver, Address) ->
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
    case listen_in_range(Driver, First, Last, listen_options()) of
        {ok, Socket} ->
            {ok, Bound} = inet:sockname(Socket),
            {ok, #listen{driver = Driver, socket = Socket}, Address#net_address{address = Bound}};
        {error, _} = Error ->
            Error
    end.

any_address(inet_tcp) -> {0, 0, 0, 0};
any_address(inet6_tcp) -> {0, 0, 0, 0, 0, 0, 0, 0}.

port_range() ->
    case {application:get_env(kernel, inet_dist_listen_min), application:get_env(kernel, inet_dist_listen_max)} of
        {{ok, Min}, {ok, Max}} when is_integer(Min), is_integer(Max) -> {Min, Max};
        {{ok, Min}, _} when is_integer(Min) -> {Min, Min};
        _ -> {0, 0}
    end.

listen_in_range(_Driver, First, Last, _Options) when First > Last ->
    {error, eaddrinuse};
listen_in_range(Driver, First, Last, Options) ->
    case Driver:listen(First, Options) of
        {error, eaddrinuse} -> listen_in_range(Driver, First + 1, Last, Options);
        Other -> Other
    end.

%% The last value of an option counts, so the order is: defaults, the user's options, what the distribution needs.
listen_options() ->
    User = application:get_env(kernel, inet_dist_listen_options, []),
    Interface = case application:get_env(kernel, inet_dist_use_interface) of
                    {ok, Ip} -> [{ip, Ip}];
                    undefined -> []
                end,
    Forced = [{active, false}, {packet, 2} | Interface],
    UserKeys = [Key || {Key, _} <- User],
    [D || {Key, _} = D <- [{reuseaddr, true}, {backlog, 128}], not lists:member(Key, UserKeys)]
        ++ [O || O <- User, not lists:keymember(option_key(O), 1, Forced)]
        ++ Forced.

option_key(Option) when is_tuple(Option) -> element(1, Option);
option_key(Option) -> Option.

register(#listen{driver = Driver} = Listen, #net_address{address = {_, Port} = Bound} = Address, Name) ->
    Marked = handover_erl_epmd:mark(Name, Port, Driver:family()),
    case register_with(net_kernel:epmd_module(), Listen, Bound, Name) of
        {ok, Registered, Creation} ->
            ByCarrier = is_registered_by_carrier(Registered),
            persistent_term:put(?USES_EPMD, ByCarrier orelse net_kernel:epmd_module() =:= erl_epmd),
            Marked andalso not ByCarrier andalso handover_erl_epmd:unmark(),
            {ok, {Registered, Address, Creation}};
        {error, _} = Error ->
            Marked andalso handover_erl_epmd:unmark(),
            close(Listen),
            Error
    end.

is_registered_by_carrier(#listen{registration = Registration}) -> Registration =/= none.

%% With -epmd_module, the answer of that module counts, as with inet_tcp. If the module calls erl_epmd, the answer is
%% already_registered (see handover_erl_epmd), and the carrier registers the node.
register_with(erl_epmd, Listen, Bound, Name) ->
    register_by_carrier(Listen, Bound, Name);
register_with(Module, #listen{driver = Driver} = Listen, {_, Port} = Bound, Name) ->
    case Module:register_node(Name, Port, Driver) of
        {ok, Creation} ->
            handover_event:emit(notice, not_registered,
                                #{name => Name, reason => "the module of -epmd_module has registered it elsewhere"}),
            {ok, Listen, Creation};
        {error, already_registered} -> register_by_carrier(Listen, Bound, Name);
        {error, _} = Error -> Error;
        Other -> {error, Other}
    end.

register_by_carrier(#listen{driver = Driver} = Listen, {Ip, Port}, Name) ->
    Registration = new_registration(Driver, Name, Ip, Port),
    case handover_guard:register(Registration) of
        {ok, Creation} -> {ok, Listen#listen{registration = Registration}, Creation};
        {error, Reason} -> start_unregistered(has_fixed_port(Name, ""), Listen, Name, Reason)
    end.

%% If nodes can be reached without EPMD, the node starts although it could not be registered, as with inet_tcp.
start_unregistered(true, Listen, Name, Reason) ->
    handover_event:emit(warning, not_registered, #{name => Name, reason => Reason}),
    {ok, Listen, -1};
start_unregistered(false, _, _, Reason) ->
    {error, Reason}.

new_registration(Driver, Name, Ip, Port) ->
    #{name => atom_to_binary(Name, utf8),
      port => Port,
      bind => case any_address(Driver) of Ip -> <<>>; _ -> handover_proto:ip_to_binary(Ip) end,
      address => handover_proto:ip_to_binary(loopback_address(Driver)),
      epmd_port => handover_config:epmd_port(),
      highest => ?HIGHEST,
      lowest => ?LOWEST,
      node_type => ?NODE_TYPE_NORMAL,
      extra => alive2_extra()}.

%% With these options the node may be reached only through one device or network namespace. EPMD's listener is not
%% restricted in that way, so the node takes no handovers.
alive2_extra() ->
    case [O || {Key, _} = O <- application:get_env(kernel, inet_dist_listen_options, []),
               Key =:= bind_to_device orelse Key =:= netns] of
        [] ->
            <<"handover/1">>;
        [Option | _] ->
            handover_event:emit(warning, unsupported_option,
                                #{option => Option,
                                  reason => "EPMD does not listen with it, so this node takes no handovers"}),
            <<>>
    end.

loopback_address(inet_tcp) -> {127, 0, 0, 1};
loopback_address(inet6_tcp) -> {0, 0, 0, 0, 0, 0, 0, 1}.
