%% A logger handler that stores handover's reports in a table of its node.
-module(handover_ct_logs).

-export([start/0, get/0, log/2]).
-export([own_table/1]).

start() ->
    Owner = spawn(?MODULE, own_table, [self()]),
    receive {Owner, ready} -> ok end,
    ok = logger:set_handler_config(default, level, notice),
    ok = logger:set_primary_config(level, debug),
    logger:add_handler(?MODULE, ?MODULE, #{level => debug}).

own_table(Starter) ->
    ?MODULE = ets:new(?MODULE, [named_table, public, ordered_set]),
    Starter ! {self(), ready},
    receive after infinity -> ok end.

log(#{msg := {report, #{label := {handover, Event}} = Report}}, _) ->
    ets:insert(?MODULE, {erlang:unique_integer([monotonic]), Report#{event => Event}});
log(_, _) ->
    ok.

%% The reports, oldest first.
get() ->
    [Report || {_, Report} <- ets:tab2list(?MODULE)].
