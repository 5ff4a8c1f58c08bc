%% Two hosts, each behind a firewall that accepts only TCP 4369. ct/hosts.sh has a picture.
-module(handover_hosts_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [call/4, name/1]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [inet_tcp_is_blocked, handover_connects, three_nodes, only_epmd_listens, ipv6, behind_nat, fallback_is_blocked,
     host_is_down, bound_to_a_device, bound_to_an_address].

init_per_suite(Config) ->
    case handover_ct:hosts(["check"]) of
        "" -> Config;
        Reason -> {skip, Reason}
    end.

end_per_suite(_) -> ok.

init_per_testcase(Case, Config) ->
    Prefix = "hct-" ++ os:getpid() ++ "-" ++ integer_to_list(erlang:phash2(Case, 1000)),
    "" = handover_ct:hosts(["up", Prefix]),
    [{prefix, Prefix} | Config].

end_per_testcase(_, Config) ->
    "" = handover_ct:hosts(["down", ?config(prefix, Config)]),
    ok.

%% Starts a node on host N. It starts its EPMD itself, unless one is running there.
node(Name, N, Config) -> node(Name, N, Config, #{}).

node(Name, N, Config, Options) ->
    Host = maps:get(host, Options, "host" ++ integer_to_list(N) ++ ".handover.test"),
    handover_ct:start_node(Name, Options#{epmd_port => 4369, host => Host, starts_epmd => true,
                                          netns => namespace(N, Config)}).

namespace(N, Config) ->
    ?config(prefix, Config) ++ "-host" ++ integer_to_list(N).

in_host(N, Command, Config) ->
    os:cmd(["ip netns exec ", namespace(N, Config), " ", Command]).

has_ipv6(Config) ->
    in_host(1, "cat /proc/net/if_inet6", Config) =/= "".

%% Runs Fun with Nodes as its arguments, and stops them afterwards.
with(Nodes, Fun) ->
    try apply(Fun, Nodes)
    after [handover_ct:stop_node(P) || P <- Nodes]
    end.

%% Without handover, nodes cannot connect through this firewall, although EPMD answers.
inet_tcp_is_blocked(Config) ->
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

%% With listen false, EPMD's port is the only one on which the host listens.
only_epmd_listens(Config) ->
    Off = #{args => ["-handover", "listen", "false"]},
    with([node(a, 1, Config, Off), node(b, 2, Config, Off), node(c, 2, Config, Off)],
         fun(A, B, C) ->
                 [handover_ct:connect(A, P) || P <- [B, C]],
                 ?assertEqual(["4369"], listening_ports(2, Config))
         end).

%% The TCP ports on which anything listens on host N.
listening_ports(N, Config) ->
    Lines = string:lexemes(in_host(N, "ss -Hltn", Config), "\n"),
    lists:usort([lists:last(string:split(lists:nth(4, string:lexemes(L, " ")), ":", trailing)) || L <- Lines]).

ipv6(Config) ->
    Six = fun(N) -> #{proto => "handover_tcp6", host => "fd77::" ++ integer_to_list(N)} end,
    case has_ipv6(Config) of
        false -> {skip, "no IPv6 in this kernel"};
        true ->
            with([node(a, 1, Config, Six(1)), node(b, 2, Config, Six(2))],
                 fun(A, B) ->
                         Node = handover_ct:connect(A, B),
                         ?assertMatch({ok, {{16#fd77,0,0,0,0,0,0,2}, 4369}},
                                      call(A, inet, peername, [handover_ct:dist_port(A, Node)]))
                 end)
    end.

%% host2 is behind a NAT that maps port 5369 to EPMD's port, and the names of its nodes have a host that does not exist
%% outside. Others reach them by the dial map, or by handover:connect/1 with an address. Either way the link has the
%% true name.
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

%% The other host has the stock EPMD. The node falls back, the firewall drops that connection, and both are reported.
fallback_is_blocked(Config) ->
    start_stock_epmd(2, Config),
    with([node(a, 1, Config, #{args => ["-kernel", "net_setuptime", "7"]}), node(b, 2, Config, #{proto => "inet_tcp"})],
         fun(A, B) ->
                 Reports = handover_ct:record_reports(A),
                 ?assertMatch({error, {timeout, _}}, call(A, handover, connect, [name(B)])),
                 ?assertMatch([#{reason := stock_epmd}], handover_ct:await_reports(Reports, fell_back, 1)),
                 ?assertMatch([#{reason := timeout, detail := _}], handover_ct:await_reports(Reports, setup_failed, 1))
         end).

%% A node that is bound to one device takes no handovers, because EPMD accepts connections from all devices.
bound_to_a_device(Config) ->
    with([node(a, 1, Config), node(b, 2, Config, #{args => options("[{bind_to_device,<<\"lo\">>}]")})],
         fun(A, B) ->
                 ?assertMatch({error, {Reason, _}} when Reason =:= no_handover; Reason =:= timeout; Reason =:= direct_failed,
                              call(A, handover, connect, [name(B)])),
                 ?assertEqual([], call(B, erlang, nodes, [connected]))
         end).

%% A node that is bound to one address refuses connections to another one, whichever setting binds it.
bound_to_an_address(Config) ->
    Six = has_ipv6(Config),
    "" = in_host(2, "ip addr add 192.0.2.22/24 dev eth0", Config),
    Off = ["-handover", "listen", "false"],
    Bound = [{interface("{127,0,0,1}"), loopback}, {interface("{127,0,0,1}") ++ Off, loopback},
             {options("[{ip,{127,0,0,1}}]"), loopback}, {options("[{ifaddr,loopback}]") ++ Off, loopback},
             {interface("{192,0,2,22}"), "192.0.2.22"}, {options("[{ip,{192,0,2,22}}]") ++ Off, "192.0.2.22"},
             {interface("{192,0,2,2}"), "192.0.2.2"}, {options("[{ip,any}]"), any}, {Off, any}],
    [assert_bound(Args, To, {"192.0.2.1", "192.0.2.2"}, #{}, Config) || {Args, To} <- Bound],
    [assert_bound(Args, To, {"fd77::1", "fd77::2"}, #{proto => "handover_tcp6"}, Config)
     || Six, {Args, To} <- [{interface("{0,0,0,0,0,0,0,1}"), loopback}, {options("[{ip,{0,0,0,0,0,0,0,1}}]") ++ Off, loopback},
                            {interface("{16#fd77,0,0,0,0,0,0,2}"), "fd77::2"}, {Off, any}]].

interface(Ip) -> ["-kernel", "inet_dist_use_interface", Ip].
options(List) -> ["-kernel", "inet_dist_listen_options", List].

%% The node b, which is bound to To, accepts connections to To and refuses those to the address of its name, unless that
%% is To.
assert_bound(Args, To, {HostA, HostB}, Options, Config) ->
    [with([node(a, 1, Config, Options#{host => HostA, args => ["-handover", "dial_map",
                                                               "\"b@*=" ++ bracketed(Dialled) ++ "\""]}),
           node(b, 2, Config, Options#{host => HostB, args => Args})],
          fun(A, B) ->
                  Expected = case lists:member(To, [any, Dialled]) of
                                 true -> {ok, name(B)};
                                 false -> refused
                             end,
                  Result = case call(A, handover, connect, [name(B)]) of
                               {error, {refused, _}} -> refused;
                               Other -> Other
                           end,
                  ?assertEqual({Args, Dialled, Expected}, {Args, Dialled, Result})
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
