%% @doc Emits events: logs each event, counts it for handover:info/0, and passes it to the module that the key
%% `telemetry' names. Works before the applications are started.
%%
%% The log reports are maps with the label `{handover, Event}'. They have the domain [otp], because the default handler
%% drops domains that it does not know. Similar events are logged once a minute (see {@link handover_log_limit}).
-module(handover_event).

-export([emit/3, report_repeated/1]).
-export([telemetry_failed/2]).

-export_type([event/0]).

-type event() :: connected | accepted | setup_failed | acceptance_failed | fell_back | other_name | telemetry_failed
               | carrier_ended | carrier_log | directory_gone | repeated | stock_epmd | epmd_down | epmd_up
               | not_registered | bad_message | bad_fd | unsupported_option.

%% @doc Logs and counts an event, and passes it to the telemetry module. Fields must have the keys that handover_log
%% needs for Event.
-spec emit(debug | info | notice | warning | error, event(), map()) -> ok.
emit(Level, Event, Fields) ->
    _ = logger:allow(Level, ?MODULE) andalso log_once(Level, Event, Fields#{label => {handover, Event}}),
    handover_stats:count(Event, Fields),
    handover_telemetry:notify(Event, Fields, fun ?MODULE:telemetry_failed/2).

%% @doc Logs how many events with this key were not logged in the minute that has ended, if any. The guard calls this
%% when it receives `{log_minute_over, Key}'.
-spec report_repeated(handover_log_limit:key()) -> ok.
report_repeated(Key) ->
    case handover_log_limit:end_window(Key) of
        {Count, {Level, Event, Text}} ->
            log(Level, #{label => {handover, repeated}, event => Event, text => Text, count => Count});
        none ->
            ok
    end.

%% @private
-spec telemetry_failed(module(), term()) -> ok.
telemetry_failed(Module, Reason) ->
    emit(warning, telemetry_failed, #{module => Module, reason => Reason}).

%% internal

log_once(Level, Event, Report) ->
    Summary = fun() -> {Level, Event, handover_log:sentence(Report)} end,
    case handover_log_limit:admit(limit_key(Event, Report), Summary) of
        true -> log(Level, Report);
        false -> ok
    end.

log(Level, Report) ->
    logger:log(Level, Report, #{domain => [otp], report_cb => fun handover_log:format/1}).

%% Events are similar if they have the same name, node and kind of reason. Connections are always logged.
limit_key(connected, _) -> none;
limit_key(accepted, _) -> none;
limit_key(acceptance_failed, #{peer := {Ip, _}, reason := Reason}) -> {acceptance_failed, Ip, reason_kind(Reason)};
limit_key(carrier_log, #{text := Text}) -> {carrier_log, none, erlang:md5(Text)};
limit_key(Event, Report) -> {Event, maps:get(node, Report, none), reason_kind(maps:get(reason, Report, none))}.

reason_kind(Reason) when is_atom(Reason) -> Reason;
reason_kind(Reason) when is_tuple(Reason), tuple_size(Reason) > 0 ->
    {reason_kind(element(1, Reason)), reason_kind(element(tuple_size(Reason), Reason))};
reason_kind(_) -> other.
