%% @doc What this node has done, counted, and what is known of its links. For people and monitoring: nothing here is needed for
%% a connection, so nothing here can fail one.
-module(handover_stats).

-export([new/0, count/2, counters/0, link/1, link_of/1]).

-export_type([counters/0, link_info/0]).

%% The key in the dictionary of a link's process.
-define(LINK, '$handover_link').
-define(COUNTED, [connected_handover, connected_direct, accepted_handover, accepted_direct, setup_failed,
                  acceptance_failed, fell_back, other_name, carrier_ended, epmd_down, bad_fd, telemetry_failed]).

-type counters() :: #{connected_handover | connected_direct | accepted_handover | accepted_direct | setup_failed
                      | acceptance_failed | fell_back | other_name | carrier_ended | epmd_down | bad_fd
                      | telemetry_failed => non_neg_integer()}.
-type link_info() :: #{via := handover | direct, direction := out | in, peer := {inet:ip_address(), inet:port_number()} | unknown,
                       since := integer()}.          % erlang:system_time(second)

%% @doc Makes the counters, which outlive the caller.
-spec new() -> ok.
new() ->
    case persistent_term:get(?MODULE, none) of
        none -> persistent_term:put(?MODULE, counters:new(length(?COUNTED), [write_concurrency]));
        _ -> ok
    end.

%% @doc Counts an event of {@link handover_event} of those that are counted.
-spec count(atom(), map()) -> ok.
count(connected, #{via := handover}) -> add(connected_handover);
count(connected, #{via := direct}) -> add(connected_direct);
count(accepted, #{via := handover}) -> add(accepted_handover);
count(accepted, #{via := direct}) -> add(accepted_direct);
count(Event, _) -> add(Event).

add(Name) ->
    case {index(Name, 1, ?COUNTED), persistent_term:get(?MODULE, none)} of
        {none, _} -> ok;
        {_, none} -> ok;
        {Index, Counters} -> counters:add(Counters, Index, 1)
    end.

index(Name, N, [Name | _]) -> N;
index(Name, N, [_ | Names]) -> index(Name, N + 1, Names);
index(_, _, []) -> none.

-spec counters() -> counters().
counters() ->
    Counters = persistent_term:get(?MODULE, none),
    maps:from_list([{Name, value(Counters, Index)} || {Index, Name} <- lists:zip(lists:seq(1, length(?COUNTED)), ?COUNTED)]).

value(none, _) -> 0;
value(Counters, Index) -> counters:get(Counters, Index).

%% @doc The calling process is about to be the process of a link. What is known of the link stays with it, as long as it lives.
-spec link(link_info()) -> ok.
link(Info) ->
    _ = put(?LINK, Info),
    ok.

%% @doc What is known of the link to Node, if there is one.
-spec link_of(node()) -> {ok, port() | pid(), link_info() | #{}} | none.
link_of(Node) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {Node, Socket} when is_port(Socket) -> {ok, Socket, info_of(erlang:port_info(Socket, connected))};
        {Node, Other} -> {ok, Other, #{}};               % another distribution's
        false -> none
    end.

info_of({connected, Pid}) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} -> proplists:get_value(?LINK, Dictionary, #{});
        undefined -> #{}
    end;
info_of(undefined) ->
    #{}.
