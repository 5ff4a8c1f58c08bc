%% @doc Where to dial for a node: the host of its name and EPMD's usual port, unless something says otherwise. In this order:
%% `dial_map' (names and patterns), `dial_module' (a callback), `dial_srv' (DNS). docs/CONFIGURATION.md has them all. Nothing
%% that a remote host says is a source: it could lead the connections to another node through itself.
%%
%% The name is never changed on the way: a node is reached under its true name, at another address.
-module(handover_dial).

-export([route/1, parse/1, expected/0]).
-export([new/0, with_address/3, take_route/1]).

-export_type([route/0, entry/0, source/0]).

-type source() :: name | dial_map | dial_module | given | dial_srv.
-type host() :: string() | inet:ip_address().
-type route() :: {source(), host(), EpmdPort :: inet:port_number()}.
-type entry() :: {Pattern :: string(), host(), EpmdPort :: default | inet:port_number()}.

-define(TABLE, ?MODULE).
-define(MAX_GIVEN, 1024).            % calls of handover:connect/1 at once that give an address
-define(SRV_MS, 2000).

%% @doc May ask DNS and a module of the user's, so not for net_kernel's own process if that can be helped.
-spec route(node()) -> {ok, route()} | {error, {bad_route, binary()}}.
route(Node) ->
    route(Node, fun() -> none end).

%% @doc As route/1, for the one connection that is being set up: takes the address that {@link with_address/3} gives, if
%% the configuration has none for Node.
-spec take_route(node()) -> {ok, route()} | {error, {bad_route, binary()}}.
take_route(Node) ->
    route(Node, fun() -> take(Node) end).

route(Node, Given) ->
    Name = atom_to_list(Node),
    first([fun() -> mapped(Name, handover_config:get(dial_map)) end,
           fun() -> called(handover_config:get(dial_module), Node) end,
           Given,
           fun() -> srv(handover_config:get(dial_srv), host(Name)) end,
           fun() -> {name, host(Name), default} end]).

first([Source | Sources]) ->
    case Source() of
        none -> first(Sources);
        {error, _} = Error -> Error;
        {From, Host, default} -> {ok, {From, Host, handover_config:epmd_port()}};
        {_, _, _} = Route -> {ok, Route}
    end.

%% dial_map

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

address({Host, Port}) when is_integer(Port), Port > 0, Port < 65536 -> {host_or_ip(Host), Port};
address(Ip) when is_tuple(Ip) -> {host_or_ip(Ip), default};
address(Address) -> split(text(Address)).

split("[" ++ Rest) ->
    case string:split(Rest, "]") of
        [Ip, ""] -> {host_or_ip(Ip), default};
        [Ip, ":" ++ Port] -> address({Ip, list_to_integer(Port)})
    end;
split(Address) ->
    case string:split(Address, ":", all) of
        [Host, Port] -> address({Host, list_to_integer(Port)});
        _ -> {host_or_ip(Address), default}
    end.

host_or_ip(Ip) when is_tuple(Ip) -> true = is_list(inet:ntoa(Ip)), Ip;
host_or_ip(Host) ->
    case inet:parse_address(text(Host)) of
        {ok, Ip} -> Ip;
        {error, _} -> false = lists:any(fun(C) -> lists:member(C, " :/@[]*") end, text(Host)), text(Host)
    end.

mapped(Name, Map) ->
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

%% dial_module

called(none, _) ->
    none;
called(Module, Node) ->
    try Module:route(Node) of
        Answer -> answered(Answer, Module, Node)
    catch
        Class:Reason -> bad_route("~tp:route(~tp): ~tp ~0tP", [Module, Node, Class, Reason, 20])
    end.

answered(default, _, _) ->
    none;
answered(Answer, Module, Node) ->
    try at(Answer) of
        {Host, Port} -> {dial_module, Host, Port}
    catch
        error:_ -> bad_route("~tp:route(~tp) returned ~0tP", [Module, Node, Answer, 20])
    end.

at({ok, Host}) -> {host_or_ip(Host), default};
at({ok, Host, Port}) -> address({Host, Port}).

bad_route(Format, Args) ->
    {error, {bad_route, handover_log:text(io_lib:format(Format, Args))}}.

%% dial_srv

%% RFC 2782: the lowest priority, and among equals by weight. No record, or no answer: the name's own host.
srv(false, _) ->
    none;
srv(true, Host) ->
    case inet_res:lookup("_epmd._tcp." ++ Host, in, srv, [], ?SRV_MS) of
        [] -> none;
        Records -> among(lists:sort(Records))
    end.

among([{Priority, _, _, _} | _] = Records) ->
    Best = [R || {P, _, _, _} = R <- Records, P =:= Priority],
    Sum = lists:sum([Weight || {_, Weight, _, _} <- Best]),
    weighed(Best, rand:uniform(Sum + 1) - 1).

weighed([{_, Weight, Port, Host} | Rest], N) when N =< Weight; Rest =:= [] -> {dial_srv, Host, Port};
weighed([{_, Weight, _, _} | Rest], N) -> weighed(Rest, N - Weight).

%% the address that a call of handover:connect/1 gives

%% A row is {Node, the calling process, address, port}. It exists while that call waits for net_kernel, and the first setup of a
%% connection to Node takes it, so it serves one connection and none after the call. A caller that was killed leaves its row
%% behind, which counts for nothing. Without the table (its owner, the guard, was killed) nothing is given.

%% @doc Makes the table, which the caller owns.
-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    ok.

%% @doc Runs Fun, which connects to Node, so that the connection goes to this address.
-spec with_address(node(), {inet:ip_address(), inet:port_number()}, fun(() -> Result)) -> Result.
with_address(Node, {Ip, Port}, Fun) ->
    Row = {Node, self(), Ip, Port},
    _ = safely(fun() -> give(Row) end),
    try Fun()
    after
        safely(fun() -> ets:delete_object(?TABLE, Row) end)
    end.

%% Another caller's row for the same node stays: there is one connection to a node, and that call gives its address.
give({Node, _, _, _} = Row) ->
    _ = remove_dead(ets:lookup(?TABLE, Node)),
    _ = ets:info(?TABLE, size) < ?MAX_GIVEN orelse remove_dead(ets:tab2list(?TABLE)),
    ets:info(?TABLE, size) < ?MAX_GIVEN andalso ets:insert_new(?TABLE, Row).

remove_dead(Rows) ->
    [ets:delete_object(?TABLE, Row) || {_, Caller, _, _} = Row <- Rows, not is_process_alive(Caller)].

take(Node) ->
    case safely(fun() -> ets:take(?TABLE, Node) end) of
        [{Node, Caller, Ip, Port}] ->
            case is_process_alive(Caller) of
                true -> {given, Ip, Port};
                false -> none
            end;
        _ ->
            none
    end.

safely(Fun) ->
    try Fun() catch error:badarg -> no_table end.

%% internal

host(Name) ->
    [_, Host] = string:split(Name, "@"),
    Host.
