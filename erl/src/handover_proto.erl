%% @doc Converts the messages between the BEAM and the carrier between terms and bytes (parts 3 and 4 of
%% docs/PROTOCOL.md). Pure. The Go package portproto does the same; both are tested with the examples of that page.
-module(handover_proto).

-export([version/0, encode/1, decode/1, connection/1, keep_header/1, ip_to_binary/1]).

-export_type([command/0, message/0, reason/0, kind/0, connection/0]).

-define(VERSION, 1).

-type command() ::
        {hello, pos_integer(), #{os_pid := pos_integer(), epmd := binary(), log_level := atom()}}
      | {register, pos_integer(), map()}
      | {connect, pos_integer(), map()}
      | {cancel, pos_integer()}
      | {closed, kind(), non_neg_integer()}
      | stop.

-type message() ::
        {hello, pos_integer(), #{fd_socket := binary(), program := binary()}}
      | {refused, atom(), binary()}
      | {registered, pos_integer(), Creation :: non_neg_integer(), handover | stock}
      | {error, pos_integer(), reason(), binary()}
      | {epmd, up, handover | stock}
      | {epmd, down, binary()}
      | {log, debug | info | warning | error, binary(), [{atom(), binary() | integer()}]}.

-type reason() :: duplicate_name | epmd_unreachable | epmd_closed | epmd_bad_answer | epmd_not_started | timeout
                | cancelled | overloaded | bad_request.

-type kind() :: asked | handed_over | kept.     % kept: came from an earlier carrier

%% What the BEAM knows about a connection whose descriptor was passed; it has neither the descriptor nor a socket.
-type connection() :: #{kind := kind(), id := non_neg_integer(), family := inet | inet6,
                        peer := {inet:ip_address(), inet:port_number()},
                        carrier => pid()}.      % the process handover_carrier whose program has a copy

%% @doc Returns the version of the protocol.
-spec version() -> pos_integer().
version() -> ?VERSION.

%% @doc Encodes a command as a frame, without its length.
-spec encode(command()) -> binary().
encode(Command) ->
    term_to_binary(Command).

%% @doc Decodes a frame from the carrier. The error has the term, or the frame if it is not a term.
-spec decode(binary()) -> {ok, message()} | {error, {bad_message, term()}}.
decode(Frame) ->
    try binary_to_term(Frame) of
        Term ->
            case is_message(Term) of
                true -> {ok, Term};
                false -> {error, {bad_message, Term}}
            end
    catch
        error:badarg -> {error, {bad_message, Frame}}
    end.

%% @doc Decodes the header of a CONNECTION message, which has a descriptor.
-spec connection(binary()) -> {ok, connection()} | {error, {bad_connection, binary()}}.
connection(<<1, Kind, Id:64, 4, Port:16, A, B, C, D>>) when Kind =:= $c; Kind =:= $a ->
    {ok, #{kind => kind(Kind), id => Id, family => inet, peer => {{A, B, C, D}, Port}}};
connection(<<1, Kind, Id:64, 6, Port:16, A:16, B:16, C:16, D:16, E:16, F:16, G:16, H:16>>)
  when Kind =:= $c; Kind =:= $a ->
    {ok, #{kind => kind(Kind), id => Id, family => inet6, peer => {{A, B, C, D, E, F, G, H}, Port}}};
connection(Other) ->
    {error, {bad_connection, Other}}.

%% @doc Returns the header of a KEEP message, which passes a copy of a descriptor to a new carrier.
-spec keep_header(non_neg_integer()) -> binary().
keep_header(Id) ->
    <<?VERSION, $k, Id:64>>.

%% @doc Formats an IP address.
-spec ip_to_binary(inet:ip_address()) -> binary().
ip_to_binary(Ip) ->
    list_to_binary(inet:ntoa(Ip)).

%% internal

kind($c) -> asked;
kind($a) -> handed_over.

is_message({hello, Version, #{fd_socket := Name, program := Program}}) ->
    is_integer(Version) andalso is_binary(Name) andalso is_binary(Program);
is_message({refused, Reason, Detail}) ->
    is_atom(Reason) andalso is_binary(Detail);
is_message({registered, Id, Creation, Kind}) ->
    is_integer(Id) andalso is_integer(Creation) andalso is_kind(Kind);
is_message({error, Id, Reason, Detail}) ->
    is_integer(Id) andalso is_atom(Reason) andalso is_binary(Detail);
is_message({epmd, up, Kind}) ->
    is_kind(Kind);
is_message({epmd, down, Detail}) ->
    is_binary(Detail);
is_message({log, Level, Text, Fields}) ->
    lists:member(Level, [debug, info, warning, error]) andalso is_binary(Text) andalso is_list(Fields);
is_message(_) ->
    false.

is_kind(Kind) ->
    Kind =:= handover orelse Kind =:= stock.
