%% @doc The distribution module that `-proto_dist handover_tcp' names: inter-node connections over IPv4, each through the
%% remote EPMD's port.
%%
%% Only net_kernel's callbacks are here, and each says where the work is done. The contracts are OTP's: "How to Implement
%% an Alternative Carrier for the Erlang Distribution" in the ERTS User's Guide, and inet_tcp_dist.
-module(handover_tcp_dist).

%% net_kernel's callbacks
-export([childspecs/0, listen/1, listen/2, address/0, accept/1, accept_connection/5, setup/5, close/1, select/1,
         setopts/2, getopts/2, is_node_name/1]).

-define(DRIVER, inet_tcp).

%% @doc Called by the supervisor net_sup before anything of the distribution is up. A crash here would be swallowed, and
%% `file', `io', `inet:getaddr' with a host name and `application:ensure_all_started' are not to be used yet.
-spec childspecs() -> {ok, [supervisor:child_spec()]}.
childspecs() ->
    handover_dist:childspecs("handover_tcp").

%% @doc Opens the ordinary listen port, unless `listen' is off, and registers the node with EPMD.
-spec listen(Name :: atom(), Host :: string()) ->
          {ok, {handover_dist:listen(), tuple(), Creation :: integer()}} | {error, term()}.
listen(Name, Host) ->
    handover_dist:listen(?DRIVER, Name, Host).

-spec listen(Name :: atom()) -> {ok, {handover_dist:listen(), tuple(), integer()}} | {error, term()}.
listen(Name) ->
    {ok, Host} = inet:gethostname(),
    listen(Name, Host).

%% @doc The address of a node that does not listen (`-dist_listen false').
-spec address() -> tuple().
address() ->
    handover_dist:address(?DRIVER).

%% @doc Starts to take connections: those to the listen port and those that are handed over.
-spec accept(handover_dist:listen()) -> pid().
accept(Listen) ->
    handover_acceptor:start(Listen).

%% @doc The handshake with a node that came to us, in a process of its own.
-spec accept_connection(pid(), port(), node(), [node()], timeout()) -> pid().
accept_connection(Acceptor, Socket, MyNode, Allowed, SetupTime) ->
    handover_handshake:accept(?DRIVER, Acceptor, Socket, MyNode, Allowed, SetupTime).

%% @doc The connection to another node, in a process of its own.
-spec setup(node(), normal | hidden, node(), longnames | shortnames, timeout()) -> pid().
setup(Node, Type, MyNode, LongOrShortNames, SetupTime) ->
    handover_setup:start(?DRIVER, Node, Type, MyNode, LongOrShortNames, SetupTime).

-spec close(handover_dist:listen()) -> ok.
close(Listen) ->
    handover_dist:close(Listen).

%% @doc Whether this module can reach Node. Runs inside net_kernel before OTP 29.
-spec select(node()) -> boolean().
select(Node) ->
    handover_dist:select(?DRIVER, Node).

-spec setopts(handover_dist:listen() | undefined, [inet:socket_setopt()]) -> ok | {error, term()}.
setopts(Listen, Options) ->
    handover_dist:setopts(Listen, Options).

-spec getopts(handover_dist:listen() | undefined, [inet:socket_getopt()]) -> {ok, list()} | {error, term()}.
getopts(Listen, Options) ->
    handover_dist:getopts(Listen, Options).

-spec is_node_name(term()) -> boolean().
is_node_name(Node) ->
    handover_dist:is_node_name(Node).
