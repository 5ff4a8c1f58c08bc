%% Nodes at an address other than that of the host in their name: the dial map, the dial module, DNS, and nodes that
%% answer with a name other than the one that was dialled.
-module(handover_dial_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [dial_maps, bad_dial_maps, patterns, other_address, other_port, no_fallback_at_another_port, dial_module, dns,
     alias, address_is_used_once, relay, alias_of_a_linked_node, alias_while_the_node_connects,
     namesake_connects_meanwhile, stale_link, node_with_a_false_name, bad_names_in_challenge, names_without_host,
     both_families].

init_per_testcase(_, Config) -> [{epmd_port, handover_ct:free_port()} | Config].
end_per_testcase(_, _) -> ok.


set(Peer, Key, Value) -> ok = call(Peer, application, set_env, [handover, Key, Value]).

%% The result of handover:connect/1.
try_connect(Peer, Node) -> call(Peer, handover, connect, [Node]).

peername(Peer, Node) ->
    {ok, Name} = call(Peer, inet, peername, [handover_ct:dist_port(Peer, Node)]),
    Name.

%% The syntax of the dial map

dial_maps(_) ->
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

bad_dial_maps(_) ->
    [?assertMatch({Map, {bad, _}}, {Map, handover_dial_map:parse(Map)})
     || Map <- [7, "a@b", "a@b=", "=c", "a=c", "a@b=c:0", "a@b=c:65536", "a@b=c:x", "a@b=[::1", "a@b=c d@e",
                [{"a@b"}], [{"a@b", 7}], [{"a@b", {1,2,3}}], [{"a@b", {"h", -1}}], [{7, "h"}], [{"a@b", "x@y"}]]],
    application:set_env(handover, dial_map, "a@b=c:0"),
    try ?assertMatch({error, {handover_config, "dial_map is {\"a@b\",\"c:0\"}; it must be a list of" ++ _}},
                     handover_config:check())
    after application:unset_env(handover, dial_map)
    end.

%% The first pattern that matches is used. The last pattern of the table would take forever with backtracking.
patterns(_) ->
    IsMatch = fun(Pattern, Node) ->
                      application:set_env(handover, dial_map, [{Pattern, "gw:1"}]),
                      {ok, {Source, _, _}} = handover_dial:route(Node),
                      Source =:= dial_map
              end,
    try
        [?assertEqual({Pattern, Node, Expected}, {Pattern, Node, IsMatch(Pattern, Node)})
         || {Pattern, Node, Expected} <-
                [{"a@b", 'a@b', true}, {"a@b", 'a@bc', false}, {"a@b", 'xa@b', false}, {"*@b", 'a@b', true},
                 {"*@b", 'a@c', false}, {"a*@b", 'a@b', true}, {"a?@b", 'a@b', false}, {"a?@b", 'ax@b', true},
                 {"*a*@b", 'xaya@b', true},
                 {"*@*.example.org", 'n@h1.example.org', true}, {"*@*.example.org", 'n@example.org', false},
                 {lists:append(lists:duplicate(50, "*a")) ++ "@b", list_to_atom(lists:duplicate(150, $a) ++ "@c"), false}]],
        application:set_env(handover, dial_map, "n1@*=first *@*=second"),
        ?assertMatch({ok, {dial_map, "first", _}}, handover_dial:route('n1@h')),
        ?assertMatch({ok, {dial_map, "second", _}}, handover_dial:route('n2@h'))
    after
        application:unset_env(handover, dial_map)
    end.

%% Nodes at another address

other_address(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 ?assertMatch({error, {unknown_host, _}}, try_connect(A, name(B))),
                 set(A, dial_map, "*@b.invalid=127.0.0.2"),
                 ?assertEqual({ok, 'b@b.invalid'}, try_connect(A, name(B))),
                 ?assertEqual({{127,0,0,2}, ?config(epmd_port, Config)}, peername(A, name(B))),
                 ?assertMatch(#{connected := true, via := handover, direction := out,
                                route := {dial_map, {127,0,0,2}, _}, last_failure := {_, unknown_host, _}},
                              call(A, handover, info, [name(B)]))
         end).

%% The other node's EPMD has another port, as behind a load balancer, or behind a NAT with a port for each host.
other_port(Config) ->
    Other = handover_ct:free_port(),
    with_cluster(handover, [a], Config,
         fun(A) ->
                 with_cluster(handover, [{b, #{host => "b.invalid"}}], Other,
                   fun(B) ->
                           set(A, dial_map, [{"b@b.invalid", {"localhost", Other}}]),
                           ?assertEqual({ok, 'b@b.invalid'}, try_connect(A, name(B))),
                           ?assertEqual({{127,0,0,1}, Other}, peername(A, name(B)))
                   end)
         end).

%% A node that dials a port other than EPMD's usual one must not fall back to the node that the EPMD at the usual port
%% knows.
no_fallback_at_another_port(Config) ->
    Other = handover_ct:free_port(),
    with_cluster(stock, [a, {b, #{proto => "inet_tcp"}}], Config,
         fun(A, B) ->
                 ?assertEqual({ok, name(B)}, try_connect(A, name(B))),
                 handover_ct:disconnect(A, B),
                 with_cluster(stock, [], Other,
                   fun() ->
                           set(A, dial_map, [{name(B), {{127,0,0,1}, Other}}]),
                           ?assertMatch({error, {stock_epmd, _}}, try_connect(A, name(B)))
                   end)
         end).

%% dial_module: the default, good routes, bad results, an exception, a module that does not exist.
dial_module(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 set(A, dial_module, handover_ct_dial),
                 ConnectBy = fun(Route) ->
                                     ok = call(A, application, set_env, [kernel, handover_ct_route, Route]),
                                     try_connect(A, name(B))
                             end,
                 ?assertMatch({error, {unknown_host, _}}, ConnectBy(default)),
                 [?assertMatch({_, {error, {bad_route, _}}}, {Bad, ConnectBy(Bad)})
                  || Bad <- [crash, {ok, 7}, {ok, "h", 0}, {ok, ""}, nonsense]],
                 {error, {bad_route, Text}} = ConnectBy({ok, "h", 70000}),
                 ?assertMatch({match, _}, re:run(Text, "handover_ct_dial:route.*returned.*70000")),
                 ?assertEqual({ok, name(B)}, ConnectBy({ok, "127.0.0.3"})),
                 handover_ct:disconnect(A, B),
                 ?assertEqual({ok, name(B)}, ConnectBy({ok, {127,0,0,1}, ?config(epmd_port, Config)})),
                 handover_ct:disconnect(A, B),
                 set(A, dial_module, no_such_module),
                 {error, {bad_route, Undefined}} = try_connect(A, name(B)),
                 ?assertMatch({match, _}, re:run(Undefined, "no_such_module.*undef"))
         end).

%% dial_srv: of two SRV records, the one with the better priority is used. It has the port of the other EPMD.
dns(Config) ->
    Other = handover_ct:free_port(),
    with_cluster(handover, [a], Config,
         fun(A) ->
                 with_cluster(handover, [{b, #{host => "b.invalid"}}], Other,
                   fun(B) ->
                           Records = [{20, 0, 9, "nowhere.invalid"}, {10, 5, Other, "localhost"}],
                           {Server, Port} = start_name_server(#{"_epmd._tcp.b.invalid" => Records}),
                           ok = call(A, inet_db, set_resolv_conf, [""]),
                           ok = call(A, inet_db, add_ns, [{127,0,0,1}, Port]),
                           ?assertMatch({error, {unknown_host, _}}, try_connect(A, name(B))),
                           set(A, dial_srv, true),
                           ?assertEqual({ok, name(B)}, try_connect(A, name(B))),
                           ?assertEqual({{127,0,0,1}, Other}, peername(A, name(B))),
                           ?assertMatch({error, {unknown_host, _}}, try_connect(A, 'x@without.invalid')),
                           exit(Server, kill)
                   end)
         end).

%% Starts a name server that answers questions for SRV records. The caller must kill it. A record is
%% {Priority, Weight, Port, Target}.
start_name_server(Records) ->
    Suite = self(),
    Server = spawn_link(fun() ->
                                {ok, Socket} = gen_udp:open(0, [binary, {ip, {127,0,0,1}}, {active, false}]),
                                {ok, Port} = inet:port(Socket),
                                Suite ! {self(), Port},
                                serve_names(Socket, Records)
                        end),
    unlink(Server),
    receive {Server, Port} -> {Server, Port} end.

%% RFC 1035, section 4; RFC 2782.
serve_names(Socket, Records) ->
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
    Header = <<Id:16, 16#858:12, Rcode:4, 1:16, (length(Found)):16, 0:32>>,
    ok = gen_udp:send(Socket, Ip, Port, [Header, Question, Answers]),
    serve_names(Socket, Records).

labels(<<0, _/binary>>, Labels, Length) -> {lists:reverse(Labels), Length + 1};
labels(<<L, Label:L/binary, Rest/binary>>, Labels, Length) ->
    labels(Rest, [binary_to_list(Label) | Labels], Length + L + 1).

%% Nodes with another name

%% net_kernel gets no connection to a node that answers with another name; the report has that name. handover:connect/1
%% connects to the node by its true name, at the address that the caller gave, and uses that address for this connection
%% only.
alias(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 Reports = handover_ct:record_reports(A),
                 Before = handover_ct:own_fds(A),
                 ?assertEqual(false, call(A, net_kernel, connect_node, ['b@127.0.0.2'])),
                 [#{node := 'b@127.0.0.2', name := "b@b.invalid", peer := {{127,0,0,2}, _}} = Report] =
                     handover_ct:await_reports(Reports, other_name, 1),
                 ?assertMatch({match, _}, re:run(handover_ct:report_text(Report),
                                                 "no connection to b@127.0.0.2: the node at 127.0.0.2:\\d+ calls itself b@b.invalid")),
                 %% The true name is still dialled at its own host.
                 ?assertMatch({error, {unknown_host, _}}, try_connect(A, name(B))),
                 [begin
                      ?assertEqual({ok, name(B)}, try_connect(A, 'b@127.0.0.2')),
                      ?assertEqual({{127,0,0,2}, ?config(epmd_port, Config)}, peername(A, name(B))),
                      ?assertEqual([name(B)], call(A, erlang, nodes, [connected])),
                      handover_ct:disconnect(A, B),
                      ?assertMatch({error, {unknown_host, _}}, try_connect(A, name(B))),
                      ?assertEqual([], call(A, ets, tab2list, [handover_dial]))
                  end || _ <- [1, 2]],
                 handover_ct:await_own_fds(A, Before)
         end).

%% The address that a caller of handover:connect/1 gave is used for one setup, and only while the caller lives. A
%% configured address takes precedence.
address_is_used_once(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
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
                 ?assertEqual({ok, name(B)}, try_connect(A, 'b@127.0.0.2')),
                 ?assertMatch({{127,0,0,1}, _}, peername(A, name(B)))
         end).

%% A host without the cookie that relays connections from its EPMD's port to the EPMD of another host gets the
%% connections that are made to its own address, and no others.
relay(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster({handover, ["-address", "127.0.0.1"]}, [a, {v1, #{}}], Config,
         fun(A, V) ->
                 handover_ct:with_relay({{127,0,0,3}, Port}, {{127,0,0,1}, Port},
                   fun() ->
                           ?assertEqual(pang, call(A, net_adm, ping, ['v1@127.0.0.3'])),
                           ?assertEqual(pong, call(A, net_adm, ping, [name(V)])),
                           ?assertEqual({{127,0,0,1}, Port}, peername(A, name(V))),
                           handover_ct:disconnect(A, V),
                           ?assertEqual({ok, name(V)}, try_connect(A, 'v1@127.0.0.3')),
                           ?assertEqual({{127,0,0,3}, Port}, peername(A, name(V))),
                           handover_ct:disconnect(A, V),
                           ?assertEqual({ok, name(V)}, try_connect(A, name(V))),
                           ?assertEqual({{127,0,0,1}, Port}, peername(A, name(V)))
                   end)
         end).

%% A connect to a connected node by another of its addresses does not affect the link.
alias_of_a_linked_node(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 ?assertEqual({ok, name(B)}, try_connect(A, name(B))),
                 Link = handover_ct:dist_port(A, name(B)),
                 ?assertEqual(false, call(A, net_kernel, connect_node, ['b@127.0.0.2'])),
                 ?assertEqual({ok, name(B)}, try_connect(A, 'b@127.0.0.3')),
                 ?assertEqual(Link, handover_ct:dist_port(A, name(B))),
                 ?assertEqual(pong, call(B, net_adm, ping, [name(A)]))
         end).

%% The other node connects to this one at the same time. Whichever connection wins, there is one link, with the true
%% name.
alias_while_the_node_connects(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 Before = handover_ct:own_fds(A),
                 [begin
                      Self = self(),
                      Other = spawn_link(fun() -> Self ! {self(), call(B, net_kernel, connect_node, [name(A)])} end),
                      ?assertEqual({N, {ok, name(B)}}, {N, try_connect(A, 'b@127.0.0.1')}),
                      receive {Other, _} -> ok end,
                      handover_ct:disconnect(A, B)
                  end || N <- lists:seq(1, 40)],
                 handover_ct:await_own_fds(A, Before)
         end).

%% The nodes of many clusters all have the same alive name. While a connect to one of them waits after the status `nok',
%% another one connects to this node. The connect must not take that link for its own.
namesake_connects_meanwhile(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]}, [{a, #{args => ["-kernel", "net_setuptime", "3"]}}, b], Config,
         fun(A, B) ->
                 Self = self(),
                 Server = spawn_link(fun() -> answer_nok({127,0,0,3}, ?config(epmd_port, Config), Self) end),
                 receive {Server, ready} -> ok end,
                 Connect = spawn_link(fun() -> Self ! {self(), try_connect(A, 'b@127.0.0.3')} end),
                 receive {Server, answered} -> ok end,
                 true = call(B, net_kernel, connect_node, [name(A)]),
                 ?assertMatch({error, {timeout, _}}, receive {Connect, Result} -> Result end),
                 ?assertEqual([name(B)], call(A, erlang, nodes, [])),
                 unlink(Server),
                 exit(Server, kill)
         end).

%% Acts as EPMD and node of another host: answers HANDOVER_REQ and the name that follows with the status `nok', and then
%% nothing.
answer_nok(Ip, Port, Test) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {active, false}, {ip, Ip}, {reuseaddr, true}]),
    Test ! {self(), ready},
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, <<Size:16>>} = gen_tcp:recv(Socket, 2),
    {ok, _} = gen_tcp:recv(Socket, Size),
    {ok, <<NameSize:16>>} = gen_tcp:recv(Socket, 2),
    {ok, _} = gen_tcp:recv(Socket, NameSize),
    ok = gen_tcp:send(Socket, <<$i, 0, 6:16, 4:16, "snok">>),
    Test ! {self(), answered},
    receive after infinity -> ok end.

%% The peer still has a link that this node has lost. It accepts the new connection in its place, as with inet_tcp, even
%% if this node has a link to a namesake of the peer.
stale_link(Config) ->
    Options = #{host => "c.invalid", args => ["-handover", "dial_map", "\"*@c.invalid=127.0.0.1\""]},
    Other = handover_ct:free_port(),
    Map = "\"*@c.invalid=127.0.0.1:" ++ integer_to_list(Other) ++ "\"",
    with_cluster(handover, [{a, #{args => ["-handover", "dial_map", Map]}}, b], Config,
         fun(A, B) ->
                 with_cluster(handover, [{b, Options}], Other,
                   fun(C) ->
                           {ok, _} = try_connect(A, name(C)),
                           {ok, _} = try_connect(A, name(B)),
                           %% While the keeper is suspended, A's end of the link stays open and B does not notice.
                           _ = call(A, handover_ct_work, suspend_newest_keeper, []),
                           true = call(A, erlang, disconnect_node, [name(B)]),
                           handover_ct:until(fun() -> call(A, erlang, nodes, [connected]) =:= [name(C)] end),
                           ?assertEqual([name(A)], call(B, erlang, nodes, [])),
                           ?assertEqual({ok, name(B)}, try_connect(A, name(B))),
                           ?assertEqual(pong, call(B, net_adm, ping, [name(A)])),
                           ?assertEqual([name(B), name(C)], lists:sort(call(A, erlang, nodes, [connected])))
                   end)
         end).

%% A node claims to be another one, and the handshake with it fails. Its address is not used for that name again.
node_with_a_false_name(Config) ->
    with_cluster(handover, [a, {b, #{host => "b.invalid", args => ["-setcookie", "wrong"]}}], Config,
         fun(A, _B) ->
                 set(A, dial_map, []),
                 ?assertMatch({error, {handshake, _}}, try_connect(A, 'b@127.0.0.1')),
                 ?assertMatch({error, {unknown_host, _}}, try_connect(A, 'b@b.invalid'))
         end).

%% If the name in the challenge is not valid, the connect fails with a short reason, and no atom is created.
bad_names_in_challenge(Config) ->
    with_cluster({handover, ["-address", "127.0.0.1"]}, [a], Config,
         fun(A) ->
                 Connect = fun(Name) ->
                                   handover_ct:with_server({127,0,0,3}, ?config(epmd_port, Config),
                                                           handover_ct:handshake_answer(Name),
                                                           fun() -> try_connect(A, 'x@127.0.0.3') end)
                           end,
                 Long = binary:copy(<<"h">>, 300),
                 [?assertMatch({_, {error, {handshake, _}}}, {Name, Connect(Name)})
                  || Name <- [<<>>, <<"x">>, <<"x@">>, <<"@h">>, <<"y@127.0.0.3">>, <<"x@", Long/binary>>, <<255, 0, 1>>,
                              <<"x@h\e[31m">>, <<"x@h h">>, <<"x@h@i">>, <<"x@h\n">>]],
                 ?assertError(badarg, call(A, erlang, list_to_existing_atom, ["x@h h"])),
                 {error, {handshake, Text}} = Connect(<<"x@", Long/binary>>),
                 ?assert(iolist_size(io_lib:format("~ts", [Text])) < 300)
         end).

%% A name that no node can have is refused at once, and net_kernel continues to work.
names_without_host(Config) ->
    [with_cluster(handover, [{a, #{proto => Protocols}}, b], Config,
          fun(A, B) ->
                  [?assertEqual({Name, pang}, {Name, call(A, net_adm, ping, [Name])})
                   || Name <- [undefined, nohost, 'x@', '@x', 'x@y@z', undefined]],
                  [?assertEqual(false, call(A, net_kernel, connect_node, [Name])) || Name <- [undefined, nohost]],
                  ?assertMatch({error, {bad_name, _}}, try_connect(A, undefined)),
                  ?assertEqual(pong, call(A, net_adm, ping, [name(B)])),
                  ?assertEqual([name(B)], [element(2, C) || C <- call(A, ets, tab2list, [sys_dist])])
          end) || Protocols <- ["handover_tcp", ["handover_tcp", "handover_tcp6"]]].

%% With both protocols, a host name is dialled over the first one, then over the other. net_kernel itself does not call
%% the dial module, which may take long.
both_families(Config) ->
    handover_ct:with_ipv6(fun() -> [both_families(Args, Config) || Args <- [[], ["-dist_listen", "false"]]] end).

both_families(Args, Config) ->
    Both = #{proto => ["handover_tcp", "handover_tcp6"], args => Args},
    Six = #{proto => "handover_tcp6", host => "::1"},
    with_cluster(handover, [{a, Both}, {b, #{host => "b.invalid"}}, {c, Six}, {d, Six#{host => "d.invalid"}}], Config,
         fun(A, B, C, D) ->
                 set(A, dial_module, handover_ct_dial),
                 set(A, dial_map, [{name(B), "localhost"}, {name(D), {0,0,0,0,0,0,0,1}}]),
                 [?assertEqual({ok, name(P)}, try_connect(A, name(P))) || P <- [B, C, D]],
                 ?assertMatch({{127,0,0,1}, _}, peername(A, name(B))),
                 [?assertMatch({{0,0,0,0,0,0,0,1}, _}, peername(A, name(P))) || P <- [C, D]],
                 ?assertMatch({error, {unknown_host, _}}, try_connect(A, 'x@y.invalid')),
                 Callers = call(A, handover_ct_dial, callers, []),
                 ?assert(length(Callers) >= 2),
                 ?assertEqual([], [Name || {registered_name, Name} <- Callers])
         end).
