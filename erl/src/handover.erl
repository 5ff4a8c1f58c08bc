%% @doc What an application may ask of handover.
-module(handover).

-export([connect/1, info/0]).

-export_type([reason/0]).

%% Why a connection did not come up; handover_log has a sentence for each.
-type reason() :: bad_name | unknown_host | epmd_unreachable | stock_epmd | bad_answer | no_such_node | no_handover
                | no_answer | refused | overloaded | closed | direct_failed | handshake | timeout | carrier_down
                | not_alive.

%% @doc As net_kernel:connect_node/1, with the reason in place of `false'. Detail is text for people, and may be empty.
-spec connect(node()) -> ok | {error, {reason(), Detail :: iodata()}}.
connect(Node) when is_atom(Node) ->
    case handover_dist:is_node_name(Node) of
        true -> connect_node(Node);
        false -> {error, {bad_name, "not of the form name@host"}}
    end.

connect_node(Node) ->
    Since = erlang:monotonic_time(),
    case net_kernel:connect_node(Node) of
        true -> ok;
        ignored -> {error, {not_alive, ""}};
        false -> {error, handover_sup:last_failure(Node, Since)}
    end.

%% @doc The state of this node's handover: is the carrier program running, is the node registered, with which EPMD.
-spec info() -> #{carrier := up | down, epmd := handover | stock | down, os_pid => pos_integer(),
                  restarts := non_neg_integer()}.
info() ->
    handover_sup:info().
