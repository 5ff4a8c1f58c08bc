%% @doc The events of this node's handover. Each is logged as a structured report with a sentence for people, counted for
%% handover:info/0, and passed to the module that `telemetry' names. As OTP's own, the reports have the domain [otp], which the
%% default handler prints (it drops domains it does not know), and a label: `{handover, Event}'. Events that are alike are logged once
%% a minute (see {@link handover_log_limit}). Safe before the applications are up.
-module(handover_event).

-export([emit/3, minute_over/1]).
-export([telemetry_failed/2]).

-export_type([event/0]).

-type event() :: connected | accepted | setup_failed | acceptance_failed | fell_back | other_name | telemetry_failed
               | carrier_ended | carrier_log | directory_gone | repeated | stock_epmd | epmd_down | epmd_up
               | not_registered | bad_message | bad_fd | unsupported_option.

%% @doc Logs and counts an event, and passes it on.
-spec emit(debug | info | notice | warning | error, event(), map()) -> ok.
emit(Level, Event, Fields) ->
    _ = logger:allow(Level, ?MODULE) andalso log_once(Level, Event, Fields#{label => {handover, Event}}),
    handover_stats:count(Event, Fields),
    handover_telemetry:event(Event, Fields, fun ?MODULE:telemetry_failed/2).

%% @doc Logs how many events like the one of this key were only counted in the minute that is over.
-spec minute_over(handover_log_limit:key()) -> ok.
minute_over(Key) ->
    case handover_log_limit:ended(Key) of
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
    case handover_log_limit:admit(key(Event, Report), fun() -> {Level, Event, handover_log:sentence(Report)} end) of
        true -> log(Level, Report);
        false -> ok
    end.

log(Level, Report) ->
    logger:log(Level, Report, #{domain => [otp], report_cb => fun handover_log:format/1}).

%% Events are alike if they are of one kind, about one node, and for one reason, whatever its details. Each connection is logged.
key(connected, _) -> none;
key(accepted, _) -> none;
key(acceptance_failed, #{peer := {Ip, _}, reason := Reason}) -> {acceptance_failed, Ip, kind(Reason)};
key(carrier_log, #{text := Text}) -> {carrier_log, none, erlang:md5(Text)};
key(Event, Report) -> {Event, maps:get(node, Report, none), kind(maps:get(reason, Report, none))}.

kind(Reason) when is_atom(Reason) -> Reason;
kind(Reason) when is_tuple(Reason), tuple_size(Reason) > 0 -> {kind(element(1, Reason)), kind(element(tuple_size(Reason), Reason))};
kind(_) -> other.
