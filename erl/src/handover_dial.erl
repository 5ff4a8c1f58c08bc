%% @doc Finds the host and the EPMD port to dial for a node. By default these are the host in the node's name and the
%% cluster's EPMD port. The configuration can change that; the sources are tried in this order: `dial_map' (names and
%% patterns), `dial_module' (a callback), `dial_srv' (DNS). See docs/CONFIGURATION.md.
%%
%% A remote host must never be a source of routes: it could direct the connections for another node to itself. Only the
%% address changes, never the name of the node.
-module(handover_dial).

-export([route/1]).
-export([new/0, with_one_time_address/3, route_for_setup/1]).

-export_type([route/0, source/0]).

-type source() :: name | dial_map | dial_module | one_time | dial_srv.
-type route() :: {source(), handover_dial_map:host(), EpmdPort :: inet:port_number()}.

-define(TABLE, ?MODULE).
-define(MAX_ADDRESSES, 1024).        % rows in the table of one-time addresses
-define(SRV_MS, 2000).

%% @doc Returns the route to Node. May block on DNS or in the user's `dial_module', so net_kernel's own process should
%% not call this. The error is text for people: `dial_module' failed or returned an invalid answer.
-spec route(node()) -> {ok, route()} | {error, {bad_route, binary()}}.
route(Node) ->
    route(Node, fun() -> none end).

%% @doc Like route/1, for a connection that is being set up. If the configuration has no address for Node, this uses the
%% address of {@link with_one_time_address/3} and removes it.
-spec route_for_setup(node()) -> {ok, route()} | {error, {bad_route, binary()}}.
route_for_setup(Node) ->
    route(Node, fun() -> take_address(Node) end).

route(Node, OneTimeSource) ->
    Name = atom_to_list(Node),
    first_route([fun() -> handover_dial_map:find(Name, handover_config:get(dial_map)) end,
                 fun() -> ask_module(handover_config:get(dial_module), Node) end,
                 OneTimeSource,
                 fun() -> lookup_srv(handover_config:get(dial_srv), host(Name)) end,
                 fun() -> {name, host(Name), default} end]).

first_route([Source | Sources]) ->
    case Source() of
        none -> first_route(Sources);
        {error, _} = Error -> Error;
        {From, Host, default} -> {ok, {From, Host, handover_config:epmd_port()}};
        {_, _, _} = Route -> {ok, Route}
    end.

%% dial_module

ask_module(none, _) ->
    none;
ask_module(Module, Node) ->
    try Module:route(Node) of
        Answer -> module_answer(Answer, Module, Node)
    catch
        Class:Reason -> bad_route("~tp:route(~tp): ~tp ~0tP", [Module, Node, Class, Reason, 20])
    end.

module_answer(default, _, _) ->
    none;
module_answer(Answer, Module, Node) ->
    try parse_answer(Answer) of
        {Host, Port} -> {dial_module, Host, Port}
    catch
        error:_ -> bad_route("~tp:route(~tp) returned ~0tP", [Module, Node, Answer, 20])
    end.

parse_answer({ok, Host}) -> {handover_dial_map:host(Host), default};
parse_answer({ok, Host, Port}) -> handover_dial_map:address({Host, Port}).

bad_route(Format, Args) ->
    {error, {bad_route, handover_log:text(io_lib:format(Format, Args))}}.

%% dial_srv

%% RFC 2782: uses the records of the lowest priority and chooses among them by weight. Without a record or an answer,
%% the host of the node's name is used.
lookup_srv(false, _) ->
    none;
lookup_srv(true, Host) ->
    case inet_res:lookup("_epmd._tcp." ++ Host, in, srv, [], ?SRV_MS) of
        [] -> none;
        Records -> choose_record(lists:sort(Records))
    end.

choose_record([{Priority, _, _, _} | _] = Records) ->
    Best = [R || {P, _, _, _} = R <- Records, P =:= Priority],
    Sum = lists:sum([Weight || {_, Weight, _, _} <- Best]),
    choose_by_weight(Best, rand:uniform(Sum + 1) - 1).

choose_by_weight([{_, Weight, Port, Host} | Rest], N) when N =< Weight; Rest =:= [] -> {dial_srv, Host, Port};
choose_by_weight([{_, Weight, _, _} | Rest], N) -> choose_by_weight(Rest, N - Weight).

%% one-time addresses

%% handover:connect/1 stores an address for one connection, as a row {Node, Caller, Ip, Port}. The row exists while that
%% call waits for net_kernel, and the first setup of a connection to Node removes it. So it is used at most once, and
%% never after the call. If the caller was killed, its row stays but is ignored. If the table is missing because its
%% owner, the guard, was killed, there are no one-time addresses.

%% @doc Creates the table. The caller, which must be the guard, owns it.
-spec new() -> ok.
new() ->
    ?TABLE = ets:new(?TABLE, [named_table, public, {read_concurrency, true}]),
    ok.

%% @doc Runs Fun, which must connect to Node, and returns its result. Its connection goes to this address.
-spec with_one_time_address(node(), {inet:ip_address(), inet:port_number()}, fun(() -> Result)) -> Result.
with_one_time_address(Node, {Ip, Port}, Fun) ->
    Row = {Node, self(), Ip, Port},
    _ = with_table(fun() -> insert_address(Row) end),
    try Fun()
    after
        with_table(fun() -> ets:delete_object(?TABLE, Row) end)
    end.

%% If another caller has a row for the same node, that row stays: a node has only one connection, so the first caller's
%% address is used.
insert_address({Node, _, _, _} = Row) ->
    _ = remove_dead(ets:lookup(?TABLE, Node)),
    _ = ets:info(?TABLE, size) < ?MAX_ADDRESSES orelse remove_dead(ets:tab2list(?TABLE)),
    ets:info(?TABLE, size) < ?MAX_ADDRESSES andalso ets:insert_new(?TABLE, Row).

remove_dead(Rows) ->
    [ets:delete_object(?TABLE, Row) || {_, Caller, _, _} = Row <- Rows, not is_process_alive(Caller)].

take_address(Node) ->
    case with_table(fun() -> ets:take(?TABLE, Node) end) of
        [{Node, Caller, Ip, Port}] ->
            case is_process_alive(Caller) of
                true -> {one_time, Ip, Port};
                false -> none
            end;
        _ ->
            none
    end.

with_table(Fun) ->
    try Fun() catch error:badarg -> no_table end.

%% internal

host(Name) ->
    [_, Host] = string:split(Name, "@"),
    Host.
