%% @doc Runs the distribution handshake with dist_util, for both directions: builds the #hs_data{}, and reads
%% HANDOVER_RESP, which comes before the first packet of the handshake.
%%
%% The mf_ functions of #hs_data{} are external funs, so that a link that lives for years holds no old code.
-module(handover_handshake).

-export([accept/6, start/1]).
-export([init_accept/7, tick/1, getstat/1, setopts/2, getopts/2]).

-export_type([outgoing/0]).

-include_lib("kernel/include/dist_util.hrl").
-include_lib("kernel/include/net_address.hrl").

-type outgoing() :: #{kernel := pid(), node := node(), my_node := node(), socket := port(), driver := module(),
                      timer := pid(), type := normal | hidden, version := integer(), host := string(),
                      via := handover | direct,
                      may_redial := boolean(),      % redial if the node answers `nok', see after_nok/3
                      f_up := fun((port()) -> ok),
                      f_abort := fun((abort_reason()) -> no_return())}.
%% f_up is called when the link is up. f_abort is called if the handshake cannot go on, and must not return.
-type abort_reason() :: {result, 1..255}          % the result of HANDOVER_RESP
                      | no_response               % the far end closed the connection before HANDOVER_RESP
                      | redial                    % the setup must connect again
                      | {bad_answer, iodata()}    % these bytes came instead of HANDOVER_RESP
                      | {error, term()}           % the socket's error
                      | {other_name, string()}.   % the node has this name

%% How long to wait for the answers of connected nodes with the same alive name.
-define(ALIAS_MS, 1000).
%% How often to check whether the node's own connection to this node is up.
-define(NOK_WAIT_MS, 1000).

%% HANDOVER_RESP's opcode.
-define(HANDOVER_RESP, $i).

%% @doc Starts the handshake with a node that connected to this node, in a new process that is linked to the caller,
%% net_kernel. When the link is up, the process stays as its connection process (dist_util's con_loop). AcceptPid is the
%% process that offered Socket to net_kernel: the accept loop of the node's own port, or a handover_keeper.
-spec accept(module(), AcceptPid :: pid(), port(), node(), [node()], timeout()) -> pid().
accept(Driver, AcceptPid, Socket, MyNode, Allowed, SetupTime) ->
    spawn_opt(?MODULE, init_accept, [Driver, self(), AcceptPid, Socket, MyNode, Allowed, SetupTime],
              dist_util:net_ticker_spawn_options()).

%% @private
-spec init_accept(module(), pid(), pid(), port(), node(), [node()], timeout()) -> no_return().
init_accept(Driver, Kernel, AcceptPid, Socket, MyNode, Allowed, SetupTime) ->
    Monitor = monitor(process, AcceptPid),
    Via = receive
              {AcceptPid, controller, How} -> demonitor(Monitor, [flush]), How;
              %% AcceptPid ended before it transferred Socket. It was killed (an upgrade kills the accept loop), or it
              %% is a keeper that waited too long for net_kernel.
              {'DOWN', Monitor, process, AcceptPid, _} -> ?shutdown(no_node)
          end,
    Reporter = handover_reporter:start_incoming(Socket, Via),
    Timer = dist_util:start_timer(SetupTime),
    ok = check_ip(Driver, Socket),
    dist_util:handshake_other_started(
      (hs_data(Socket, Via, in, [binary]))#hs_data{
        kernel_pid = Kernel, this_node = MyNode, timer = Timer, allowed = Allowed,
        f_send = fun Driver:send/2,
        f_recv = fun Driver:recv/3,
        f_address = fun remote_address/2,
        f_handshake_complete = fun(_, Node, _) -> handover_reporter:accepted(Reporter, Node) end}).

%% @doc Runs the handshake with a node that this node connected to. When the link is up, the calling process
%% stays as its connection process (dist_util's con_loop). Does not return.
-spec start(outgoing()) -> no_return().
start(#{socket := Socket, driver := Driver, via := Via} = O) ->
    Abort = maps:get(f_abort, O),
    {Send, Recv} = send_and_recv(Via, Driver, Abort),
    Up = maps:get(f_up, O),
    Node = maps:get(node, O),
    Context = {handover_socket:peer(Socket), maps:get(may_redial, O)},
    dist_util:handshake_we_started(
      (hs_data(Socket, Via, out, []))#hs_data{
        kernel_pid = maps:get(kernel, O), other_node = Node, this_node = maps:get(my_node, O),
        timer = maps:get(timer, O), other_version = maps:get(version, O), request_type = maps:get(type, O),
        f_send = Send,
        f_recv = fun(S, Length, Timeout) -> check_packet(Recv(S, Length, Timeout), Node, Abort, Context) end,
        f_address = f_address(maps:get(host, O)),
        f_handshake_complete = fun(_, _, _) -> Up(Socket) end}).

%% internal

%% ExtraOptions are set after nodeup. As in OTP, they are [binary] for accepted connections and [] for others.
hs_data(Socket, Via, Direction, ExtraOptions) ->
    #hs_data{socket = Socket,
             this_flags = 0,
             f_setopts_pre_nodeup =
                 fun(S) ->
                         handover_stats:set_link_info(#{via => Via, direction => Direction,
                                                        peer => handover_socket:peer(S),
                                                        since => erlang:system_time(second)}),
                         inet:setopts(S, [{active, false}, {packet, 4}, nodelay()])
                 end,
             f_setopts_post_nodeup =
                 fun(S) ->
                         inet:setopts(S, [{active, true}, {deliver, port}, {packet, 4}, nodelay() | ExtraOptions])
                 end,
             f_getll = fun inet:getll/1,
             mf_tick = fun ?MODULE:tick/1,
             mf_getstat = fun ?MODULE:getstat/1,
             mf_setopts = fun ?MODULE:setopts/2,
             mf_getopts = fun ?MODULE:getopts/2}.

nodelay() ->
    {nodelay, application:get_env(kernel, dist_nodelay, true) =/= false}.

%% This node sends its name directly after HANDOVER_REQ, without waiting for HANDOVER_RESP. That saves a round trip. The
%% packet mode of the socket is the state: raw until HANDOVER_RESP has been read, then framed ({packet, 2}), as the rest
%% of the handshake is.
send_and_recv(direct, Driver, _) ->
    {fun Driver:send/2, fun Driver:recv/3};
send_and_recv(handover, Driver, Abort) ->
    {fun(Socket, Data) -> send(packet_mode(Socket), Driver, Socket, Data) end,
     fun(Socket, Length, Timeout) -> recv(packet_mode(Socket), Driver, Socket, Length, Timeout, Abort) end}.

packet_mode(Socket) ->
    case inet:getopts(Socket, [packet]) of
        {ok, [{packet, 0}]} -> raw;
        {ok, [{packet, raw}]} -> raw;
        _ -> framed
    end.

send(raw, Driver, Socket, Data) ->
    Driver:send(Socket, [<<(iolist_size(Data)):16>>, Data]);
send(framed, Driver, Socket, Data) ->
    Driver:send(Socket, Data).

recv(framed, Driver, Socket, Length, Timeout, _) ->
    Driver:recv(Socket, Length, Timeout);
recv(raw, Driver, Socket, Length, Timeout, Abort) ->
    case recv_handover_resp(Driver, Socket) of
        ok ->
            ok = inet:setopts(Socket, [{packet, 2}]),
            Driver:recv(Socket, Length, Timeout);
        Failure ->
            Abort(Failure)
    end.

%% No timeout: the setup timer ends this process.
recv_handover_resp(Driver, Socket) ->
    case Driver:recv(Socket, 2, infinity) of
        {ok, [?HANDOVER_RESP, 0]} -> skip_version(Driver:recv(Socket, 2, infinity));
        {ok, [?HANDOVER_RESP, Result]} -> {result, Result};
        {ok, Bytes} -> {bad_answer, Bytes};
        {error, Closed} when Closed =:= closed; Closed =:= econnreset; Closed =:= epipe -> no_response;
        {error, Reason} -> {error, Reason}
    end.

%% The version is not needed: each node that takes handovers has version 6.
skip_version({ok, [_, _]}) -> ok;
skip_version({error, Reason}) -> {error, Reason}.

%% Checks a packet of the handshake for signs that the true name of the node is not Node, before dist_util gets it.
%%
%% A challenge (N, n) has the true name of the node. If that is not Node, dist_util would end the connection without a
%% reason.
%%
%% The status `alive' means that the node already has a link to this node. If this node has that link under the node's
%% true name, dist_util's reply to `alive' would make the other node drop it. So this function first looks for the true
%% name: it asks every connected node with the same alive name whether it has a connection of this node as `up_pending'.
%%
%% The status `nok' means that the node is connecting to this node at the same time. dist_util would then wait until
%% net_kernel ends this process in favour of that connection. But if the node connects under its true name, net_kernel
%% does not do so. So this function waits instead and checks from time to time: a node with the same alive name that has
%% connected from the address that was dialled must be the node. That link may be up here before this handshake begins.
%% The alive name alone does not suffice, because in many clusters all nodes have the same.
check_packet({ok, [$N, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, L1, L0 | Rest]} = Packet, Node, Abort, _) ->
    check_name(lists:sublist(Rest, L1 * 256 + L0), Node, Packet, Abort);
check_packet({ok, [$n, _, _, _, _, _, _, _, _, _, _ | Name]} = Packet, Node, Abort, _) ->
    check_name(Name, Node, Packet, Abort);
check_packet({ok, "salive"} = Packet, Node, Abort, _) ->
    Candidates = [N || N <- nodes(connected), has_same_alive_name(Node, N)],
    Answers = erpc:multicall(Candidates, ets, lookup, [sys_dist, node()], ?ALIAS_MS),
    case [N || {N, {ok, [Connection]}} <- lists:zip(Candidates, Answers),
               lists:member(up_pending, tuple_to_list(Connection))] of
        [Name | _] -> Abort({other_name, atom_to_list(Name)});
        [] -> Packet
    end;
check_packet({ok, "snok"}, Node, Abort, Context) ->
    after_nok(Node, Abort, Context);
check_packet(Other, _, _, _) ->
    Other.

%% If MayRedial, the setup connects again after a pause: this node dialled the node by another name a moment ago, so
%% `nok' may only mean that the node has not noticed the end of that connection yet. Otherwise, or when no redials are
%% left, checks until the setup timer ends this process.
after_nok(Node, Abort, {Peer, MayRedial} = Context) ->
    receive after ?NOK_WAIT_MS -> ok end,
    MayRedial andalso Abort(redial),
    case [N || N <- nodes(connected), has_same_alive_name(Node, N), has_link_from(N, Peer)] of
        [Name] -> Abort({other_name, atom_to_list(Name)});
        _ -> after_nok(Node, Abort, Context)
    end.

%% Reports whether this node has a link to Node whose far end has this IP address.
has_link_from(Node, {Ip, _}) ->
    case handover_stats:link_of(Node) of
        {ok, _, #{peer := {Ip, _}}} -> true;
        _ -> false
    end;
has_link_from(_, unknown) ->
    false.

%% OTP releases encode a name that is not ASCII in Latin-1 or in UTF-8.
check_name(Name, Node, Packet, Abort) ->
    case lists:member(Name, [atom_to_list(Node), binary_to_list(atom_to_binary(Node, utf8))]) of
        true -> Packet;
        false -> Abort({other_name, Name})
    end.

%% Reports whether Other is another node with the alive name of Node.
has_same_alive_name(Node, Node) -> false;
has_same_alive_name(Node, Other) -> alive_name(Node) =:= alive_name(Other).

alive_name(Node) -> hd(string:split(atom_to_list(Node), "@")).

f_address(Host) ->
    fun(Socket, _Node) ->
            case inet:peername(Socket) of
                {ok, {Ip, _} = Address} -> net_address(Address, Host, family(Ip));
                {error, _} -> ?shutdown(no_node)
            end
    end.

remote_address(Socket, Node) ->
    case dist_util:split_node(Node) of
        {node, _Name, Host} -> (f_address(Host))(Socket, Node);
        _ -> ?shutdown(no_node)
    end.

net_address(Address, Host, Family) ->
    #net_address{address = Address, host = Host, protocol = handover_socket:protocol(), family = Family}.

family(Ip) when tuple_size(Ip) =:= 4 -> inet;
family(Ip) when tuple_size(Ip) =:= 8 -> inet6.

%% kernel's option check_ip: accept only connections from this host's own networks.
check_ip(Driver, Socket) ->
    case application:get_env(kernel, check_ip) of
        {ok, true} -> check_ip(Driver, inet:getif(Socket), inet:peername(Socket));
        _ -> ok
    end.

check_ip(Driver, {ok, Interfaces}, {ok, {Peer, _}}) ->
    case [ok || {Own, _, Mask} <- Interfaces, Driver:mask(Mask, Peer) =:= Driver:mask(Mask, Own)] of
        [ok | _] -> ok;
        [] -> error_logger:error_msg("** Connection attempt from disallowed IP ~w ** ~n", [Peer]), ?shutdown(no_node)
    end;
check_ip(_, _, _) ->
    ?shutdown(no_node).

%% the functions of a link that is up

%% @private
-spec tick(port()) -> ok | {error, term()}.
tick(Socket) ->
    case inet_tcp:send(Socket, [], [force]) of
        {error, closed} = Error -> self() ! {tcp_closed, Socket}, Error;
        Result -> Result
    end.

%% @private
-spec getstat(port()) -> {ok, Read :: integer(), Written :: integer(), Pending :: integer()} | {error, term()}.
getstat(Socket) ->
    case inet:getstat(Socket, [recv_cnt, send_cnt, send_pend]) of
        {ok, Stat} ->
            Value = fun(Key) -> proplists:get_value(Key, Stat, 0) end,
            {ok, Value(recv_cnt), Value(send_cnt), Value(send_pend)};
        Error ->
            Error
    end.

%% @private
-spec setopts(port(), list()) -> ok | {error, term()}.
setopts(Socket, Options) -> handover_socket:setopts(Socket, Options).

%% @private
-spec getopts(port(), list()) -> {ok, list()} | {error, term()}.
getopts(Socket, Options) -> handover_socket:getopts(Socket, Options).
