%% @doc What this node has done, counted, and what is known of its links. For people and monitoring: nothing here is needed for
%% a connection, so nothing here can fail one.
-module(handover_stats).

-export([new/0, count/2, counters/0, link_up/3, link_of/1]).

-export_type([counters/0, link_info/0]).

-define(TABLE, ?MODULE).
-define(COUNTED, [connected_handover, connected_direct, accepted_handover, accepted_direct, setup_failed,
                  acceptance_failed, fell_back, other_name, carrier_ended, epmd_down, bad_fd, telemetry_failed]).
-define(MAX_LINKS, 4096).           % then those that are gone are swept out

-type counters() :: #{connected_handover | connected_direct | accepted_handover | accepted_direct | setup_failed
                      | acceptance_failed | fell_back | other_name | carrier_ended | epmd_down | bad_fd
                      | telemetry_failed => non_neg_integer()}.
-type link_info() :: #{via := handover | direct, direction := out | in, peer := {inet:ip_address(), inet:port_number()},
                       since := integer()}.          % erlang:system_time(second)

%% @doc Makes the table of links, which the caller owns. The counters outlive the caller.
-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public]),
    case persistent_term:get(?MODULE, none) of
        none -> persistent_term:put(?MODULE, counters:new(length(?COUNTED), [write_concurrency]));
        _ -> ok
    end.

%% @doc Counts an event of {@link handover_log} of those that are counted.
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
    Counters = persistent_term:get(?MODULE),
    maps:from_list([{Name, counters:get(Counters, Index)}
                    || {Index, Name} <- lists:zip(lists:seq(1, length(?COUNTED)), ?COUNTED)]).

%% @doc A link is up on Socket.
-spec link_up(node(), port(), link_info()) -> ok.
link_up(Node, Socket, Info) ->
    _ = safely(fun() ->
                       ets:info(?TABLE, size) < ?MAX_LINKS orelse sweep(),
                       ets:insert(?TABLE, {Node, Socket, Info})
               end),
    ok.

sweep() ->
    [ets:delete(?TABLE, Node) || {Node, Socket, _} <- ets:tab2list(?TABLE), erlang:port_info(Socket, id) =:= undefined].

%% @doc What is known of the link to Node, if there is one.
-spec link_of(node()) -> {ok, port(), link_info() | #{}} | none.
link_of(Node) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {Node, Socket} -> {ok, Socket, info_of(safely(fun() -> ets:lookup(?TABLE, Node) end), Socket)};
        false -> none
    end.

info_of([{_, Socket, Info}], Socket) -> Info;
info_of(_, _) -> #{}.

safely(Fun) ->
    try Fun() catch error:badarg -> no_table end.
