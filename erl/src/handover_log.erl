%% @doc The sentences of the reports that {@link handover_event} logs.
%%
%% Much of what is logged comes from other hosts. Nothing of it may move a terminal's cursor or look like another line: a name
%% that is not plain is quoted, and every other text is escaped.
-module(handover_log).

-export([format/1, sentence/1, text/1, name/1]).

-define(MAX_TEXT, 2000).            % characters; the rest of a longer one is left out
-define(QUOTE, 16#22).

%% @doc The sentence of a report as a text. A logger does the same later, when it may fail: in a node that cannot load a module then.
-spec sentence(map()) -> binary().
sentence(Report) ->
    try
        {Format, Args} = format(Report),
        text(io_lib:format(Format, Args))
    catch
        _:_ -> <<"handover: an event that could not be formatted">>
    end.

%% @doc The sentence of a report, as format and arguments: the report_cb of logger.
-spec format(map()) -> {io:format(), [term()]}.
format(Report) ->
    {Format, Args} = words(Report),
    {Format, [case is_integer(Arg) of true -> Arg; false -> text(Arg) end || Arg <- Args]}.

words(#{label := {handover, connected}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: connected to ~ts, ~ts, in ~b ms", [name(Node), via(Via, Peer), ms(Duration)]};
words(#{label := {handover, accepted}, node := Node, via := Via, peer := Peer, duration := Duration}) ->
    {"handover: ~ts connected to this node, ~ts, in ~b ms", [name(Node), via(Via, Peer), ms(Duration)]};
words(#{label := {handover, acceptance_failed}, via := Via, peer := Peer, reason := Reason}) ->
    {"handover: a connection to this node, ~ts, ended during the handshake (~ts)", [via(Via, Peer), term(Reason)]};
words(#{label := {handover, other_name}, node := Node, name := Name, peer := Peer}) ->
    {"handover: no connection to ~ts: the node at ~ts calls itself ~ts. Connect to that name, or add it to dial_map",
     [name(Node), address(Peer), name(Name)]};
words(#{label := {handover, telemetry_failed}, module := Module, reason := Reason}) ->
    {"handover: the telemetry module ~ts failed (~ts); further failures are only counted", [term(Module), term(Reason)]};
words(#{label := {handover, setup_failed}, node := Node, reason := Reason, detail := Detail}) ->
    {"handover: no connection to ~ts: ~ts~ts", [name(Node), explain(Reason), detail(Detail)]};
words(#{label := {handover, fell_back}, node := Node, reason := Reason}) ->
    {"handover: connecting to ~ts at its own port: ~ts", [name(Node), explain(Reason)]};
words(#{label := {handover, carrier_ended}, reason := Reason, restart_ms := Ms}) ->
    {"handover: the carrier ended (~ts); it restarts in ~b ms. Existing links are not affected", [term(Reason), Ms]};
words(#{label := {handover, carrier_log}, text := Text, fields := Fields}) ->
    {"handover: ~ts~ts", [Text, [[" ", field(Key, Value)] || {Key, Value} <- Fields]]};
words(#{label := {handover, directory_gone}}) ->
    {"handover: this node's working directory was removed. OTP cannot start programs there, so the directory is now /", []};
words(#{label := {handover, repeated}, text := Text, count := Count}) ->
    {"~ts (~b more like this within a minute)", [Text, Count]};
words(#{label := {handover, stock_epmd}, port := Port}) ->
    {"handover: the EPMD on port ~b of this host is not handover's. No connection can be handed over to this node; other nodes "
     "can reach it only at its own listen port. Stop that epmd and start ~ts instead",
     [Port, handover_config:program("epmd")]};
words(#{label := {handover, epmd_down}, detail := Detail}) ->
    {"handover: lost the connection to EPMD (~ts); this node registers again when EPMD is back. Existing links are not affected", [Detail]};
words(#{label := {handover, epmd_up}, kind := Kind}) ->
    {"handover: registered with EPMD again (~ts)", [term(Kind)]};
words(#{label := {handover, not_registered}, name := Name, reason := Reason}) ->
    {"handover: ~ts is not registered with EPMD, so no connection can be handed over to it: ~ts", [name(Name), explain(Reason)]};
words(#{label := {handover, bad_message}, message := Message}) ->
    {"handover: unknown message from the carrier: ~ts. Is it of another version of handover?", [term(Message)]};
words(#{label := {handover, bad_fd}, reason := Reason}) ->
    {"handover: cannot use a connection that was handed over: ~ts", [term(Reason)]};
words(#{label := {handover, unsupported_option}, option := Option, reason := Reason}) ->
    {"handover: socket option ~ts cannot be set on a connected socket: ~ts", [term(Option), term(Reason)]}.

%% @doc A text for people that comes from anywhere, without what could move a cursor or begin another line.
-spec text(term()) -> binary().
text(Text) ->
    Escaped = [escape(C) || C <- lists:sublist(characters(Text), ?MAX_TEXT + 1)],
    unicode:characters_to_binary(shortened(lists:flatten(Escaped))).

%% @doc A name that comes from anywhere: as it is if it is plain, else quoted.
-spec name(atom() | string() | binary()) -> binary().
name(Name) when is_atom(Name) -> name(atom_to_list(Name));
name(Name) ->
    Characters = characters(Name),
    case Characters =/= [] andalso lists:all(fun is_plain/1, Characters) of
        true -> text(Characters);
        false -> text([?QUOTE, [in_quotes(C) || C <- Characters], ?QUOTE])
    end.

%% internal

term(Term) -> io_lib:format("~0tP", [Term, 40]).

%% Bytes that are no UTF-8 are Latin-1's.
characters(Text) when is_binary(Text); is_list(Text) ->
    try unicode:characters_to_list(Text) of
        Characters when is_list(Characters) -> Characters;
        _ -> binary_to_list(iolist_to_binary(Text))
    catch
        error:_ -> characters(term(Text))
    end;
characters(Term) ->
    characters(term(Term)).

shortened(Escaped) ->
    case length(Escaped) > ?MAX_TEXT of
        true -> [lists:sublist(Escaped, ?MAX_TEXT), " ..."];
        false -> Escaped
    end.

escape($\s) -> $\s;
escape(C) ->
    case is_plain(C) of
        true -> C;
        false -> escaped(C)
    end.

in_quotes(C) when C =:= ?QUOTE; C =:= $\\ -> [$\\, C];
in_quotes(C) -> C.

escaped($\n) -> "\\n";
escaped($\r) -> "\\r";
escaped($\t) -> "\\t";
escaped($\e) -> "\\e";
escaped(C) -> io_lib:format("\\x{~.16b}", [C]).

%% Letters, digits, punctuation. Not what is invisible, moves the cursor or turns the direction of writing.
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

%% What an operator can do something with, for each reason of handover:connect/1.
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
