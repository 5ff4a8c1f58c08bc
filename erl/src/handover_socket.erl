%% @doc Sets and gets the options of distribution sockets, and returns their protocol and peer.
-module(handover_socket).

-export([protocol/0, options/1, setopts/2, getopts/2, peer/1]).

%% Options in inet_dist_*_options that cannot be set on a connected socket, or that the distribution sets itself.
-define(NOT_FOR_CONNECTED, [active, deliver, packet, mode, header, ip, ifaddr, port, fd, backlog, reuseaddr, reuseport,
                            reuseport_lb, exclusiveaddruse, ipv6_v6only, netns, bind_to_device, tcp_module,
                            inet_backend]).

%% @doc Returns the protocol by which net_kernel finds the distribution module of an accepted connection. It must differ
%% from those of other distribution modules, because several may run in a node.
-spec protocol() -> atom().
protocol() -> handover_tcp.

%% @doc Returns the configured options that can be set on a connected socket.
-spec options(inet_dist_listen_options | inet_dist_connect_options) -> [term()].
options(Key) ->
    case application:get_env(kernel, Key) of
        {ok, Options} when is_list(Options) -> [O || O <- Options, is_for_connected(O)];
        _ -> []
    end.

is_for_connected({Key, _}) -> not lists:member(Key, ?NOT_FOR_CONNECTED);
is_for_connected({raw, _, _, _}) -> true;
is_for_connected(_) -> false.

%% @doc Like inet:setopts/2, but returns `{error, {badopts, _}}' for options that the distribution sets itself. Does
%% nothing without a socket.
-spec setopts(port() | none | undefined, list()) -> ok | {error, term()}.
setopts(Socket, Options) ->
    case [O || {Key, _} = O <- Options, lists:member(Key, [active, deliver, packet])] of
        [] when is_port(Socket) -> inet:setopts(Socket, Options);
        [] -> ok;
        Bad -> {error, {badopts, Bad}}
    end.

%% @doc Like inet:getopts/2. Returns no options without a socket.
-spec getopts(port() | none | undefined, list()) -> {ok, list()} | {error, term()}.
getopts(Socket, Options) when is_port(Socket) -> inet:getopts(Socket, Options);
getopts(_, _) -> {ok, []}.

%% @doc Returns the address of the far end, or `unknown' if the socket is not connected any more.
-spec peer(port()) -> {inet:ip_address(), inet:port_number()} | unknown.
peer(Socket) ->
    case inet:peername(Socket) of
        {ok, Peer} -> Peer;
        {error, _} -> unknown
    end.
