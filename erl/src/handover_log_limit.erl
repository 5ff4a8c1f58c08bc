%% @doc Keeps the log from being filled from outside: of events that are alike one is logged within a minute, the others are counted,
%% and their number is logged when the minute is over. The guard owns the table and is told when that is. Without it everything is
%% logged.
-module(handover_log_limit).

-export([new/0, admit/2, ended/1]).

-export_type([key/0]).

-type key() :: {Event :: atom(), term(), term()}.

-define(TABLE, ?MODULE).
-define(WINDOW_MS, 60000).
-define(MAX_KEYS, 512).             % beyond, all of an event are alike

%% @doc Makes the table, which the caller owns.
-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public]),
    ok.

%% @doc Reports whether an event of this key is to be logged. If it is the first of its minute, What() is kept.
-spec admit(key() | none, fun(() -> term())) -> boolean().
admit(none, _) ->
    true;
admit(Key, What) ->
    try count(bounded(Key), What)
    catch
        error:badarg -> true                 % no table
    end.

bounded({Event, _, _} = Key) ->
    case ets:member(?TABLE, Key) orelse ets:info(?TABLE, size) < ?MAX_KEYS of
        true -> Key;
        false -> {Event, other, other}
    end.

count(Key, What) ->
    case ets:update_counter(?TABLE, Key, {2, 1}, {Key, -1, none}) of
        0 ->
            _ = ets:update_element(?TABLE, Key, {3, What()}),
            _ = erlang:send_after(?WINDOW_MS, handover_guard, {log_minute_over, Key}),
            true;
        _ ->
            false
    end.

%% @doc The key's minute is over: how many events of it were not logged, if any, and what was kept of the first.
-spec ended(key()) -> {pos_integer(), term()} | none.
ended(Key) ->
    case ets:take(?TABLE, Key) of
        [{_, Count, What}] when Count > 0 -> {Count, What};
        _ -> none
    end.
