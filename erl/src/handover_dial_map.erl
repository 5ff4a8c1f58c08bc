%% @doc Parses the dial map, which lists the nodes that are dialled at an address other than the host in their name, and
%% finds the entry for a node. Pure.
-module(handover_dial_map).

-export([parse/1, expected/0, find/2, address/1, host/1]).

-export_type([entry/0, host/0]).

-type host() :: string() | inet:ip_address().
-type entry() :: {Pattern :: string(), host(), EpmdPort :: default | inet:port_number()}.

%% @doc Parses a dial map: a list of `{Pattern, Address}', or a text `"Pattern=Address ..."', which an environment
%% variable has. A pattern is a node name, in which `*' matches any characters and `?' one character. An address is a
%% host name or an IP address, followed by a colon and EPMD's port if that is not the cluster's usual port. An IPv6
%% address with a port is in brackets. Returns `{bad, Entry}' with the first invalid entry.
-spec parse(term()) -> {ok, [entry()]} | {bad, term()}.
parse(Text) when is_atom(Text); is_binary(Text) ->
    parse(unicode:characters_to_list(if is_atom(Text) -> atom_to_binary(Text); true -> Text end));
parse([C | _] = Text) when is_integer(C) ->
    parse([list_to_tuple(string:split(Word, "=")) || Word <- string:lexemes(Text, ", \t\n")]);
parse(Entries) when is_list(Entries) ->
    Read = [{entry(Entry), Entry} || Entry <- Entries],
    case [Entry || {bad, Entry} <- Read] of
        [] -> {ok, [Entry || {Entry, _} <- Read]};
        [Bad | _] -> {bad, Bad}
    end;
parse(Other) ->
    {bad, Other}.

%% @doc Describes the form of a dial map, for error messages.
-spec expected() -> string().
expected() ->
    "a list of {\"name@host\", \"address[:port]\"}, or text, \"name@host=address[:port] ...\", with * and ? in names".

entry({Pattern, Address}) when is_atom(Pattern) -> entry({atom_to_list(Pattern), Address});
entry({Pattern, Address}) ->
    try {lists:member($@, text(Pattern)), address(Address)} of
        {true, {Host, Port}} -> {text(Pattern), Host, Port};
        _ -> bad
    catch
        error:_ -> bad
    end;
entry(_) -> bad.

text(Text) -> [_ | _] = unicode:characters_to_list(Text).

%% @doc Parses an address: a host name or an IP address, with or without EPMD's port. Raises an `error' exception if it
%% is invalid.
-spec address(term()) -> {host(), default | inet:port_number()}.
address({Host, Port}) when is_integer(Port), Port > 0, Port < 65536 -> {host(Host), Port};
address(Ip) when is_tuple(Ip) -> {host(Ip), default};
address(Address) -> parse_address(text(Address)).

parse_address("[" ++ Rest) ->
    case string:split(Rest, "]") of
        [Ip, ""] -> {host(Ip), default};
        [Ip, ":" ++ Port] -> address({Ip, list_to_integer(Port)})
    end;
parse_address(Address) ->
    case string:split(Address, ":", all) of
        [Host, Port] -> address({Host, list_to_integer(Port)});
        _ -> {host(Address), default}
    end.

%% @doc Parses a host name or an IP address. Raises an `error' exception if it is neither.
-spec host(term()) -> host().
host(Ip) when is_tuple(Ip) -> true = is_list(inet:ntoa(Ip)), Ip;
host(Host) ->
    case inet:parse_address(text(Host)) of
        {ok, Ip} -> Ip;
        {error, _} -> false = lists:any(fun(C) -> lists:member(C, " :/@[]*") end, text(Host)), text(Host)
    end.

%% @doc Returns the address of the first entry whose pattern matches Name.
-spec find(string(), [entry()]) -> {dial_map, host(), default | inet:port_number()} | none.
find(Name, Map) ->
    case [{dial_map, Host, Port} || {Pattern, Host, Port} <- Map, matches(Pattern, Name)] of
        [First | _] -> First;
        [] -> none
    end.

%% Only the last `*' is tried again with a longer match; earlier ones never need it. So the time is not exponential.
matches(Pattern, Name) -> matches(Pattern, Name, none).

matches([$* | Pattern], Name, _) -> matches(Pattern, Name, {Pattern, Name});
matches([C | Pattern], [D | Name], Star) when C =:= D; C =:= $? -> matches(Pattern, Name, Star);
matches([], [], _) -> true;
matches(_, _, {Pattern, [_ | Name]}) -> matches(Pattern, Name, {Pattern, Name});
matches(_, _, _) -> false.
