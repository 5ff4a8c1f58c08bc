%% @doc Sets up a connection to another node: resolves its host, connects by handover, and runs the handshake. When the
%% link is up, the process stays as its connection process (dist_util's con_loop).
%%
%% If the EPMD of that host is not handover's, or the node takes no handovers, this process connects to the node's own
%% port, as OTP does, unless `fallback' is false.
-module(handover_setup).

-export([start/6]).
-export([init/7, handshake_aborted/2]).

-include_lib("kernel/include/dist_util.hrl").

-record(st, {driver :: module(), net_kernel :: pid(), node :: node(), type :: normal | hidden, my_node :: node(),
             timer :: pid(), setup_time :: timeout(), reporter :: pid(), name :: string(), host :: string(),
             epmd_port = none :: inet:port_number() | none,   % none: EPMD is not used
             one_time = false :: boolean(),      % the address was stored by handover:connect/1, see handover_dial
             redials_left = 3 :: non_neg_integer(),           % how often it may be dialled again, see may_redial in
                                                              % handover_handshake
             ip :: inet:ip_address() | undefined, socket :: port() | undefined}).

%% The distribution version of each node that takes handovers.
-define(DIST_VERSION, 6).
-define(MAX_NAME, 255).             % characters of an atom
%% The carrier gives up dialling this long before the setup timer kills this process, so that the carrier's reason can
%% still be reported.
-define(DIAL_MARGIN_MS, 250).

%% @doc Starts the process and links it to the caller, net_kernel. handover_reporter reports the result.
-spec start(module(), node(), normal | hidden, node(), longnames | shortnames, timeout()) -> pid().
start(Driver, Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    spawn_opt(?MODULE, init, [Driver, self(), Node, Type, MyNode, LongOrShortNames, SetupTime],
              dist_util:net_ticker_spawn_options()).

%% @private
-spec init(module(), pid(), node(), normal | hidden, node(), longnames | shortnames, timeout()) -> no_return().
init(Driver, Kernel, Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    Reporter = handover_reporter:start_outgoing(Node),
    {Name, Host} = split_name(Driver, Node, LongOrShortNames, Reporter),
    resolve(#st{driver = Driver, net_kernel = Kernel, node = Node, type = Type, my_node = MyNode, reporter = Reporter,
                name = Name, host = Host, setup_time = SetupTime, timer = dist_util:start_timer(SetupTime)}).

resolve(#st{driver = Driver, node = Node} = S) ->
    report_step(resolving, S),
    case handover_dial:route_for_setup(Node) of
        {ok, {Source, _, EpmdPort} = Route} ->
            resolved(resolve_host(handover_dist:drivers(Driver), Route, S), Route,
                     S#st{one_time = Source =:= one_time, epmd_port = EpmdPort});
        {error, {Reason, Detail}} -> fail(Reason, Detail, S)
    end.

%% If both protocols are configured and the host has no address of the first family, the second family is used.
resolve_host([Driver | Others], {Source, Host, _} = Route, #st{name = Name} = S) ->
    case handover_dist:resolve(Driver, Source, Name, Host) of
        {error, _} when Others =/= [] -> resolve_host(Others, Route, S);
        Address -> {Driver, Address}
    end.

resolved({Driver, {ok, Ip, Port, Version}}, _, S) ->
    dial_direct(Ip, Port, Version, S#st{driver = Driver, ip = Ip, epmd_port = none});
resolved({Driver, {ok, Ip}}, Route, S) ->
    follow_route(net_kernel:epmd_module(), Route, S#st{driver = Driver, ip = Ip});
resolved({_, {error, Reason}}, {_, Host, _}, S) ->
    fail(unknown_host, [host_text(Host), ": ", host_text(Reason)], S).

%% Connects by handover or directly. Without -epmd_module: directly only if the ports of all nodes are configured.
%%
%% With -epmd_module, that module decides whether the node exists and at which port, as in OTP. If nodes are found by
%% EPMD, the node can also take handovers. A configured address is always that of an EPMD.
follow_route(erl_epmd, _, #st{name = Name, host = Host} = S) ->
    case handover_dist:has_fixed_port(Name, Host) of
        true -> connect_direct(none, S);
        false -> connect_by_handover(S)
    end;
follow_route(_Module, {name, _, _}, S) ->
    case handover_dist:uses_epmd() of
        true -> handover_if_known(S);
        false -> connect_direct(none, S)
    end;
follow_route(_Module, _Configured, S) ->
    connect_by_handover(S).

handover_if_known(#st{name = Name, ip = Ip} = S) ->
    report_step(asking_port, S),
    case handover_dist:epmd_call(port_please, [Name, Ip]) of
        {port, _, _} -> connect_by_handover(S);
        _ -> fail(no_such_node, "", S)
    end.

%% through EPMD

connect_by_handover(#st{timer = Timer} = S) ->
    report_step(dialling_epmd, S),
    dist_util:reset_timer(Timer),
    Request = connect_request(S),
    case handover_keeper:dial(fun() -> handover_guard:connect(Request) end) of
        {ok, Socket} -> handshake(handover, ?DIST_VERSION, S#st{socket = Socket});
        {error, Reason, Detail} when Reason =:= carrier_down -> fall_back_or_fail(Reason, Detail, S);
        {error, Reason, Detail} -> fail(Reason, Detail, S)
    end.

connect_request(#st{name = Name, ip = Ip, epmd_port = EpmdPort, setup_time = SetupTime}) ->
    #{name => unicode:characters_to_binary(Name),
      address => handover_proto:ip_to_binary(Ip),
      epmd_port => EpmdPort,
      bind => bind_address(),
      timeout => max(SetupTime - ?DIAL_MARGIN_MS, SetupTime div 2)}.

%% The local address from which connections must be made; empty: any.
bind_address() ->
    Options = application:get_env(kernel, inet_dist_connect_options, []),
    case [Ip || {Key, Ip} <- Options, Key =:= ip orelse Key =:= ifaddr, is_tuple(Ip)] of
        [Ip | _] -> handover_proto:ip_to_binary(Ip);
        [] -> <<>>
    end.

handshake(Via, Version, #st{reporter = Reporter} = S) ->
    report_step(handshake, S),
    handover_handshake:start(
      #{kernel => S#st.net_kernel, node => S#st.node, my_node => S#st.my_node, socket => S#st.socket,
        driver => S#st.driver, timer => S#st.timer, type => S#st.type, version => Version, host => S#st.host,
        via => Via, may_redial => S#st.one_time andalso S#st.redials_left > 0,
        f_up => fun(Socket) -> handover_reporter:connected(Reporter, Socket, Via) end,
        f_abort => fun(AbortReason) -> abort_handshake(AbortReason, S) end}).

%% Called from inside dist_util's handshake, which would end this process if this function returned. Hibernating and
%% waking at once discards the call stack, so that the connection that this process may now set up does not keep
%% dist_util's abandoned frames. They would hold old code as long as the link lives.
abort_handshake(AbortReason, S) ->
    self() ! wake,
    erlang:hibernate(?MODULE, handshake_aborted, [AbortReason, S]).

%% @private
-spec handshake_aborted(term(), #st{}) -> no_return().
handshake_aborted(AbortReason, #st{driver = Driver, socket = Socket} = S) ->
    receive wake -> ok end,
    _ = Driver:close(Socket),
    case failure_reason(AbortReason) of
        Reason when Reason =:= stock_epmd; Reason =:= no_handover; Reason =:= overloaded; Reason =:= cannot_pass ->
            fall_back_or_fail(Reason, "", S);
        {other_name, Name} -> other_name(Name, S);
        redial -> connect_by_handover(S#st{redials_left = S#st.redials_left - 1});
        {Reason, Detail} -> fail(Reason, Detail, S);
        Reason -> fail(Reason, "", S)
    end.

%% The node has another name (its true name) than the one that was dialled. If only the host differs, it may still be
%% the wanted node, so the failure has the true name and the address. A name is not authenticated, so this process does
%% not connect to it by itself: handover:connect/1 does, for a caller that asked for the node.
-spec other_name(string(), #st{}) -> no_return().
other_name(TrueName, #st{name = Name, ip = Ip, epmd_port = EpmdPort} = S) ->
    case EpmdPort =/= none andalso is_valid_true_name(TrueName, Name) of
        true -> fail(other_name, {TrueName, {Ip, EpmdPort}}, S);
        false -> fail(handshake, ["the node calls itself ", handover_log:name(lists:sublist(TrueName, ?MAX_NAME))], S)
    end.

%% Reports whether TrueName is Name@HOST with a HOST that can be a host name or an IP address. The check is strict
%% because handover:connect/1 makes an atom from TrueName.
is_valid_true_name(TrueName, Name) ->
    length(TrueName) =< ?MAX_NAME andalso has_name_and_host(string:split(TrueName, "@"), Name).

has_name_and_host([Name, [_ | _] = Host], Name) -> lists:all(fun is_host_character/1, Host);
has_name_and_host(_, _) -> false.

%% The characters of host names and IP addresses.
is_host_character(C) when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9 -> true;
is_host_character(C) -> lists:member(C, ".-_:").

%% The reason of handover:connect/1 for an abort_reason() of handover_handshake. docs/PROTOCOL.md lists the results of
%% HANDOVER_RESP.
failure_reason(no_response) -> stock_epmd;
failure_reason({result, 1}) -> no_such_node;
failure_reason({result, 2}) -> no_handover;
failure_reason({result, 3}) -> no_answer;
failure_reason({result, 4}) -> refused;
failure_reason({result, 5}) -> overloaded;
failure_reason({result, 6}) -> cannot_pass;
failure_reason({result, Other}) -> {bad_answer, io_lib:format("result ~b", [Other])};
failure_reason({bad_answer, Bytes}) -> {bad_answer, io_lib:format("~0p", [Bytes])};
failure_reason({error, Reason}) -> {closed, Reason};
failure_reason({other_name, _} = Other) -> Other;
failure_reason(redial) -> redial.

%% at the node's own port, as OTP does

%% Falls back only if the route has the cluster's usual EPMD port: OTP asks for the node's port nowhere else.
fall_back_or_fail(Reason, Detail, #st{epmd_port = EpmdPort} = S) ->
    case handover_config:get(fallback) andalso EpmdPort =:= handover_config:epmd_port() of
        true -> connect_direct(Reason, S);
        false -> fail(Reason, Detail, S)
    end.

connect_direct(Reason, #st{name = Name, ip = Ip, node = Node, timer = Timer} = S) ->
    report_step(asking_port, S),
    dist_util:reset_timer(Timer),
    case handover_dist:epmd_call(port_please, [Name, Ip]) of
        {port, 0, _} when Reason =:= overloaded; Reason =:= cannot_pass ->
            fail(Reason, "", S);
        {port, Port, Version} ->
            Reason =:= none orelse handover_event:emit(info, fell_back, #{node => Node, reason => Reason}),
            dial_direct(Ip, Port, Version, S);
        noport ->
            fail(no_such_node, "", S);
        Other ->
            fail(direct_failed, Other, S)
    end.

%% A node without a port of its own registers port 0.
dial_direct(_, 0, _, S) ->
    fail(direct_failed, "it does not listen on a port of its own", S);
dial_direct(Ip, Port, Version, #st{driver = Driver, timer = Timer} = S) ->
    report_step(dialling_node, S),
    dist_util:reset_timer(Timer),
    Options = application:get_env(kernel, inet_dist_connect_options, []) ++ [{active, false}, {packet, 2}],
    case Driver:connect(Ip, Port, Options) of
        {ok, Socket} -> handshake(direct, Version, S#st{socket = Socket});
        {error, Reason} -> fail(direct_failed, io_lib:format("~ts:~b ~0tp", [inet:ntoa(Ip), Port, Reason]), S)
    end.

%% names

split_name(Driver, Node, LongOrShortNames, Reporter) ->
    case dist_util:split_node(Node) of
        {node, Name, Host} ->
            check_host(host_fits(Driver, Host, LongOrShortNames), Name, Host, LongOrShortNames, Reporter);
        _ -> bad_name("not of the form name@host", Reporter)
    end.

check_host(true, Name, Host, _, _) -> {Name, Host};
check_host(false, _, Host, longnames, Reporter) ->
    bad_name([Host, " is not fully qualified, and this node runs with -name"], Reporter);
check_host(false, _, Host, shortnames, Reporter) ->
    bad_name([Host, " is fully qualified, and this node runs with -sname"], Reporter).

host_fits(Driver, Host, longnames) ->
    lists:member($., Host)
        orelse lists:any(fun(D) -> handover_dist:is_address(D, Host) end, handover_dist:drivers(Driver));
host_fits(_Driver, Host, shortnames) ->
    not lists:member($., Host).

-spec bad_name(iodata(), pid()) -> no_return().
bad_name(Detail, Reporter) ->
    handover_reporter:failed(Reporter, bad_name, Detail),
    ?shutdown(bad_name).

%% internal

host_text(Ip) when is_tuple(Ip) -> inet:ntoa(Ip);
host_text(Text) when is_list(Text) -> Text;
host_text(Term) -> io_lib:format("~0tp", [Term]).

report_step(Step, #st{reporter = Reporter}) ->
    handover_reporter:set_step(Reporter, Step).

-spec fail(atom(), term(), #st{}) -> no_return().
fail(Reason, Detail, #st{reporter = Reporter, node = Node}) ->
    handover_reporter:failed(Reporter, Reason, Detail),
    ?shutdown(Node).
