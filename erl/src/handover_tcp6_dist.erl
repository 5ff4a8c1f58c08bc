%% @doc The distribution module of `-proto_dist handover_tcp6': connects nodes over IPv6, through the port of the remote
%% EPMD.
%%
%% This module has only the callbacks of net_kernel; other modules implement them. OTP documents the contracts in "How
%% to Implement an Alternative Carrier for the Erlang Distribution" (ERTS User's Guide); inet_tcp_dist is the reference.
-module(handover_tcp6_dist).

%% net_kernel's callbacks
-export([childspecs/0, listen/1, listen/2, address/0, accept/1, accept_connection/5, setup/5, close/1, select/1,
         setopts/2, getopts/2, is_node_name/1]).

-define(DRIVER, inet6_tcp).

%% @doc Returns the children that net_sup must start before net_kernel. net_sup calls this before the distribution runs.
%% If this function crashes, net_sup ignores that. `file', `io', `inet:getaddr' with a host name and
%% `application:ensure_all_started' do not work yet.
-spec childspecs() -> {ok, [supervisor:child_spec()]}.
childspecs() ->
    handover_dist:childspecs("handover_tcp6").

%% @doc Opens the node's own port, unless `listen' is false, and registers the node with EPMD.
-spec listen(Name :: atom(), Host :: string()) ->
          {ok, {handover_dist:listen(), tuple(), Creation :: integer()}} | {error, term()}.
listen(Name, Host) ->
    handover_dist:listen(?DRIVER, Name, Host).

%% @doc Like listen/2, with the name of this host.
-spec listen(Name :: atom()) -> {ok, {handover_dist:listen(), tuple(), integer()}} | {error, term()}.
listen(Name) ->
    {ok, Host} = inet:gethostname(),
    listen(Name, Host).

%% @doc Returns the #net_address{} of a node that does not listen (`-dist_listen false').
-spec address() -> tuple().
address() ->
    handover_dist:address(?DRIVER).

%% @doc Starts the process that accepts connections to the node's own port, and lets net_kernel receive handed-over
%% connections.
-spec accept(handover_dist:listen()) -> pid().
accept(Listen) ->
    handover_acceptor:start(Listen).

%% @doc Starts a process that runs the handshake with a node that connected to this node.
-spec accept_connection(pid(), port(), node(), [node()], timeout()) -> pid().
accept_connection(Acceptor, Socket, MyNode, Allowed, SetupTime) ->
    handover_handshake:accept(?DRIVER, Acceptor, Socket, MyNode, Allowed, SetupTime).

%% @doc Starts a process that connects to Node.
-spec setup(node(), normal | hidden, node(), longnames | shortnames, timeout()) -> pid().
setup(Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    handover_setup:start(?DRIVER, Node, Type, MyNode, LongOrShortNames, SetupTime).

%% @doc Closes the node's own port.
-spec close(handover_dist:listen()) -> ok.
close(Listen) ->
    handover_dist:close(Listen).

%% @doc Reports whether this module can connect to Node. Must not block: before OTP 29 it runs inside net_kernel.
-spec select(node()) -> boolean().
select(Node) ->
    handover_dist:select(?DRIVER, Node).

%% @doc Sets options of the node's own port.
-spec setopts(handover_dist:listen() | undefined, [inet:socket_setopt()]) -> ok | {error, term()}.
setopts(Listen, Options) ->
    handover_dist:setopts(Listen, Options).

%% @doc Gets options of the node's own port.
-spec getopts(handover_dist:listen() | undefined, [inet:socket_getopt()]) -> {ok, list()} | {error, term()}.
getopts(Listen, Options) ->
    handover_dist:getopts(Listen, Options).

%% @doc Reports whether Node is an atom of the form name@host.
-spec is_node_name(term()) -> boolean().
is_node_name(Node) ->
    handover_dist:is_node_name(Node).
