%% @doc Where to dial for a node: the host of its name and EPMD's usual port, unless something says otherwise. In this order:
%% `dial_map' (names and patterns), `dial_module' (a callback), `dial_srv' (DNS). docs/CONFIGURATION.md has them all. Nothing
%% that a remote host says is a source: it could lead the connections to another node through itself.
%%
%% The name is never changed on the way: a node is reached under its true name, at another address.
-module(handover_dial).

-export([route/1]).
-export([new/0, with_address/3, take_route/1]).

-export_type([route/0, source/0]).

-type source() :: name | dial_map | dial_module | given | dial_srv.
-type route() :: {source(), handover_dial_map:host(), EpmdPort :: inet:port_number()}.

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
    first([fun() -> handover_dial_map:find(Name, handover_config:get(dial_map)) end,
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

at({ok, Host}) -> {handover_dial_map:host(Host), default};
at({ok, Host, Port}) -> handover_dial_map:address({Host, Port}).

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
