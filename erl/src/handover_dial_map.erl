%% @doc The dial map: which nodes are dialled at another address than their host. Pure.
-module(handover_dial_map).

-export([parse/1, expected/0, find/2, address/1, host/1]).

-export_type([entry/0, host/0]).

-type host() :: string() | inet:ip_address().
-type entry() :: {Pattern :: string(), host(), EpmdPort :: default | inet:port_number()}.

%% @doc Reads a dial map: a list of `{Pattern, Address}', or text, `"Pattern=Address ..."', as it is in an environment
%% variable. A pattern is a node's name with `*' for any characters and `?' for one; an address is a host name or an IP
%% address, with EPMD's port behind a colon where that is not the usual one; an IPv6 address with a port is in brackets.
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

%% @doc What a dial map must be, for error messages.
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

%% @doc Reads an address: a host name or an IP address, with or without EPMD's port. Fails with `error' if it is none.
-spec address(term()) -> {host(), default | inet:port_number()}.
address({Host, Port}) when is_integer(Port), Port > 0, Port < 65536 -> {host(Host), Port};
address(Ip) when is_tuple(Ip) -> {host(Ip), default};
address(Address) -> split(text(Address)).

split("[" ++ Rest) ->
    case string:split(Rest, "]") of
        [Ip, ""] -> {host(Ip), default};
        [Ip, ":" ++ Port] -> address({Ip, list_to_integer(Port)})
    end;
split(Address) ->
    case string:split(Address, ":", all) of
        [Host, Port] -> address({Host, list_to_integer(Port)});
        _ -> {host(Address), default}
    end.

%% @doc Reads a host name or an IP address. Fails with `error' if it is neither.
-spec host(term()) -> host().
host(Ip) when is_tuple(Ip) -> true = is_list(inet:ntoa(Ip)), Ip;
host(Host) ->
    case inet:parse_address(text(Host)) of
        {ok, Ip} -> Ip;
        {error, _} -> false = lists:any(fun(C) -> lists:member(C, " :/@[]*") end, text(Host)), text(Host)
    end.

%% @doc Where the first entry whose pattern matches Name leads to.
-spec find(string(), [entry()]) -> {dial_map, host(), default | inet:port_number()} | none.
find(Name, Map) ->
    case [{dial_map, Host, Port} || {Pattern, Host, Port} <- Map, matches(Pattern, Name)] of
        [First | _] -> First;
        [] -> none
    end.

%% After a `*' that fails to match here there is no need to try an earlier one again, so this is never exponential.
matches(Pattern, Name) -> matches(Pattern, Name, none).

matches([$* | Pattern], Name, _) -> matches(Pattern, Name, {Pattern, Name});
matches([C | Pattern], [D | Name], Star) when C =:= D; C =:= $? -> matches(Pattern, Name, Star);
matches([], [], _) -> true;
matches(_, _, {Pattern, [_ | Name]}) -> matches(Pattern, Name, {Pattern, Name});
matches(_, _, _) -> false.
