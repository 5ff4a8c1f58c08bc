%% @doc The API of handover: connects to nodes with a reason for each failure, and reports the state of this node and
%% its links.
-module(handover).

-export([connect/1, doctor/1, info/0, info/1]).

-export_type([reason/0, info/0, node_info/0]).

%% Why a connection failed. handover_log has a sentence for each reason.
-type reason() :: bad_name | bad_route | unknown_host | epmd_unreachable | stock_epmd | bad_answer | no_such_node
                | no_handover | no_answer | refused | overloaded | cannot_pass | closed | direct_failed | handshake
                | other_name | timeout | carrier_down | not_alive.

-type info() :: #{carrier := up | down, epmd := handover | stock | down, os_pid => pos_integer(),
                  restarts := non_neg_integer(), counters := handover_stats:counters()}.

%% `since' is erlang:system_time(second) at the moment the link came up; `octets' is {Received, Sent}. `route' is where
%% a new connection would go: the source of the route (see docs/CONFIGURATION.md), the host, and the port of its EPMD.
-type node_info() :: #{connected := boolean(), via => handover | direct, direction => out | in,
                       peer => {inet:ip_address(), inet:port_number()} | unknown, since => integer(),
                       octets => {non_neg_integer(), non_neg_integer()},
                       route => handover_dial:route() | {error, {bad_route, binary()}},
                       last_failure => {SecondsAgo :: non_neg_integer(), reason(), Detail :: binary()}}.

%% @doc Connects to Node like net_kernel:connect_node/1, but returns the reason of a failure. Detail is UTF-8 text for
%% people and may be empty.
%%
%% If the node that answers has another name (with the same part before the @), connect/1 connects to it under that true
%% name and returns the true name. This one connection uses the address that Node resolved to, unless the configuration
%% has an address for the true name. Later connections do not use it.
-spec connect(node()) -> {ok, node()} | {error, {reason(), Detail :: binary()}}.
connect(Node) when is_atom(Node) ->
    case handover_dist:is_node_name(Node) andalso is_alive_name(hd(string:split(atom_to_list(Node), "@"))) of
        true -> to_result(follow_other_name(connect_node(Node)));
        false -> {error, {bad_name, <<"not of the form name@host with a name of letters, digits, _ and -">>}}
    end.

%% The emulator connects only to nodes whose name has these characters.
is_alive_name(Name) -> lists:all(fun is_alive_character/1, Name).

is_alive_character(C) when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9 -> true;
is_alive_character(C) -> C =:= $_ orelse C =:= $-.

%% list_to_atom is safe here: handover_setup has checked that Name is a valid node name.
follow_other_name({error, {other_name, {Name, Address}}}) ->
    Node = list_to_atom(Name),
    handover_dial:with_one_time_address(Node, Address, fun() -> connect_node(Node) end);
follow_other_name(Result) ->
    Result.

to_result({error, Failure}) -> {error, failure(Failure)};
to_result({ok, Node}) -> {ok, Node}.

failure({other_name, {Name, _}}) ->
    {other_name, handover_log:text(["the node calls itself ", handover_log:name(Name)])};
failure({Reason, Detail}) -> {Reason, handover_log:text(Detail)}.

connect_node(Node) ->
    Since = erlang:monotonic_time(),
    case net_kernel:connect_node(Node) of
        true -> {ok, Node};
        ignored -> {error, {not_alive, ""}};
        false -> {error, handover_guard:await_failure(Node, Since)}
    end.

%% @doc Checks each step of a connection from this host to Node and prints one line for each step, with advice for the
%% first step that fails (docs/DOCTOR.md). Returns `{ok, direct}' if Node can be reached only at its own port. It does
%% not connect this node to Node.
-spec doctor(node()) -> {ok, handover | direct} | {error, handover_doctor:failure()}.
doctor(Node) when is_atom(Node) ->
    handover_doctor:run(Node).

%% @doc Returns the state of handover on this node: whether the carrier runs (and its OS pid), which EPMD the node is
%% registered with, how often the carrier was restarted, and the event counters since the node started. Never fails.
-spec info() -> info().
info() ->
    (handover_guard:info())#{counters => handover_stats:counters()}.

%% @doc Returns what handover knows about the link to Node, the route to it, and its last failure. May do a DNS lookup.
-spec info(node()) -> node_info().
info(Node) when is_atom(Node) ->
    Failure = failure_info(handover_guard:last_failure(Node)),
    maps:merge(link_info(handover_stats:link_of(Node)), maps:merge(route_info(Node), Failure)).

link_info(none) ->
    #{connected => false};
link_info({ok, Socket, Info}) ->
    case is_port(Socket) andalso inet:getstat(Socket, [recv_oct, send_oct]) of
        {ok, [{recv_oct, In}, {send_oct, Out}]} -> Info#{connected => true, octets => {In, Out}};
        _ -> Info#{connected => true}
    end.

route_info(Node) ->
    case handover_dist:is_node_name(Node) andalso handover_dial:route(Node) of
        false -> #{};
        {ok, Route} -> #{route => Route};
        {error, Failure} -> #{route => {error, failure(Failure)}}
    end.

failure_info(none) ->
    #{};
failure_info({Time, Failure}) ->
    {Reason, Detail} = failure(Failure),
    Ago = erlang:convert_time_unit(erlang:monotonic_time() - Time, native, second),
    #{last_failure => {Ago, Reason, Detail}}.
