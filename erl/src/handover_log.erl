%% @doc Formats the reports that {@link handover_event} logs as sentences.
%%
%% Parts of the log come from other hosts. They must not move the cursor of a terminal or look like another log line:
%% names with special characters are quoted, and all other text is escaped.
-module(handover_log).

-export([format/1, sentence/1, text/1, name/1]).

-define(MAX_TEXT, 2000).            % characters; longer texts are cut
-define(QUOTE, 16#22).

%% @doc Returns the sentence of a report. Never fails. The sentence is formatted now, because a logger that formats it
%% later may fail if the node cannot load modules then.
-spec sentence(map()) -> binary().
sentence(Report) ->
    try
        {Format, Args} = format(Report),
        text(io_lib:format(Format, Args))
    catch
        _:_ -> <<"handover: an event that could not be formatted">>
    end.

%% @doc The report_cb of logger: returns the sentence of a report as format and arguments.
-spec format(map()) -> {io:format(), [term()]}.
format(Report) ->
    {Format, Args} = message(Report),
    {Format, [case is_integer(Arg) of true -> Arg; false -> text(Arg) end || Arg <- Args]}.

message(#{label := {handover, connected}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: connected to ~ts, ~ts, in ~b ms", [name(Node), via(Via, Peer), ms(Duration)]};
message(#{label := {handover, accepted}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: ~ts connected to this node, ~ts, in ~b ms", [name(Node), via(Via, Peer), ms(Duration)]};
message(#{label := {handover, acceptance_failed}, via := Via, peer := Peer, reason := Reason}) ->
    {"handover: a connection to this node, ~ts, ended during the handshake (~ts)", [via(Via, Peer), term(Reason)]};
message(#{label := {handover, other_name}, node := Node, name := Name, peer := Peer}) ->
    {"handover: no connection to ~ts: the node at ~ts calls itself ~ts. Connect to that name, or add it to dial_map",
     [name(Node), address(Peer), name(Name)]};
message(#{label := {handover, telemetry_failed}, module := Module, reason := Reason}) ->
    {"handover: the telemetry module ~ts failed (~ts); further failures are only counted",
     [term(Module), term(Reason)]};
message(#{label := {handover, setup_failed}, node := Node, reason := Reason, detail := Detail}) ->
    {"handover: no connection to ~ts: ~ts~ts", [name(Node), explain(Reason), detail(Detail)]};
message(#{label := {handover, fell_back}, node := Node, reason := Reason}) ->
    {"handover: connecting to ~ts at its own port: ~ts", [name(Node), explain(Reason)]};
message(#{label := {handover, carrier_ended}, reason := Reason, restart_ms := Ms}) ->
    {"handover: the carrier ended (~ts); it restarts in ~b ms. Existing links are not affected", [term(Reason), Ms]};
message(#{label := {handover, carrier_log}, text := Text, fields := Fields}) ->
    {"handover: ~ts~ts", [Text, [[" ", field(Key, Value)] || {Key, Value} <- Fields]]};
message(#{label := {handover, directory_gone}}) ->
    {"handover: this node's working directory was removed. OTP cannot start programs there, so the directory is now /",
     []};
message(#{label := {handover, repeated}, text := Text, count := Count}) ->
    {"~ts (~b more like this within a minute)", [Text, Count]};
message(#{label := {handover, stock_epmd}, port := Port}) ->
    {"handover: the EPMD on port ~b of this host is not handover's. No connection can be handed over to this node; "
     "other nodes can reach it only at its own port. Stop that epmd and start ~ts instead",
     [Port, handover_config:program("epmd")]};
message(#{label := {handover, epmd_down}, detail := Detail}) ->
    {"handover: lost the connection to EPMD (~ts); this node registers again when EPMD is back. "
     "Existing links are not affected", [Detail]};
message(#{label := {handover, epmd_up}, kind := Kind}) ->
    {"handover: registered with EPMD again (~ts)", [term(Kind)]};
message(#{label := {handover, not_registered}, name := Name, reason := Reason}) ->
    {"handover: ~ts is not registered with EPMD, so no connection can be handed over to it: ~ts",
     [name(Name), explain(Reason)]};
message(#{label := {handover, bad_message}, message := Message}) ->
    {"handover: unknown message from the carrier: ~ts. Is it of another version of handover?", [term(Message)]};
message(#{label := {handover, bad_fd}, reason := Reason}) ->
    {"handover: cannot use a connection that was handed over: ~ts", [term(Reason)]};
message(#{label := {handover, unsupported_option}, option := Option, reason := Reason}) ->
    {"handover: socket option ~ts has no effect: ~ts", [term(Option), term(Reason)]}.

%% @doc Escapes a text from any source: control characters, invisible characters, and those that change the direction of
%% writing.
-spec text(term()) -> binary().
text(Text) ->
    Escaped = [escape(C) || C <- lists:sublist(characters(Text), ?MAX_TEXT + 1)],
    unicode:characters_to_binary(shorten(lists:flatten(Escaped))).

%% @doc Returns a name from any source, in quotes and escaped if it has special characters.
-spec name(atom() | string() | binary()) -> binary().
name(Name) when is_atom(Name) -> name(atom_to_list(Name));
name(Name) ->
    Characters = characters(Name),
    case Characters =/= [] andalso lists:all(fun is_plain/1, Characters) of
        true -> text(Characters);
        false -> text([?QUOTE, [escape_in_quotes(C) || C <- Characters], ?QUOTE])
    end.

%% internal

term(Term) -> io_lib:format("~0tP", [Term, 40]).

%% Bytes that are not UTF-8 are taken as Latin-1.
characters(Text) when is_binary(Text); is_list(Text) ->
    try unicode:characters_to_list(Text) of
        Characters when is_list(Characters) -> Characters;
        _ -> binary_to_list(iolist_to_binary(Text))
    catch
        error:_ -> characters(term(Text))
    end;
characters(Term) ->
    characters(term(Term)).

shorten(Escaped) ->
    case length(Escaped) > ?MAX_TEXT of
        true -> [lists:sublist(Escaped, ?MAX_TEXT), " ..."];
        false -> Escaped
    end.

escape($\s) -> $\s;
escape(C) ->
    case is_plain(C) of
        true -> C;
        false -> escape_sequence(C)
    end.

escape_in_quotes(C) when C =:= ?QUOTE; C =:= $\\ -> [$\\, C];
escape_in_quotes(C) -> C.

escape_sequence($\n) -> "\\n";
escape_sequence($\r) -> "\\r";
escape_sequence($\t) -> "\\t";
escape_sequence($\e) -> "\\e";
escape_sequence(C) -> io_lib:format("\\x{~.16b}", [C]).

%% Letters, digits and punctuation are plain. Spaces and characters that are invisible, move the cursor or change the
%% direction of writing are not.
is_plain(C) when C > $\s, C < 16#7f -> true;
is_plain(C) when C =:= 16#ad; C =:= 16#61c; C =:= 16#180e -> false;
is_plain(C) when C > 16#a0, C < 16#2000 -> true;
is_plain(C) when C > 16#206f, C < 16#d800, C =/= 16#3000 -> true;
is_plain(C) when C > 16#f8ff, C < 16#fff0, C =/= 16#feff -> true;
is_plain(C) when C > 16#ffff, C < 16#1d173; C > 16#1d17a, C < 16#e0000 -> true;
is_plain(_) -> false.

field(Key, Value) -> [name(Key), "=", value(Value)].

value(Value) when is_integer(Value) -> integer_to_list(Value);
value(Value) when is_binary(Value) -> name(Value);
value(Value) -> term(Value).

via(handover, Peer) -> ["handed over, ", address(Peer)];
via(direct, Peer) -> ["directly, ", address(Peer)].

address({Ip, Port}) when tuple_size(Ip) =:= 8 -> io_lib:format("[~ts]:~b", [inet:ntoa(Ip), Port]);
address({Ip, Port}) -> io_lib:format("~ts:~b", [inet:ntoa(Ip), Port]);
address(unknown) -> "unknown address".

ms(Duration) -> erlang:convert_time_unit(Duration, native, millisecond).

detail(Detail) ->
    case text(Detail) of
        <<>> -> "";
        Text -> [" (", Text, ")"]
    end.

%% A sentence for operators for each reason of handover:connect/1. docs/OPERATIONS.md quotes them.
explain(bad_route) -> "dial_module returned no usable address";
explain(other_name) -> "the node there has another name";
explain(bad_name) -> "the name is not of the form name@host, or its host does not fit -name or -sname";
explain(unknown_host) -> "its host name has no address here";
explain(no_such_node) -> "its EPMD has no node of that name";
explain(no_handover) -> "it is registered but takes no handovers: it runs without -proto_dist handover_tcp, or its log says why";
explain(no_answer) -> "the node did not answer its EPMD in time";
explain(refused) -> "its EPMD or the node refused the connection";
explain(overloaded) -> "its EPMD has too many handovers in progress; try again";
explain(cannot_pass) -> "its EPMD cannot pass connections to it; the log of that EPMD says why";
explain(stock_epmd) -> "its EPMD is not handover's";
explain(bad_answer) -> "the program on its EPMD port is not an EPMD";
explain(closed) -> "it closed the connection during the handshake";
explain(epmd_unreachable) -> "its EPMD cannot be reached";
explain(direct_failed) -> "it can be reached neither by handover nor at its own port";
explain(timeout) -> "no answer within net_setuptime";
explain(handshake) -> "the distribution handshake failed";
explain(carrier_down) -> "the carrier of this node is not running";
explain(Other) -> text(Other).
