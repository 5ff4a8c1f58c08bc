%% @doc What a distribution socket is given, and what it says: protocol, options, far end.
-module(handover_socket).

-export([protocol/0, options/1, setopts/2, getopts/2, peer/1]).

%% What inet_dist_*_options may have that a connected socket does not take, or that the distribution itself decides.
-define(NOT_FOR_CONNECTED, [active, deliver, packet, mode, header, ip, ifaddr, port, fd, backlog, reuseaddr, reuseport, reuseport_lb,
                            exclusiveaddruse, ipv6_v6only, netns, bind_to_device, tcp_module, inet_backend]).

%% @doc What net_kernel matches accepts by, beside the family. An atom of our own: several protocols may run.
-spec protocol() -> atom().
protocol() -> handover_tcp.

%% @doc The configured options that can be set on a connected socket.
-spec options(inet_dist_listen_options | inet_dist_connect_options) -> [term()].
options(Key) ->
    case application:get_env(kernel, Key) of
        {ok, Options} when is_list(Options) -> [O || O <- Options, is_for_connected(O)];
        _ -> []
    end.

is_for_connected({Key, _}) -> not lists:member(Key, ?NOT_FOR_CONNECTED);
is_for_connected({raw, _, _, _}) -> true;
is_for_connected(_) -> false.

%% @doc As inet:setopts/2, but for the options that the distribution decides. Without a socket there is nothing to set.
-spec setopts(port() | none | undefined, list()) -> ok | {error, term()}.
setopts(Socket, Options) ->
    case [O || {Key, _} = O <- Options, lists:member(Key, [active, deliver, packet])] of
        [] when is_port(Socket) -> inet:setopts(Socket, Options);
        [] -> ok;
        Bad -> {error, {badopts, Bad}}
    end.

%% @doc As inet:getopts/2. Without a socket there is nothing to get.
-spec getopts(port() | none | undefined, list()) -> {ok, list()} | {error, term()}.
getopts(Socket, Options) when is_port(Socket) -> inet:getopts(Socket, Options);
getopts(_, _) -> {ok, []}.

%% @doc The address of the far end.
-spec peer(port()) -> {inet:ip_address(), inet:port_number()} | unknown.
peer(Socket) ->
    case inet:peername(Socket) of
        {ok, Peer} -> Peer;
        {error, _} -> unknown
    end.
