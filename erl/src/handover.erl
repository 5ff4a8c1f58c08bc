%% @doc What an application may ask of handover.
-module(handover).

-export([connect/1, doctor/1, info/0, info/1]).

-export_type([reason/0, info/0, node_info/0]).

%% Why a connection did not come up; handover_log has a sentence for each.
-type reason() :: bad_name | bad_route | unknown_host | epmd_unreachable | stock_epmd | bad_answer | no_such_node
                | no_handover | no_answer | refused | overloaded | cannot_pass | closed | direct_failed | handshake | other_name
                | timeout | carrier_down | not_alive.

-type info() :: #{carrier := up | down, epmd := handover | stock | down, os_pid => pos_integer(),
                  restarts := non_neg_integer(), counters := handover_stats:counters()}.

%% `octets' are {Received, Sent}. `route' is where a new connection would go: by which of the ways of docs/CONFIGURATION.md, to
%% which host, to which port. `last_failure' is how many seconds ago a connection failed, and why.
-type node_info() :: #{connected := boolean(), via => handover | direct, direction => out | in,
                       peer => {inet:ip_address(), inet:port_number()} | unknown, since => integer(),
                       octets => {non_neg_integer(), non_neg_integer()},
                       route => handover_dial:route() | {error, {bad_route, binary()}},
                       last_failure => {SecondsAgo :: non_neg_integer(), reason(), Detail :: binary()}}.

%% @doc As net_kernel:connect_node/1, with the reason in place of `false'. Detail is text for people, in UTF-8, and may be empty.
%%
%% If the node that is dialled as Node calls itself by another name (with the same part before the @), the connection is made
%% under its true name, which is returned. That one connection goes to the address that Node led to, unless the configuration has
%% another one for the true name. No later connection does.
-spec connect(node()) -> {ok, node()} | {error, {reason(), Detail :: binary()}}.
connect(Node) when is_atom(Node) ->
    case handover_dist:is_node_name(Node) andalso is_alive_name(hd(string:split(atom_to_list(Node), "@"))) of
        true -> result(connect_true(connect_node(Node)));
        false -> {error, {bad_name, <<"not of the form name@host, with a name of letters, digits, _ and -">>}}
    end.

%% The emulator dials no other name.
is_alive_name(Name) -> lists:all(fun is_alive_character/1, Name).

is_alive_character(C) when C >= $a, C =< $z; C >= $A, C =< $Z; C >= $0, C =< $9 -> true;
is_alive_character(C) -> C =:= $_ orelse C =:= $-.

%% handover_setup has checked that Name can be a node's.
connect_true({error, {other_name, {Name, Address}}}) ->
    Node = list_to_atom(Name),
    handover_dial:with_address(Node, Address, fun() -> connect_node(Node) end);
connect_true(Result) ->
    Result.

result({error, Failure}) -> {error, failure(Failure)};
result({ok, Node}) -> {ok, Node}.

failure({other_name, {Name, _}}) -> {other_name, handover_log:text(["it calls itself ", handover_log:name(Name)])};
failure({Reason, Detail}) -> {Reason, handover_log:text(Detail)}.

connect_node(Node) ->
    Since = erlang:monotonic_time(),
    case net_kernel:connect_node(Node) of
        true -> {ok, Node};
        ignored -> {error, {not_alive, ""}};
        false -> {error, handover_guard:last_failure(Node, Since)}
    end.

%% @doc Checks the way from this host to Node and prints it, a line a step, with what to do about the first that fails
%% (docs/DOCTOR.md). `direct': Node is reached, but at its own port and not by handover. No connection to it comes up.
-spec doctor(node()) -> {ok, handover | direct} | {error, handover_doctor:failure()}.
doctor(Node) when is_atom(Node) ->
    handover_doctor:run(Node).

%% @doc The state of this node's handover: is the carrier program running, is the node registered, with which EPMD; and what
%% it has done since it started.
-spec info() -> info().
info() ->
    (handover_guard:info())#{counters => handover_stats:counters()}.

%% @doc What is known of the link to Node, or of the way to it.
-spec info(node()) -> node_info().
info(Node) when is_atom(Node) ->
    maps:merge(link_info(handover_stats:link_of(Node)), maps:merge(route(Node), last_failure(handover_guard:failure(Node)))).

link_info(none) ->
    #{connected => false};
link_info({ok, Socket, Info}) ->
    case is_port(Socket) andalso inet:getstat(Socket, [recv_oct, send_oct]) of
        {ok, [{recv_oct, In}, {send_oct, Out}]} -> Info#{connected => true, octets => {In, Out}};
        _ -> Info#{connected => true}
    end.

route(Node) ->
    case handover_dist:is_node_name(Node) andalso handover_dial:route(Node) of
        false -> #{};
        {ok, Route} -> #{route => Route};
        {error, Failure} -> #{route => {error, failure(Failure)}}
    end.

last_failure(none) ->
    #{};
last_failure({Time, Failure}) ->
    {Reason, Detail} = failure(Failure),
    Ago = erlang:convert_time_unit(erlang:monotonic_time() - Time, native, second),
    #{last_failure => {Ago, Reason, Detail}}.
