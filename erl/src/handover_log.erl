%% @doc Everything that handover says, through logger: structured reports with a sentence for people. As OTP's own, they have
%% the domain [otp], which the default handler prints (it drops domains it does not know), and a label:
%% `{handover, Event}'. Safe before the applications are up.
-module(handover_log).

-export([event/3, format/1]).

-export_type([event/0]).

-type event() :: setup_failed | fell_back | carrier_ended | carrier_log | stock_epmd | epmd_down | epmd_up
               | not_registered | bad_message | bad_fd | unsupported_option.

%% @doc Logs one event.
-spec event(debug | info | notice | warning | error, event(), map()) -> ok.
event(Level, Event, Fields) ->
    logger:log(Level, Fields#{label => {handover, Event}}, #{domain => [otp], report_cb => fun ?MODULE:format/1}).

%% @doc The sentence of a report.
-spec format(map()) -> {io:format(), [term()]}.
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

%% internal

detail("") -> "";
detail(<<>>) -> "";
detail(Detail) -> [" (", text(Detail), ")"].

text(Value) when is_binary(Value); is_list(Value) -> Value;
text(Value) -> io_lib:format("~tp", [Value]).

%% What an operator can do something with, for each reason of handover:connect/1.
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
