%% Two hosts, each behind a firewall that lets nothing in but TCP 4369 (ct/hosts.sh draws them).
-module(handover_hosts_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [stock_fails, handover_connects, three_nodes, no_port_but_epmds, ipv6, behind_nat, fallback_is_blocked, host_is_down,
     bound_to_a_device, bound_to_an_interface].

init_per_suite(Config) ->
    case hosts(["check"]) of
        "" -> Config;
        Reason -> {skip, Reason}
    end.

end_per_suite(_) -> ok.

init_per_testcase(Case, Config) ->
    Prefix = "hct-" ++ os:getpid() ++ "-" ++ integer_to_list(erlang:phash2(Case, 1000)),
    "" = hosts(["up", Prefix]),
    [{prefix, Prefix} | Config].

end_per_testcase(_, Config) ->
    "" = hosts(["down", ?config(prefix, Config)]),
    ok.

hosts(Args) ->
    string:trim(os:cmd(lists:join($ , [filename:join([handover_ct:root(), "ct", "hosts.sh"]) | Args]))).

%% A node on host N; its EPMD is started by the node itself, or is Epmd.
node(Name, N, Config) -> node(Name, N, Config, #{}).

node(Name, N, Config, Options) ->
    Ns = ?config(prefix, Config) ++ "-host" ++ integer_to_list(N),
    Host = maps:get(host, Options, "host" ++ integer_to_list(N) ++ ".handover.test"),
    handover_ct:start_node(Name, Options#{epmd_port => 4369, host => Host, starts_epmd => true,
                                          exec => {os:find_executable("ip"), ["netns", "exec", Ns, os:find_executable("erl")]}}).

in_host(N, Command, Config) ->
    os:cmd("ip netns exec " ++ ?config(prefix, Config) ++ "-host" ++ integer_to_list(N) ++ " " ++ Command).

with(Nodes, Fun) ->
    try apply(Fun, Nodes)
    after [handover_ct:stop_node(P) || P <- Nodes]
    end.

call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

%% The control: without handover this firewall keeps nodes apart, though EPMD answers.
stock_fails(Config) ->
    [start_stock_epmd(N, Config) || N <- [1, 2]],
    Stock = #{proto => "inet_tcp", args => ["-kernel", "net_setuptime", "2"]},
    with([node(a, 1, Config, Stock), node(b, 2, Config, Stock)],
         fun(A, B) ->
                 ?assertMatch({ok, [{"b", _}]}, call(A, erl_epmd, names, ["host2.handover.test"])),
                 ?assertEqual(pang, call(A, net_adm, ping, [name(B)]))
         end).

start_stock_epmd(N, Config) ->
    "" = in_host(N, os:find_executable("epmd") ++ " -daemon", Config),
    handover_ct:until(fun() -> string:find(in_host(N, "epmd -names", Config), "up and running") =/= nomatch end).

handover_connects(Config) ->
    with([node(a, 1, Config), node(b, 2, Config)],
         fun(A, B) ->
                 Node = handover_ct:connect(A, B),
                 ?assertEqual(Node, call(A, rpc, call, [Node, erlang, node, []])),
                 Size = 64 bsl 20,
                 ?assertEqual(call(A, handover_ct_work, hash_of, [Size]), call(A, handover_ct_work, send_large, [Node, Size])),
                 ?assertMatch({ok, {{192,0,2,2}, 4369}}, call(A, inet, peername, [handover_ct:dist_port(A, Node)]))
         end).

three_nodes(Config) ->
    with([node(a, 1, Config), node(b, 2, Config), node(c, 2, Config)],
         fun(A, B, C) ->
                 [?assertEqual(pong, call(P, net_adm, ping, [name(Q)])) || P <- [C, B, A], Q <- [A, B, C], P =/= Q],
                 ?assertEqual(lists:sort([name(B), name(C)]), lists:sort(call(A, erlang, nodes, [])))
         end).

no_port_but_epmds(Config) ->
    Off = #{args => ["-handover", "listen", "false"]},
    with([node(a, 1, Config, Off), node(b, 2, Config, Off), node(c, 2, Config, Off)],
         fun(A, B, C) ->
                 [handover_ct:connect(A, P) || P <- [B, C]],
                 ?assertEqual(["4369"], listening(2, Config))
         end).

%% Distinct ports that somebody listens on, as ss tells.
listening(N, Config) ->
    Lines = string:lexemes(in_host(N, "ss -Hltn", Config), "\n"),
    lists:usort([lists:last(string:split(lists:nth(4, string:lexemes(L, " ")), ":", trailing)) || L <- Lines]).

ipv6(Config) ->
    case in_host(1, "cat /proc/net/if_inet6", Config) of
        "" -> {skip, "no IPv6 in this kernel"};
        _ ->
            Six = fun(N) -> #{proto => "handover_tcp6", host => "fd77::" ++ integer_to_list(N)} end,
            with([node(a, 1, Config, Six(1)), node(b, 2, Config, Six(2))],
                 fun(A, B) ->
                         Node = handover_ct:connect(A, B),
                         ?assertMatch({ok, {{16#fd77,0,0,0,0,0,0,2}, 4369}},
                                      call(A, inet, peername, [handover_ct:dist_port(A, Node)]))
                 end)
    end.

%% host2 is behind a port mapping, 5369 to EPMD's port, and its nodes' names have a host that means nothing outside: two
%% ways to reach them, each under its true name.
behind_nat(Config) ->
    Rules = "\"add table ip nat; add chain ip nat pre { type nat hook prerouting priority -100; }; "
            "add rule ip nat pre tcp dport 5369 redirect to :4369\"",
    "" = in_host(2, "nft " ++ Rules, Config),
    Map = ["-handover", "dial_map", "\"*@*.private.invalid=host2.handover.test:5369\""],
    Off = ["-handover", "listen", "false"],
    with([node(a, 1, Config, #{args => Map}), node(b, 2, Config, #{host => "h2.private.invalid", args => Off}),
          node(c, 1, Config)],
         fun(A, B, C) ->
                 ?assertEqual({ok, name(B)}, call(A, handover, connect, [name(B)])),
                 ?assertEqual({ok, {{192,0,2,2}, 5369}}, call(A, inet, peername, [handover_ct:dist_port(A, name(B))])),
                 ?assertEqual(name(B), call(A, erpc, call, [name(B), erlang, node, []])),
                 ?assertEqual({ok, name(B)}, call(C, handover, connect, ['b@host2.handover.test'])),
                 ?assertEqual({'DOWN', link_noticed}, call(C, handover_ct_work, link_and_monitor, [name(B)]))
         end).

%% The other host runs a stock EPMD: the fallback is tried, the firewall drops it, and the log has both in time.
fallback_is_blocked(Config) ->
    start_stock_epmd(2, Config),
    with([node(a, 1, Config, #{args => ["-kernel", "net_setuptime", "7"]}), node(b, 2, Config, #{proto => "inet_tcp"})],
         fun(A, B) ->
                 Logs = handover_ct:logs(A),
                 ?assertMatch({error, {timeout, _}}, call(A, handover, connect, [name(B)])),
                 ?assertMatch([#{reason := stock_epmd}], handover_ct:reports(Logs, fell_back, 1)),
                 ?assertMatch([#{reason := timeout, detail := _}], handover_ct:reports(Logs, setup_failed, 1))
         end).

%% A node that listens on one device takes no handovers: EPMD's connections come in by any.
bound_to_a_device(Config) ->
    with([node(a, 1, Config), node(b, 2, Config, #{args => options("[{bind_to_device,<<\"lo\">>}]")})],
         fun(A, B) ->
                 ?assertMatch({error, {Reason, _}} when Reason =:= no_handover; Reason =:= timeout; Reason =:= direct_failed,
                              call(A, handover, connect, [name(B)])),
                 ?assertEqual([], call(B, erlang, nodes, [connected]))
         end).

%% A node that is bound to one address takes no connection that came to another one, by whichever setting it is bound.
bound_to_an_interface(Config) ->
    Six = in_host(1, "cat /proc/net/if_inet6", Config) =/= "",
    "" = in_host(2, "ip addr add 192.0.2.22/24 dev eth0", Config),
    Off = ["-handover", "listen", "false"],
    Bound = [{interface("{127,0,0,1}"), loopback}, {interface("{127,0,0,1}") ++ Off, loopback},
             {options("[{ip,{127,0,0,1}}]"), loopback}, {options("[{ifaddr,loopback}]") ++ Off, loopback},
             {interface("{192,0,2,22}"), "192.0.2.22"}, {options("[{ip,{192,0,2,22}}]") ++ Off, "192.0.2.22"},
             {interface("{192,0,2,2}"), "192.0.2.2"}, {options("[{ip,any}]"), any}, {Off, any}],
    [bound(Args, To, {"192.0.2.1", "192.0.2.2"}, #{}, Config) || {Args, To} <- Bound],
    [bound(Args, To, {"fd77::1", "fd77::2"}, #{proto => "handover_tcp6"}, Config)
     || Six, {Args, To} <- [{interface("{0,0,0,0,0,0,0,1}"), loopback}, {options("[{ip,{0,0,0,0,0,0,0,1}}]") ++ Off, loopback},
                            {interface("{16#fd77,0,0,0,0,0,0,2}"), "fd77::2"}, {Off, any}]].

interface(Ip) -> ["-kernel", "inet_dist_use_interface", Ip].
options(List) -> ["-kernel", "inet_dist_listen_options", List].

%% b, which is bound to To, is reached at the address of its name if that is To, and at To by dial_map.
bound(Args, To, {HostA, HostB}, Options, Config) ->
    [with([node(a, 1, Config, Options#{host => HostA, args => ["-handover", "dial_map", "\"b@*=" ++ bracketed(Dialled) ++ "\""]}),
           node(b, 2, Config, Options#{host => HostB, args => Args})],
          fun(A, B) ->
                  Expected = case lists:member(To, [any, Dialled]) of
                                 true -> {ok, name(B)};
                                 false -> refused
                             end,
                  Got = case call(A, handover, connect, [name(B)]) of
                            {error, {refused, _}} -> refused;
                            Other -> Other
                        end,
                  ?assertEqual({Args, Dialled, Expected}, {Args, Dialled, Got})
          end)
     || Dialled <- lists:usort([HostB | [To || is_list(To)]])].

bracketed(Address) ->
    case lists:member($:, Address) of
        true -> "[" ++ Address ++ "]";
        false -> Address
    end.

host_is_down(Config) ->
    with([node(a, 1, Config, #{args => ["-kernel", "net_setuptime", "2"]})],
         fun(A) ->
                 ?assertMatch({error, {Reason, _}} when Reason =:= timeout; Reason =:= epmd_unreachable,
                              call(A, handover, connect, ['x@192.0.2.77']))
         end).
