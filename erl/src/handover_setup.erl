%% @doc The process that sets up a connection to another node, and then is that link's process.
%%
%% First through the other host's EPMD. Where that EPMD is a stock one, or the node takes no handovers, the node's own port
%% is dialled as OTP would (unless `fallback' is off).
-module(handover_setup).

-export([start/6]).
-export([init/7, no_handover/2]).

-include_lib("kernel/include/dist_util.hrl").

-record(st, {driver :: module(), kernel :: pid(), node :: node(), type :: normal | hidden, my_node :: node(),
             timer :: pid(), setup_time :: timeout(), reporter :: pid(), name :: string(), host :: string(),
             epmd_port = none :: inet:port_number() | none,   % none: no EPMD is asked
             given = false :: boolean(),         % the address is one that handover:connect/1 gives
             redials = 3 :: non_neg_integer(),
             ip :: inet:ip_address() | undefined, socket :: port() | undefined}).

-define(VERSION, 6).
-define(MAX_NAME, 255).             % an atom's
%% The carrier gives up so much before the setup timer does, so that its reason is heard.
-define(DIAL_MARGIN_MS, 250).

%% @doc Starts it, linked to net_kernel, which calls this.
-spec start(module(), node(), normal | hidden, node(), longnames | shortnames, timeout()) -> pid().
start(Driver, Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    spawn_opt(?MODULE, init, [Driver, self(), Node, Type, MyNode, LongOrShortNames, SetupTime],
              dist_util:net_ticker_spawn_options()).

%% @private
-spec init(module(), pid(), node(), normal | hidden, node(), longnames | shortnames, timeout()) -> no_return().
init(Driver, Kernel, Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    Reporter = handover_reporter:start_outgoing(Node),
    {Name, Host} = split(Driver, Node, LongOrShortNames, Reporter),
    resolve(#st{driver = Driver, kernel = Kernel, node = Node, type = Type, my_node = MyNode, reporter = Reporter, name = Name,
                host = Host, setup_time = SetupTime, timer = dist_util:start_timer(SetupTime)}).

resolve(#st{driver = Driver, node = Node} = S) ->
    stage(resolving, S),
    case handover_dial:take_route(Node) of
        {ok, {Source, _, EpmdPort} = Route} ->
            resolved(address(handover_dist:drivers(Driver), Route, S), Route, S#st{given = Source =:= given, epmd_port = EpmdPort});
        {error, {Reason, Detail}} -> fail(Reason, Detail, S)
    end.

%% With both protocols the second family is tried if the first has no address.
address([Driver | Others], {Source, Host, _} = Route, #st{name = Name} = S) ->
    case handover_dist:address(Driver, Source, Name, Host) of
        {error, _} when Others =/= [] -> address(Others, Route, S);
        Address -> {Driver, Address}
    end.

resolved({Driver, {ok, Ip, Port, Version}}, _, S) -> dial_direct(Ip, Port, Version, S#st{driver = Driver, ip = Ip, epmd_port = none});
resolved({Driver, {ok, Ip}}, Route, S) -> choose(net_kernel:epmd_module(), Route, S#st{driver = Driver, ip = Ip});
resolved({_, {error, Reason}}, {_, Host, _}, S) -> fail(unknown_host, [text(Host), ": ", text(Reason)], S).

%% OTP asks the module that -epmd_module names for the node's port. What it answers counts, but a node that EPMD knows can be handed
%% to, too. A configured address is an EPMD's.
choose(erl_epmd, _, #st{name = Name, host = Host} = S) ->
    case handover_dist:has_node_port(Name, Host) of
        true -> direct(none, S);
        false -> handover(S)
    end;
choose(_Module, {name, _, _}, S) ->
    case handover_dist:uses_epmd() of
        true -> if_known(S);
        false -> direct(none, S)
    end;
choose(_Module, _Configured, S) ->
    handover(S).

if_known(#st{name = Name, ip = Ip} = S) ->
    stage(asking_port, S),
    case handover_dist:epmd_call(port_please, [Name, Ip]) of
        {port, _, _} -> handover(S);
        _ -> fail(no_such_node, "", S)
    end.

%% through EPMD

handover(#st{timer = Timer} = S) ->
    stage(dialling_epmd, S),
    dist_util:reset_timer(Timer),
    Request = request(S),
    case handover_keeper:dial(fun() -> handover_guard:connect(Request) end) of
        {ok, Socket} -> handshake(handover, ?VERSION, S#st{socket = Socket});
        {error, Reason, Detail} when Reason =:= carrier_down -> direct_or_fail(Reason, Detail, S);
        {error, Reason, Detail} -> fail(Reason, Detail, S)
    end.

request(#st{name = Name, ip = Ip, epmd_port = EpmdPort, setup_time = SetupTime}) ->
    #{name => unicode:characters_to_binary(Name),
      address => handover_proto:ip_to_binary(Ip),
      epmd_port => EpmdPort,
      bind => bind(),
      timeout => max(SetupTime - ?DIAL_MARGIN_MS, SetupTime div 2)}.

%% The local address that connections are to come from.
bind() ->
    Options = application:get_env(kernel, inet_dist_connect_options, []),
    case [Ip || {Key, Ip} <- Options, Key =:= ip orelse Key =:= ifaddr, is_tuple(Ip)] of
        [Ip | _] -> handover_proto:ip_to_binary(Ip);
        [] -> <<>>
    end.

handshake(Via, Version, #st{reporter = Reporter} = S) ->
    stage(handshake, S),
    handover_handshake:start(
      #{kernel => S#st.kernel, node => S#st.node, my_node => S#st.my_node, socket => S#st.socket,
        driver => S#st.driver, timer => S#st.timer, type => S#st.type, version => Version, host => S#st.host, via => Via,
        given => S#st.given andalso S#st.redials > 0,
        f_up => fun(Socket) -> handover_reporter:connected(Reporter, Socket, Via) end,
        f_answer => fun(Answer) -> leave_handshake(Answer, S) end}).

%% Called deep inside dist_util's handshake, which would go on to end this process. The way out of there that leaves no
%% stack behind, and so nothing of this module's code in a link that may live for years, is to hibernate and wake at once.
leave_handshake(Answer, S) ->
    self() ! wake,
    erlang:hibernate(?MODULE, no_handover, [Answer, S]).

%% @private
-spec no_handover(term(), #st{}) -> no_return().
no_handover(Answer, #st{driver = Driver, socket = Socket} = S) ->
    receive wake -> ok end,
    _ = Driver:close(Socket),
    case reason(Answer) of
        Reason when Reason =:= stock_epmd; Reason =:= no_handover; Reason =:= overloaded; Reason =:= cannot_pass ->
            direct_or_fail(Reason, "", S);
        {other_name, Name} -> other_name(Name, S);
        crossed -> handover(S#st{redials = S#st.redials - 1});
        {Reason, Detail} -> fail(Reason, Detail, S);
        Reason -> fail(Reason, "", S)
    end.

%% With the same alive name it may be the node, under its true name. Its word is no proof: the caller decides.
-spec other_name(string(), #st{}) -> no_return().
other_name(True, #st{name = Name, ip = Ip, epmd_port = EpmdPort} = S) ->
    case EpmdPort =/= none andalso is_name_of(Name, True) of
        true -> fail(other_name, {True, {Ip, EpmdPort}}, S);
        false -> fail(handshake, ["the node there calls itself ", handover_log:name(lists:sublist(True, ?MAX_NAME))], S)
    end.

%% handover:connect/1 makes an atom of it.
is_name_of(Name, True) ->
    length(True) =< ?MAX_NAME andalso is_host(string:split(True, "@"), Name).

is_host([Name, [_ | _] = Host], Name) -> lists:all(fun is_host_character/1, Host);
is_host(_, _) -> false.

%% Host names, and IP addresses.
is_host_character(C) when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9 -> true;
is_host_character(C) -> lists:member(C, ".-_:").

%% PROTOCOL.md, HANDOVER_RESP.
reason(closed) -> stock_epmd;
reason({result, 1}) -> no_such_node;
reason({result, 2}) -> no_handover;
reason({result, 3}) -> no_answer;
reason({result, 4}) -> refused;
reason({result, 5}) -> overloaded;
reason({result, 6}) -> cannot_pass;
reason({result, Other}) -> {bad_answer, io_lib:format("result ~b", [Other])};
reason({bad_answer, Bytes}) -> {bad_answer, io_lib:format("~0p", [Bytes])};
reason({error, Reason}) -> {closed, Reason};
reason({other_name, _} = Other) -> Other;
reason(crossed) -> crossed.

%% as OTP does it

%% OTP asks for a node's port at the usual port of EPMDs only.
direct_or_fail(Reason, Detail, #st{epmd_port = EpmdPort} = S) ->
    case handover_config:get(fallback) andalso EpmdPort =:= handover_config:epmd_port() of
        true -> direct(Reason, S);
        false -> fail(Reason, Detail, S)
    end.

direct(Reason, #st{name = Name, ip = Ip, node = Node, timer = Timer} = S) ->
    stage(asking_port, S),
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

%% A node that listens on no port of its own registers port 0.
dial_direct(_, 0, _, S) ->
    fail(direct_failed, "it does not listen on a port of its own", S);
dial_direct(Ip, Port, Version, #st{driver = Driver, timer = Timer} = S) ->
    stage(dialling_node, S),
    dist_util:reset_timer(Timer),
    Options = application:get_env(kernel, inet_dist_connect_options, []) ++ [{active, false}, {packet, 2}],
    case Driver:connect(Ip, Port, Options) of
        {ok, Socket} -> handshake(direct, Version, S#st{socket = Socket});
        {error, Reason} -> fail(direct_failed, io_lib:format("~ts:~b ~0tp", [inet:ntoa(Ip), Port, Reason]), S)
    end.

%% names

split(Driver, Node, LongOrShortNames, Reporter) ->
    case dist_util:split_node(Node) of
        {node, Name, Host} -> check(fits(Driver, Host, LongOrShortNames), Name, Host, LongOrShortNames, Reporter);
        _ -> bad_name("no name@host", Reporter)
    end.

check(true, Name, Host, _, _) -> {Name, Host};
check(false, _, Host, longnames, Reporter) ->
    bad_name([Host, " is not fully qualified, and this node runs with -name"], Reporter);
check(false, _, Host, shortnames, Reporter) ->
    bad_name([Host, " is fully qualified, and this node runs with -sname"], Reporter).

fits(Driver, Host, longnames) ->
    lists:member($., Host) orelse lists:any(fun(D) -> handover_dist:is_address(D, Host) end, handover_dist:drivers(Driver));
fits(_Driver, Host, shortnames) ->
    not lists:member($., Host).

-spec bad_name(iodata(), pid()) -> no_return().
bad_name(Detail, Reporter) ->
    handover_reporter:failed(Reporter, bad_name, Detail),
    ?shutdown(bad_name).

%% internal

text(Ip) when is_tuple(Ip) -> inet:ntoa(Ip);
text(Text) when is_list(Text) -> Text;
text(Term) -> io_lib:format("~0tp", [Term]).

stage(Stage, #st{reporter = Reporter}) ->
    handover_reporter:stage(Reporter, Stage).

-spec fail(atom(), term(), #st{}) -> no_return().
fail(Reason, Detail, #st{reporter = Reporter, node = Node}) ->
    handover_reporter:failed(Reporter, Reason, Detail),
    ?shutdown(Node).
