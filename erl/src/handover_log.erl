%% @doc Everything that handover says: to logger, as structured reports with a sentence for people, to the counters of
%% handover:info/0, and to the module that `telemetry' names. As OTP's own, the reports have the domain [otp], which the
%% default handler prints (it drops domains it does not know), and a label: `{handover, Event}'. Safe before the applications
%% are up.
-module(handover_log).

-export([event/3, format/1, text/1]).

-export_type([event/0]).

-type event() :: connected | accepted | setup_failed | acceptance_failed | fell_back | other_name | telemetry_failed
               | carrier_ended | carrier_log | stock_epmd | epmd_down | epmd_up
               | not_registered | bad_message | bad_fd | unsupported_option.

%% @doc Logs, counts and passes on one event.
-spec event(debug | info | notice | warning | error, event(), map()) -> ok.
event(Level, Event, Fields) ->
    logger:log(Level, Fields#{label => {handover, Event}}, #{domain => [otp], report_cb => fun ?MODULE:format/1}),
    handover_stats:count(Event, Fields),
    handover_telemetry:event(Event, Fields).

%% @doc The sentence of a report.
-spec format(map()) -> {io:format(), [term()]}.
format(#{label := {handover, connected}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: connected to ~ts, ~ts, in ~b ms", [Node, via(Via, Peer), ms(Duration)]};
format(#{label := {handover, accepted}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: ~ts connected to this node, ~ts, in ~b ms", [Node, via(Via, Peer), ms(Duration)]};
format(#{label := {handover, acceptance_failed}, via := Via, peer := Peer, reason := Reason}) ->
    {"handover: a connection to this node, ~ts, ended before the handshake was done (~0tp)", [via(Via, Peer), Reason]};
format(#{label := {handover, other_name}, node := Node, name := Name, peer := Peer}) ->
    {"handover: no connection to ~ts: the node at ~ts calls itself ~ts. Connect to that name, or add it to dial_map",
     [Node, address(Peer), Name]};
format(#{label := {handover, telemetry_failed}, module := Module, reason := Reason}) ->
    {"handover: ~tp, which `telemetry' names, failed (~0tP); further failures are counted only", [Module, Reason, 20]};
format(#{label := {handover, setup_failed}, node := Node, reason := Reason, detail := Detail}) ->
    {"handover: no connection to ~ts: ~ts~ts", [Node, explain(Reason), detail(Detail)]};
format(#{label := {handover, fell_back}, node := Node, reason := Reason}) ->
    {"handover: ~ts is dialled directly: ~ts", [Node, explain(Reason)]};
format(#{label := {handover, carrier_ended}, reason := Reason, restart_ms := Ms}) ->
    {"handover: the carrier program ended (~tp); it is started again in ~b ms, live links are not touched", [Reason, Ms]};
format(#{label := {handover, carrier_log}, text := Text, fields := Fields}) ->
    {"handover: ~ts~ts", [Text, [io_lib:format(" ~ts=~ts", [K, text(V)]) || {K, V} <- Fields]]};
format(#{label := {handover, stock_epmd}, port := Port}) ->
    {"handover: the EPMD at port ~b of this host is not handover's: nobody can be handed over to this node, others "
     "reach it at its own listen port only. Stop that epmd and start ~ts in its place",
     [Port, handover_config:program("epmd")]};
format(#{label := {handover, epmd_down}, detail := Detail}) ->
    {"handover: lost EPMD (~ts); this node registers again when one is back, live links are not touched", [Detail]};
format(#{label := {handover, epmd_up}, kind := Kind}) ->
    {"handover: registered with EPMD again (~ts)", [Kind]};
format(#{label := {handover, not_registered}, name := Name, reason := Reason}) ->
    {"handover: ~ts is not registered with EPMD, so nobody can be handed over to it: ~ts", [Name, explain(Reason)]};
format(#{label := {handover, bad_message}, message := Message}) ->
    {"handover: the carrier program said what this version does not know: ~tp", [Message]};
format(#{label := {handover, bad_fd}, reason := Reason}) ->
    {"handover: a connection could not be taken over: ~tp", [Reason]};
format(#{label := {handover, unsupported_option}, option := Option, reason := Reason}) ->
    {"handover: socket option ~tp can't be set on a connection that stands: ~tp", [Option, Reason]}.

%% @doc The detail of a failure, for people.
-spec text(term()) -> iodata().
text(Value) when is_binary(Value); is_list(Value) -> Value;
text(Value) -> io_lib:format("~tp", [Value]).

%% internal

via(handover, Peer) -> ["handed over, ", address(Peer)];
via(direct, Peer) -> ["directly, ", address(Peer)].

address({Ip, Port}) when tuple_size(Ip) =:= 8 -> io_lib:format("[~ts]:~b", [inet:ntoa(Ip), Port]);
address({Ip, Port}) -> io_lib:format("~ts:~b", [inet:ntoa(Ip), Port]);
address(unknown) -> "from an address unknown".

ms(Duration) -> erlang:convert_time_unit(Duration, native, millisecond).

detail("") -> "";
detail(<<>>) -> "";
detail(Detail) -> [" (", text(Detail), ")"].

%% What an operator can do something with, for each reason of handover:connect/1.
explain(bad_route) -> "dial_module did not say where it is";
explain(other_name) -> "the node there has another name";
explain(bad_name) -> "the name is not of the form name@host, or its host does not fit -name or -sname";
explain(unknown_host) -> "its host name has no address here";
explain(no_such_node) -> "its EPMD knows no node of that name";
explain(no_handover) -> "it is registered but takes no handovers; is it started with -proto_dist handover_tcp?";
explain(no_answer) -> "the node did not answer its EPMD in time";
explain(refused) -> "its EPMD or the node refuses this connection";
explain(overloaded) -> "its EPMD has too many handovers at once; try again";
explain(stock_epmd) -> "its EPMD is not handover's";
explain(bad_answer) -> "what listens on its EPMD port does not speak EPMD";
explain(closed) -> "it closed the connection before the handshake was done";
explain(epmd_unreachable) -> "its EPMD can't be reached";
explain(direct_failed) -> "neither handover nor the node's own port reaches it";
explain(timeout) -> "no answer within net_setuptime";
explain(handshake) -> "the distribution handshake failed";
explain(carrier_down) -> "the carrier program of this node is not running";
explain(Other) -> text(Other).
