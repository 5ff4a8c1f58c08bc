%% @doc Limits how often similar events are logged, so that other hosts cannot fill the log. Only the first event with a
%% key is logged within a minute; the others are counted, and their number is logged when the minute ends. The guard
%% owns the table of keys. If the table is missing, every event is logged.
-module(handover_log_limit).

-export([new/0, admit/2, end_window/1]).

-export_type([key/0]).

-type key() :: {Event :: atom(), term(), term()}.

-define(TABLE, ?MODULE).
-define(WINDOW_MS, 60000).
-define(MAX_KEYS, 512).             % further keys of one event share a key

%% @doc Creates the table. The caller, which must be the guard, owns it.
-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public]),
    ok.

%% @doc Reports whether an event with this key must be logged. For the first event, this stores Summary(), and the guard
%% receives `{log_minute_over, Key}' after a minute. Events with the key `none' are always logged.
-spec admit(key() | none, fun(() -> term())) -> boolean().
admit(none, _) ->
    true;
admit(Key, Summary) ->
    try count(bounded_key(Key), Summary)
    catch
        error:badarg -> true                 % no table
    end.

bounded_key({Event, _, _} = Key) ->
    case ets:member(?TABLE, Key) orelse ets:info(?TABLE, size) < ?MAX_KEYS of
        true -> Key;
        false -> {Event, other, other}
    end.

count(Key, Summary) ->
    case ets:update_counter(?TABLE, Key, {2, 1}, {Key, -1, none}) of
        0 ->
            _ = ets:update_element(?TABLE, Key, {3, Summary()}),
            _ = erlang:send_after(?WINDOW_MS, handover_guard, {log_minute_over, Key}),
            true;
        _ ->
            false
    end.

%% @doc Ends the minute of a key. Returns how many of its events were not logged and the stored summary of the first, or
%% `none' if all were logged.
-spec end_window(key()) -> {pos_integer(), term()} | none.
end_window(Key) ->
    case ets:take(?TABLE, Key) of
        [{_, Count, Summary}] when Count > 0 -> {Count, Summary};
        _ -> none
    end.
