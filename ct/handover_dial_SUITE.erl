%% Nodes that are somewhere else than the host of their name says: the dial map, a callback, DNS, and nodes that answer under
%% another name than the one dialled.
-module(handover_dial_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [maps, bad_maps, patterns, other_address, other_port, no_fallback_at_another_port, callback, dns,
     alias, address_is_given_once, relay, alias_of_a_linked_node, alias_crossing, namesakes_crossing, stale_link, lying_node, bad_names, names_without_host, both_families].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

set(Peer, Key, Value) -> ok = call(Peer, application, set_env, [handover, Key, Value]).

connect(Peer, Node) -> call(Peer, handover, connect, [Node]).

disconnect(Peer, Node) ->
    true = call(Peer, erlang, disconnect_node, [Node]),
    handover_ct:until(fun() -> not lists:member(Node, call(Peer, erlang, nodes, [connected])) end).

peername(Peer, Node) ->
    {ok, Name} = call(Peer, inet, peername, [handover_ct:dist_port(Peer, Node)]),
    Name.


%% the map as it is written

maps(_) ->
    [?assertEqual({Map, {ok, Entries}}, {Map, handover_dial_map:parse(Map)})
     || {Map, Entries} <-
            [{[], []},
             {"a@b=c", [{"a@b", "c", default}]},
             {<<"a@b=10.0.0.1:4370, *@c=gw.example.org">>,
              [{"a@b", {10,0,0,1}, 4370}, {"*@c", "gw.example.org", default}]},
             {'a@b=c:1', [{"a@b", "c", 1}]},
             {"a@b=[2001:db8::1]:4369", [{"a@b", {16#2001,16#db8,0,0,0,0,0,1}, 4369}]},
             {"a@b=[::1]", [{"a@b", {0,0,0,0,0,0,0,1}, default}]},
             {"a@b=::1", [{"a@b", {0,0,0,0,0,0,0,1}, default}]},
             {[{'a@b', {10,0,0,1}}, {<<"c@?">>, {"h", 65535}}, {"*@*", {{10,0,0,2}, 1}}],
              [{"a@b", {10,0,0,1}, default}, {"c@?", "h", 65535}, {"*@*", {10,0,0,2}, 1}]}]].

bad_maps(_) ->
    [?assertMatch({Map, {bad, _}}, {Map, handover_dial_map:parse(Map)})
     || Map <- [7, "a@b", "a@b=", "=c", "a=c", "a@b=c:0", "a@b=c:65536", "a@b=c:x", "a@b=[::1", "a@b=c d@e",
                [{"a@b"}], [{"a@b", 7}], [{"a@b", {1,2,3}}], [{"a@b", {"h", -1}}], [{7, "h"}], [{"a@b", "x@y"}]]],
    application:set_env(handover, dial_map, "a@b=c:0"),
    try ?assertMatch({error, {handover_config, "dial_map is {\"a@b\",\"c:0\"}; it must be a list of" ++ _}}, handover_config:check())
    after application:unset_env(handover, dial_map)
    end.

patterns(_) ->
    Route = fun(Pattern, Node) ->
                    application:set_env(handover, dial_map, [{Pattern, "gw:1"}]),
                    {ok, {Source, _, _}} = handover_dial:route(Node),
                    Source =:= dial_map
            end,
    try
        [?assertEqual({Pattern, Node, Matches}, {Pattern, Node, Route(Pattern, Node)})
         || {Pattern, Node, Matches} <-
                [{"a@b", 'a@b', true}, {"a@b", 'a@bc', false}, {"a@b", 'xa@b', false}, {"*@b", 'a@b', true}, {"*@b", 'a@c', false},
                 {"a*@b", 'a@b', true}, {"a?@b", 'a@b', false}, {"a?@b", 'ax@b', true}, {"*a*@b", 'xaya@b', true},
                 {"*@*.example.org", 'n@h1.example.org', true}, {"*@*.example.org", 'n@example.org', false},
                 {lists:append(lists:duplicate(50, "*a")) ++ "@b", list_to_atom(lists:duplicate(150, $a) ++ "@c"), false}]],
        application:set_env(handover, dial_map, "n1@*=first *@*=second"),
        ?assertMatch({ok, {dial_map, "first", _}}, handover_dial:route('n1@h')),
        ?assertMatch({ok, {dial_map, "second", _}}, handover_dial:route('n2@h'))
    after
        application:unset_env(handover, dial_map)
    end.

%% nodes behind another address

other_address(Config) ->
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 ?assertMatch({error, {unknown_host, _}}, connect(A, name(B))),
                 set(A, dial_map, "*@b.invalid=127.0.0.2"),
                 ?assertEqual({ok, 'b@b.invalid'}, connect(A, name(B))),
                 ?assertEqual({{127,0,0,2}, ?config(epmd_port, Config)}, peername(A, name(B))),
                 ?assertMatch(#{connected := true, via := handover, direction := out,
                                route := {dial_map, {127,0,0,2}, _}, last_failure := {_, unknown_host, _}},
                              call(A, handover, info, [name(B)]))
         end).

%% Two EPMDs, as behind a load balancer or a NAT with a port for each host.
other_port(Config) ->
    Other = handover_ct:free_port(),
    with(handover, [a], Config,
         fun(A) ->
                 handover_ct:with(handover, [{b, #{host => "b.invalid"}}], Other,
                   fun(B) ->
                           set(A, dial_map, [{"b@b.invalid", {"localhost", Other}}]),
                           ?assertEqual({ok, 'b@b.invalid'}, connect(A, name(B))),
                           ?assertEqual({{127,0,0,1}, Other}, peername(A, name(B)))
                   end)
         end).

%% Who dials another port than EPMD's usual one must not end at the node that the EPMD at the usual port knows.
no_fallback_at_another_port(Config) ->
    Other = handover_ct:free_port(),
    with(stock, [a, {b, #{proto => "inet_tcp"}}], Config,
         fun(A, B) ->
                 ?assertEqual({ok, name(B)}, connect(A, name(B))),
                 disconnect(A, name(B)),
                 handover_ct:with(stock, [], Other,
                   fun() ->
                           set(A, dial_map, [{name(B), {{127,0,0,1}, Other}}]),
                           ?assertMatch({error, {stock_epmd, _}}, connect(A, name(B)))
                   end)
         end).

callback(Config) ->
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 set(A, dial_module, handover_ct_dial),
                 Says = fun(Route) ->
                                ok = call(A, application, set_env, [kernel, handover_ct_route, Route]),
                                connect(A, name(B))
                        end,
                 ?assertMatch({error, {unknown_host, _}}, Says(default)),
                 [?assertMatch({_, {error, {bad_route, _}}}, {Bad, Says(Bad)})
                  || Bad <- [crash, {ok, 7}, {ok, "h", 0}, {ok, ""}, nonsense]],
                 {error, {bad_route, Text}} = Says({ok, "h", 70000}),
                 ?assertMatch({match, _}, re:run(Text, "handover_ct_dial:route.*returned.*70000")),
                 ?assertEqual({ok, name(B)}, Says({ok, "127.0.0.3"})),
                 disconnect(A, name(B)),
                 ?assertEqual({ok, name(B)}, Says({ok, {127,0,0,1}, ?config(epmd_port, Config)})),
                 disconnect(A, name(B)),
                 set(A, dial_module, no_such_module),
                 {error, {bad_route, Undefined}} = connect(A, name(B)),
                 ?assertMatch({match, _}, re:run(Undefined, "no_such_module.*undef"))
         end).

%% A name server of our own: the better priority is the other EPMD's port; there is a worse one that leads nowhere.
dns(Config) ->
    Other = handover_ct:free_port(),
    with(handover, [a], Config,
         fun(A) ->
                 handover_ct:with(handover, [{b, #{host => "b.invalid"}}], Other,
                   fun(B) ->
                           {Server, Port} = name_server(#{"_epmd._tcp.b.invalid" => [{20, 0, 9, "nowhere.invalid"},
                                                                                     {10, 5, Other, "localhost"}]}),
                           ok = call(A, inet_db, set_resolv_conf, [""]),
                           ok = call(A, inet_db, add_ns, [{127,0,0,1}, Port]),
                           ?assertMatch({error, {unknown_host, _}}, connect(A, name(B))),
                           set(A, dial_srv, true),
                           ?assertEqual({ok, name(B)}, connect(A, name(B))),
                           ?assertEqual({{127,0,0,1}, Other}, peername(A, name(B))),
                           ?assertMatch({error, {unknown_host, _}}, connect(A, 'x@without.invalid')),
                           exit(Server, kill)
                   end)
         end).

name_server(Records) ->
    Suite = self(),
    Server = spawn_link(fun() ->
                                {ok, Socket} = gen_udp:open(0, [binary, {ip, {127,0,0,1}}, {active, false}]),
                                {ok, Port} = inet:port(Socket),
                                Suite ! {self(), Port},
                                name_server_loop(Socket, Records)
                        end),
    unlink(Server),
    receive {Server, Port} -> {Server, Port} end.

%% RFC 1035, section 4; RFC 2782.
name_server_loop(Socket, Records) ->
    {ok, {Ip, Port, <<Id:16, _:16, 1:16, _:48, Rest/binary>>}} = gen_udp:recv(Socket, 0),
    {Labels, Length} = labels(Rest, [], 0),
    <<Question:(Length + 4)/binary, _/binary>> = Rest,
    Found = maps:get(string:lowercase(lists:flatten(lists:join(".", Labels))), Records, []),
    Rcode = case Found of [] -> 3; _ -> 0 end,
    Answers = [begin
                   Target = [[<<(length(L)):8>>, L] || L <- string:lexemes(Host, ".")],
                   Data = iolist_to_binary([<<Priority:16, Weight:16, Service:16>>, Target, 0]),
                   <<16#C00C:16, 33:16, 1:16, 0:32, (byte_size(Data)):16, Data/binary>>
               end || {Priority, Weight, Service, Host} <- Found],
    ok = gen_udp:send(Socket, Ip, Port, [<<Id:16, 16#858:12, Rcode:4, 1:16, (length(Found)):16, 0:32>>, Question, Answers]),
    name_server_loop(Socket, Records).

labels(<<0, _/binary>>, Labels, Length) -> {lists:reverse(Labels), Length + 1};
labels(<<L, Label:L/binary, Rest/binary>>, Labels, Length) -> labels(Rest, [binary_to_list(Label) | Labels], Length + L + 1).

%% nodes under another name

alias(Config) ->
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 Logs = handover_ct:logs(A),
                 Before = handover_ct:own_fds(A),
                 ?assertEqual(false, call(A, net_kernel, connect_node, ['b@127.0.0.2'])),
                 [#{node := 'b@127.0.0.2', name := "b@b.invalid", peer := {{127,0,0,2}, _}} = Report] = handover_ct:reports(Logs, other_name, 1),
                 {Format, Args} = handover_log:format(Report),
                 ?assertMatch({match, _}, re:run(io_lib:format(Format, Args),
                                                 "no connection to b@127.0.0.2: the node at 127.0.0.2:\\d+ calls itself b@b.invalid")),
                 %% That was a hint and no more: the true name is dialled at its own host.
                 ?assertMatch({error, {unknown_host, _}}, connect(A, name(B))),
                 %% A call that gives an address uses it, for one connection under the true name.
                 [begin
                      ?assertEqual({ok, name(B)}, connect(A, 'b@127.0.0.2')),
                      ?assertEqual({{127,0,0,2}, ?config(epmd_port, Config)}, peername(A, name(B))),
                      ?assertEqual([name(B)], call(A, erlang, nodes, [connected])),
                      disconnect(A, name(B)),
                      ?assertMatch({error, {unknown_host, _}}, connect(A, name(B))),
                      ?assertEqual([], call(A, ets, tab2list, [handover_dial]))
                  end || _ <- [1, 2]],
                 handover_ct:own_fds_are(A, Before)
         end).

%% The address serves one setup, a call's, and not that of a caller who is gone. Configured addresses are better.
address_is_given_once(Config) ->
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 Address = {{127,0,0,1}, ?config(epmd_port, Config)},
                 Take = fun(Row) ->
                                true = call(A, ets, insert, [handover_dial, Row]),
                                call(A, handover_dial, route_for_setup, [name(B)])
                        end,
                 Living = call(A, erlang, whereis, [init]),
                 Dead = call(A, erlang, spawn, [erlang, node, []]),
                 ?assertMatch({ok, {one_time, {127,0,0,3}, 7}}, Take({name(B), Living, {127,0,0,3}, 7})),
                 ?assertMatch({ok, {name, "b.invalid", _}}, call(A, handover_dial, route_for_setup, [name(B)])),
                 handover_ct:until(fun() -> not call(A, erlang, is_process_alive, [Dead]) end),
                 ?assertMatch({ok, {name, "b.invalid", _}}, Take({name(B), Dead, {127,0,0,3}, 7})),
                 set(A, dial_map, [{name(B), Address}]),
                 ?assertMatch({ok, {dial_map, {127,0,0,1}, _}}, Take({name(B), Living, {127,0,0,3}, 7})),
                 ?assertMatch({ok, {dial_map, {127,0,0,1}, _}}, call(A, handover_dial, route, [name(B)])),
                 ?assertEqual({ok, name(B)}, connect(A, 'b@127.0.0.2')),
                 ?assertMatch({{127,0,0,1}, _}, peername(A, name(B)))
         end).

%% A host that knows no cookie, and passes what comes to its EPMD's port on to the EPMD of another host. It gets the connections
%% that are made to it, and no others.
relay(Config) ->
    Port = ?config(epmd_port, Config),
    with({handover, ["-address", "127.0.0.1"]}, [a, {v1, #{}}], Config,
         fun(A, V) ->
                 handover_ct:with_relay({{127,0,0,3}, Port}, {{127,0,0,1}, Port},
                   fun() ->
                           ?assertEqual(pang, call(A, net_adm, ping, ['v1@127.0.0.3'])),
                           ?assertEqual(pong, call(A, net_adm, ping, [name(V)])),
                           ?assertEqual({{127,0,0,1}, Port}, peername(A, name(V))),
                           disconnect(A, name(V)),
                           ?assertEqual({ok, name(V)}, connect(A, 'v1@127.0.0.3')),
                           ?assertEqual({{127,0,0,3}, Port}, peername(A, name(V))),
                           disconnect(A, name(V)),
                           ?assertEqual({ok, name(V)}, connect(A, name(V))),
                           ?assertEqual({{127,0,0,1}, Port}, peername(A, name(V)))
                   end)
         end).

%% Asking for a linked node by another of its addresses must not touch the link.
alias_of_a_linked_node(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 ?assertEqual({ok, name(B)}, connect(A, name(B))),
                 Link = handover_ct:dist_port(A, name(B)),
                 ?assertEqual(false, call(A, net_kernel, connect_node, ['b@127.0.0.2'])),
                 ?assertEqual({ok, name(B)}, connect(A, 'b@127.0.0.3')),
                 ?assertEqual(Link, handover_ct:dist_port(A, name(B))),
                 ?assertEqual(pong, call(B, net_adm, ping, [name(A)]))
         end).

%% The other node connects to this one at the same time. Whichever connection wins, there is one link, under the true name.
alias_crossing(Config) ->
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 Before = handover_ct:own_fds(A),
                 [begin
                      Self = self(),
                      Other = spawn_link(fun() -> Self ! {self(), call(B, net_kernel, connect_node, [name(A)])} end),
                      ?assertEqual({N, {ok, name(B)}}, {N, connect(A, 'b@127.0.0.1')}),
                      receive {Other, _} -> ok end,
                      disconnect(A, name(B)),
                      handover_ct:until(fun() -> not lists:member(name(A), call(B, erlang, nodes, [connected])) end)
                  end || N <- lists:seq(1, 40)],
                 handover_ct:own_fds_are(A, Before)
         end).

%% All nodes of many clusters have one alive name. One of them says `nok', and another one comes up before its own connection does:
%% that is no reason to take the one for the other.
namesakes_crossing(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-kernel", "net_setuptime", "3"]}}, b], Config,
         fun(A, B) ->
                 Self = self(),
                 Server = spawn_link(fun() -> say_nok({127,0,0,3}, ?config(epmd_port, Config), Self) end),
                 receive {Server, ready} -> ok end,
                 Connect = spawn_link(fun() -> Self ! {self(), connect(A, 'b@127.0.0.3')} end),
                 receive {Server, said} -> ok end,
                 true = call(B, net_kernel, connect_node, [name(A)]),
                 ?assertMatch({error, {timeout, _}}, receive {Connect, Result} -> Result end),
                 ?assertEqual([name(B)], call(A, erlang, nodes, [])),
                 unlink(Server),
                 exit(Server, kill)
         end).

%% The EPMD and the node of another host in one: it answers `nok' to the name that follows HANDOVER_REQ, and no more.
say_nok(Ip, Port, Test) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {active, false}, {ip, Ip}, {reuseaddr, true}]),
    Test ! {self(), ready},
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, <<Size:16>>} = gen_tcp:recv(Socket, 2),
    {ok, _} = gen_tcp:recv(Socket, Size),
    {ok, <<NameSize:16>>} = gen_tcp:recv(Socket, 2),
    {ok, _} = gen_tcp:recv(Socket, NameSize),
    ok = gen_tcp:send(Socket, <<$i, 0, 6:16, 4:16, "snok">>),
    Test ! {self(), said},
    receive after infinity -> ok end.

%% The far end still holds a link that this node has lost: as with inet_tcp it gives way, also where a namesake is linked.
stale_link(Config) ->
    Options = #{host => "c.invalid", args => ["-handover", "dial_map", "\"*@c.invalid=127.0.0.1\""]},
    Other = handover_ct:free_port(),
    with(handover, [{a, #{args => ["-handover", "dial_map", "\"*@c.invalid=127.0.0.1:" ++ integer_to_list(Other) ++ "\""]}}, b],
         Config,
         fun(A, B) ->
                 handover_ct:with(handover, [{b, Options}], Other,
                   fun(C) ->
                           {ok, _} = connect(A, name(C)),
                           {ok, _} = connect(A, name(B)),
                           %% While the keeper of its fd sleeps, A's end of the link stays open, and B hears nothing.
                           ok = call(A, handover_ct_work, suspend_newest_keeper, []),
                           disconnect(A, name(B)),
                           ?assertEqual([name(A)], call(B, erlang, nodes, [])),
                           ?assertEqual({ok, name(B)}, connect(A, name(B))),
                           ?assertEqual(pong, call(B, net_adm, ping, [name(A)])),
                           ?assertEqual([name(B), name(C)], lists:sort(call(A, erlang, nodes, [connected])))
                   end)
         end).

%% A node that says it is another one does no harm that lasts: the way it told is not taken twice.
lying_node(Config) ->
    with(handover, [a, {b, #{host => "b.invalid", args => ["-setcookie", "wrong"]}}], Config,
         fun(A, _B) ->
                 set(A, dial_map, []),
                 ?assertMatch({error, {handshake, _}}, connect(A, 'b@127.0.0.1')),
                 ?assertMatch({error, {unknown_host, _}}, connect(A, 'b@b.invalid'))
         end).

%% Whatever name is in the challenge: a reason, no atom made of it, and the node lives.
bad_names(Config) ->
    with({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Connect = fun(Name) ->
                                   Challenge = <<$N, (1 bsl 24):64, 1:32, 1:32, (byte_size(Name)):16, Name/binary>>,
                                   Answer = <<$i, 0, 6:16, 3:16, "sok", (byte_size(Challenge)):16, Challenge/binary>>,
                                   handover_ct:with_server({127,0,0,3}, ?config(epmd_port, Config), Answer,
                                                           fun() -> connect(A, 'x@127.0.0.3') end)
                           end,
                 Long = binary:copy(<<"h">>, 300),
                 [?assertMatch({_, {error, {handshake, _}}}, {Name, Connect(Name)})
                  || Name <- [<<>>, <<"x">>, <<"x@">>, <<"@h">>, <<"y@127.0.0.3">>, <<"x@", Long/binary>>, <<255, 0, 1>>,
                              <<"x@h\e[31m">>, <<"x@h h">>, <<"x@h@i">>, <<"x@h\n">>]],
                 ?assertError(badarg, call(A, erlang, list_to_existing_atom, ["x@h h"])),
                 {error, {handshake, Text}} = Connect(<<"x@", Long/binary>>),
                 ?assert(iolist_size(io_lib:format("~ts", [Text])) < 300)
         end).

%% A name that no node can have is refused at once, and net_kernel goes on.
names_without_host(Config) ->
    [with(handover, [{a, #{proto => Protocols}}, b], Config,
          fun(A, B) ->
                  [?assertEqual({Name, pang}, {Name, call(A, net_adm, ping, [Name])})
                   || Name <- [undefined, nohost, 'x@', '@x', 'x@y@z', undefined]],
                  [?assertEqual(false, call(A, net_kernel, connect_node, [Name])) || Name <- [undefined, nohost]],
                  ?assertMatch({error, {bad_name, _}}, connect(A, undefined)),
                  ?assertEqual(pong, call(A, net_adm, ping, [name(B)])),
                  ?assertEqual([name(B)], [element(2, C) || C <- call(A, ets, tab2list, [sys_dist])])
          end) || Protocols <- ["handover_tcp", ["handover_tcp", "handover_tcp6"]]].

%% With both protocols a host name is dialled by the first, then by the other; net_kernel itself asks nobody.
both_families(Config) ->
    case gen_tcp:listen(0, [inet6, {ip, {0,0,0,0,0,0,0,1}}]) of
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            [both_families(Args, Config) || Args <- [[], ["-dist_listen", "false"]]];
        {error, Reason} ->
            {skip, lists:flatten(io_lib:format("no IPv6 on this machine: ~p", [Reason]))}
    end.

both_families(Args, Config) ->
    Both = #{proto => ["handover_tcp", "handover_tcp6"], args => Args},
    Six = #{proto => "handover_tcp6", host => "::1"},
    with(handover, [{a, Both}, {b, #{host => "b.invalid"}}, {c, Six}, {d, Six#{host => "d.invalid"}}], Config,
         fun(A, B, C, D) ->
                 set(A, dial_module, handover_ct_dial),
                 set(A, dial_map, [{name(B), "localhost"}, {name(D), {0,0,0,0,0,0,0,1}}]),
                 [?assertEqual({ok, name(P)}, connect(A, name(P))) || P <- [B, C, D]],
                 ?assertMatch({{127,0,0,1}, _}, peername(A, name(B))),
                 [?assertMatch({{0,0,0,0,0,0,0,1}, _}, peername(A, name(P))) || P <- [C, D]],
                 ?assertMatch({error, {unknown_host, _}}, connect(A, 'x@y.invalid')),
                 Asked = call(A, handover_ct_dial, askers, []),
                 ?assert(length(Asked) >= 2),
                 ?assertEqual([], [Name || {registered_name, Name} <- Asked])
         end).
