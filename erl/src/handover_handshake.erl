%% @doc The distribution handshake, which is dist_util's: here is the #hs_data{} that it works with, for both directions,
%% and the one thing that handover adds: the answer HANDOVER_RESP that comes before the handshake's first packet.
%%
%% mf_ functions are external, so that a link of years does not hold old code of this application.
-module(handover_handshake).

-export([accept/6, start/1]).
-export([init_accept/7, tick/1, getstat/1, setopts/2, getopts/2]).

-export_type([outgoing/0]).

-include_lib("kernel/include/dist_util.hrl").
-include_lib("kernel/include/net_address.hrl").

-type outgoing() :: #{kernel := pid(), node := node(), my_node := node(), socket := port(), driver := module(),
                      timer := pid(), type := normal | hidden, version := integer(), host := string(),
                      via := handover | direct,
                      given := boolean(),           % the node was just dialled by another name
                      f_up := fun((port()) -> ok),
                      f_answer := fun((handover_answer()) -> no_return())}.
%% f_answer is called, and must not return, when there is no handover, or when the node there has another name.
-type handover_answer() :: {result, 1..255} | closed | crossed | {bad_answer, iodata()} | {error, term()} | {other_name, string()}.

-define(ALIAS_MS, 1000).
%% How long a connection that crosses this one is waited for.
-define(CROSSING_MS, 1000).

%% HANDOVER_RESP's opcode.
-define(HANDOVER_RESP, $i).

%% @doc The handshake with a node that connected to us, in a new process linked to net_kernel.
-spec accept(module(), pid(), port(), node(), [node()], timeout()) -> pid().
accept(Driver, Acceptor, Socket, MyNode, Allowed, SetupTime) ->
    spawn_opt(?MODULE, init_accept, [Driver, self(), Acceptor, Socket, MyNode, Allowed, SetupTime],
              dist_util:net_ticker_spawn_options()).

%% @private
-spec init_accept(module(), pid(), pid(), port(), node(), [node()], timeout()) -> no_return().
init_accept(Driver, Kernel, Acceptor, Socket, MyNode, Allowed, SetupTime) ->
    Monitor = monitor(process, Acceptor),
    Via = receive
              {Acceptor, controller, How} -> demonitor(Monitor, [flush]), How;
              {'DOWN', Monitor, process, Acceptor, _} -> ?shutdown(no_node)     % it gave up: this node was busy for too long
          end,
    Reporter = handover_reporter:start_incoming(Socket, Via),
    Timer = dist_util:start_timer(SetupTime),
    ok = check_ip(Driver, Socket),
    dist_util:handshake_other_started(
      (common(Socket, Via, in, [binary]))#hs_data{kernel_pid = Kernel, this_node = MyNode, timer = Timer, allowed = Allowed,
                               f_send = fun Driver:send/2,
                               f_recv = fun Driver:recv/3,
                               f_address = fun remote_address/2,
                               f_handshake_complete = fun(_, Node, _) -> handover_reporter:accepted(Reporter, Node) end}).

%% @doc The handshake that we start, in the calling process, which becomes the link's. Does not return.
-spec start(outgoing()) -> no_return().
start(#{socket := Socket, driver := Driver, via := Via} = O) ->
    Answer = maps:get(f_answer, O),
    {Send, Recv} = transport(Via, Driver, Answer),
    Up = maps:get(f_up, O),
    Node = maps:get(node, O),
    Crossing = {handover_socket:peer(Socket), nodes(connected), maps:get(given, O)},
    dist_util:handshake_we_started(
      (common(Socket, Via, out, []))#hs_data{kernel_pid = maps:get(kernel, O), other_node = Node,
                               this_node = maps:get(my_node, O), timer = maps:get(timer, O),
                               other_version = maps:get(version, O), request_type = maps:get(type, O),
                               f_send = Send,
                               f_recv = fun(S, Length, Timeout) -> vet(Recv(S, Length, Timeout), Node, Answer, Crossing) end,
                               f_address = address(maps:get(host, O)),
                               f_handshake_complete = fun(_, _, _) -> Up(Socket) end}).

%% internal

%% More: that OTP sets binary mode on the connections it accepts and not on those it makes.
common(Socket, Via, Direction, More) ->
    #hs_data{socket = Socket,
             this_flags = 0,
             f_setopts_pre_nodeup =
                 fun(S) ->
                         handover_stats:link(#{via => Via, direction => Direction, peer => handover_socket:peer(S),
                                               since => erlang:system_time(second)}),
                         inet:setopts(S, [{active, false}, {packet, 4}, nodelay()])
                 end,
             f_setopts_post_nodeup =
                 fun(S) -> inet:setopts(S, [{active, true}, {deliver, port}, {packet, 4}, nodelay() | More]) end,
             f_getll = fun inet:getll/1,
             mf_tick = fun ?MODULE:tick/1,
             mf_getstat = fun ?MODULE:getstat/1,
             mf_setopts = fun ?MODULE:setopts/2,
             mf_getopts = fun ?MODULE:getopts/2}.

nodelay() ->
    {nodelay, application:get_env(kernel, dist_nodelay, true) =/= false}.

%% Our name goes out right behind HANDOVER_REQ, before anybody answered: that saves a round trip. The socket's packet mode
%% tells how far we are: raw until HANDOVER_RESP has been read, then the handshake's own.
transport(direct, Driver, _) ->
    {fun Driver:send/2, fun Driver:recv/3};
transport(handover, Driver, Answer) ->
    {fun(Socket, Data) -> send(packet(Socket), Driver, Socket, Data) end,
     fun(Socket, Length, Timeout) -> recv(packet(Socket), Driver, Socket, Length, Timeout, Answer) end}.

packet(Socket) ->
    case inet:getopts(Socket, [packet]) of
        {ok, [{packet, 0}]} -> raw;
        {ok, [{packet, raw}]} -> raw;
        _ -> packed
    end.

send(raw, Driver, Socket, Data) ->
    Driver:send(Socket, [<<(iolist_size(Data)):16>>, Data]);
send(packed, Driver, Socket, Data) ->
    Driver:send(Socket, Data).

recv(packed, Driver, Socket, Length, Timeout, _) ->
    Driver:recv(Socket, Length, Timeout);
recv(raw, Driver, Socket, Length, Timeout, Answer) ->
    case handover_resp(Driver, Socket) of
        ok ->
            ok = inet:setopts(Socket, [{packet, 2}]),
            Driver:recv(Socket, Length, Timeout);
        No ->
            Answer(No)
    end.

%% The setup timer bounds the wait.
handover_resp(Driver, Socket) ->
    case Driver:recv(Socket, 2, infinity) of
        {ok, [?HANDOVER_RESP, 0]} -> version(Driver:recv(Socket, 2, infinity));
        {ok, [?HANDOVER_RESP, Result]} -> {result, Result};
        {ok, Bytes} -> {bad_answer, Bytes};
        {error, Closed} when Closed =:= closed; Closed =:= econnreset; Closed =:= epipe -> closed;
        {error, Reason} -> {error, Reason}
    end.

%% Each node that takes handovers speaks version 6, so the number decides nothing today.
version({ok, [_, _]}) -> ok;
version({error, Reason}) -> {error, Reason}.

%% The challenge has the name that the node calls itself. dist_util would refuse another one than it dialled without a word.
%%
%% A node that was dialled by another name and has a link to this one already says `alive', and what dist_util answers would
%% end that link. So those linked nodes that it could be are asked: which has a connection of this node waiting?
%%
%% A node that is connecting to this one meanwhile says `nok', and dist_util waits for net_kernel to end this process in favour
%% of that connection. For net_kernel it is one with another node if this one was dialled by another name. So if net_kernel does not
%% end this process, and a node with the same alive name has come up from the address that was dialled, it is that node. Not any
%% node with that alive name: in many clusters all have the same.
vet({ok, [$N, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, L1, L0 | Rest]} = Ok, Node, Answer, _) ->
    name(lists:sublist(Rest, L1 * 256 + L0), Node, Ok, Answer);
vet({ok, [$n, _, _, _, _, _, _, _, _, _, _ | Name]} = Ok, Node, Answer, _) ->
    name(Name, Node, Ok, Answer);
vet({ok, "salive"} = Ok, Node, Answer, _) ->
    Candidates = [N || N <- nodes(connected), is_alias(Node, N)],
    Asked = erpc:multicall(Candidates, ets, lookup, [sys_dist, node()], ?ALIAS_MS),
    case [N || {N, {ok, [Connection]}} <- lists:zip(Candidates, Asked), lists:member(up_pending, tuple_to_list(Connection))] of
        [Name | _] -> Answer({other_name, atom_to_list(Name)});
        [] -> Ok
    end;
vet({ok, "snok"} = Ok, Node, Answer, Crossing) ->
    receive after ?CROSSING_MS -> crossed(Ok, Node, Answer, Crossing) end;
vet(Other, _, _, _) ->
    Other.

%% A node that was just dialled by another name may not know yet that that connection has ended.
crossed(_, _, Answer, {_, _, true}) ->
    Answer(crossed);
crossed(Ok, Node, Answer, {Peer, Before, false}) ->
    case [N || N <- nodes(connected) -- Before, is_alias(Node, N), is_linked_to(N, Peer)] of
        [Name] -> Answer({other_name, atom_to_list(Name)});
        _ -> Ok
    end.

is_linked_to(Node, {Ip, _}) ->
    case handover_stats:link_of(Node) of
        {ok, _, #{peer := {Ip, _}}} -> true;
        _ -> false
    end;
is_linked_to(_, unknown) ->
    false.

%% Releases differ in how they write a name that is not ASCII.
name(Name, Node, Ok, Answer) ->
    case lists:member(Name, [atom_to_list(Node), binary_to_list(atom_to_binary(Node, utf8))]) of
        true -> Ok;
        false -> Answer({other_name, Name})
    end.

is_alias(Node, Node) -> false;
is_alias(Node, Other) -> hd(string:split(atom_to_list(Node), "@")) =:= hd(string:split(atom_to_list(Other), "@")).

address(Host) ->
    fun(Socket, _Node) ->
            case inet:peername(Socket) of
                {ok, {Ip, _} = Address} -> net_address(Address, Host, family(Ip));
                {error, _} -> ?shutdown(no_node)
            end
    end.

remote_address(Socket, Node) ->
    case dist_util:split_node(Node) of
        {node, _Name, Host} -> (address(Host))(Socket, Node);
        _ -> ?shutdown(no_node)
    end.

net_address(Address, Host, Family) ->
    #net_address{address = Address, host = Host, protocol = handover_socket:protocol(), family = Family}.

family(Ip) when tuple_size(Ip) =:= 4 -> inet;
family(Ip) when tuple_size(Ip) =:= 8 -> inet6.

%% kernel's check_ip: take connections from our own networks only.
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
