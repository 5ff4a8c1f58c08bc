%% @doc Counts the events of this node and stores information about each link, for handover:info/0,1. No connection
%% depends on it, and its functions never fail.
-module(handover_stats).

-export([new/0, count/2, counters/0, set_link_info/1, link_of/1]).

-export_type([counters/0, link_info/0]).

%% The key of link_info() in the process dictionary of a link's connection process.
-define(LINK_KEY, '$handover_link').
-define(COUNTED, [connected_handover, connected_direct, accepted_handover, accepted_direct, setup_failed,
                  acceptance_failed, fell_back, other_name, carrier_ended, epmd_down, bad_fd, telemetry_failed]).

-type counters() :: #{connected_handover | connected_direct | accepted_handover | accepted_direct | setup_failed
                      | acceptance_failed | fell_back | other_name | carrier_ended | epmd_down | bad_fd
                      | telemetry_failed => non_neg_integer()}.
-type link_info() :: #{via := handover | direct, direction := out | in,
                       peer := {inet:ip_address(), inet:port_number()} | unknown,
                       since := integer()}.          % erlang:system_time(second)

%% @doc Creates the counters. They outlive the caller. Is a no-op if they exist.
-spec new() -> ok.
new() ->
    case persistent_term:get(?MODULE, none) of
        none -> persistent_term:put(?MODULE, counters:new(length(?COUNTED), [write_concurrency]));
        _ -> ok
    end.

%% @doc Counts an event of {@link handover_event}. Is a no-op for events that have no counter.
-spec count(atom(), map()) -> ok.
count(connected, #{via := handover}) -> increment(connected_handover);
count(connected, #{via := direct}) -> increment(connected_direct);
count(accepted, #{via := handover}) -> increment(accepted_handover);
count(accepted, #{via := direct}) -> increment(accepted_direct);
count(Event, _) -> increment(Event).

increment(Name) ->
    case {index(Name, 1, ?COUNTED), persistent_term:get(?MODULE, none)} of
        {none, _} -> ok;
        {_, none} -> ok;
        {Index, Counters} -> counters:add(Counters, Index, 1)
    end.

index(Name, N, [Name | _]) -> N;
index(Name, N, [_ | Names]) -> index(Name, N + 1, Names);
index(_, _, []) -> none.

%% @doc Returns all counters; they are 0 before {@link new/0}.
-spec counters() -> counters().
counters() ->
    Counters = persistent_term:get(?MODULE, none),
    maps:from_list([{Name, value(Counters, Index)}
                    || {Index, Name} <- lists:zip(lists:seq(1, length(?COUNTED)), ?COUNTED)]).

value(none, _) -> 0;
value(Counters, Index) -> counters:get(Counters, Index).

%% @doc Stores Info in the process dictionary of the calling process, which must be the connection
%% process of the link.
-spec set_link_info(link_info()) -> ok.
set_link_info(Info) ->
    _ = put(?LINK_KEY, Info),
    ok.

%% @doc Returns the distribution controller of the link to Node and its information, or `none' if there is no link. The
%% information is empty for a link of another distribution module.
-spec link_of(node()) -> {ok, port() | pid(), link_info() | #{}} | none.
link_of(Node) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {Node, Socket} when is_port(Socket) -> {ok, Socket, info_of(erlang:port_info(Socket, connected))};
        {Node, Other} -> {ok, Other, #{}};               % of another distribution module
        false -> none
    end.

info_of({connected, Pid}) ->
    case process_info(Pid, dictionary) of
        {dictionary, Dictionary} -> proplists:get_value(?LINK_KEY, Dictionary, #{});
        undefined -> #{}
    end;
info_of(undefined) ->
    #{}.
