%% handover:doctor/1 and the program that it runs, with real nodes and EPMDs: what they find, and that they leave no
%% trace on the node that they check. The Go tests cover each result of each step.
-module(handover_doctor_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4, name/1, while_stopped/2]).

-export([suite/0, all/0, init_per_testcase/2, end_per_testcase/2]).
-export([this_host/1, configured_address/1, ipv6/1, no_epmd/1, node_without_handover/1, stock_epmd/1, not_allowed/1,
         carrier_stopped/1, beam_stopped/1, no_program/1, leaves_no_trace/1, firewall/1, policy/1]).
-export([doctor/1, record_node_messages/0, recorded_node_messages/0]).

-define(DOCTORS, 100).
-define(AT_ONCE, 4).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [this_host, configured_address, ipv6, no_epmd, node_without_handover, stock_epmd, not_allowed, carrier_stopped,
     beam_stopped, no_program, leaves_no_trace, firewall, policy].

init_per_testcase(Case, Config) when Case =:= firewall; Case =:= policy ->
    case handover_hosts_SUITE:init_per_suite(Config) of
        {skip, _} = Skip -> Skip;
        Config -> handover_hosts_SUITE:init_per_testcase(Case, Config)
    end;
init_per_testcase(_, Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(Case, Config) when Case =:= firewall; Case =:= policy ->
    handover_hosts_SUITE:end_per_testcase(Case, Config);
end_per_testcase(_, _) ->
    ok.


%% handover:doctor(Node) on Peer returns Expected, and its output contains each of Texts.
assert_finds(Expected, Texts, Peer, Node) ->
    {Result, Output} = call(Peer, ?MODULE, doctor, [Node]),
    ct:log("~ts", [Output]),
    {Expected, []} = {Result, [{Text, "is not in the output"} || Text <- Texts, string:find(Output, Text) =:= nomatch]},
    ok.

%% What it finds

%% Nodes of this host: one that can be reached, the own node, and names that are unknown, wrong or not valid.
this_host(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 assert_finds({ok, handover},
                              ["✔ handshake", "it is b@127.0.0.1, ", "b@127.0.0.1 can be reached by handover."],
                              A, name(B)),
                 assert_finds({ok, handover}, [], A, name(A)),
                 assert_finds({error, registered},
                              ["✘ registered", "EPMD has no node c; it has b, a\n", "- handshake\n"], A, 'c@127.0.0.1'),
                 assert_finds({error, handshake}, ["it calls itself b@127.0.0.1", "handover:connect/1"], A, 'b@localhost'),
                 assert_finds({error, resolve}, ["✘ resolve"], A, 'b@nowhere.invalid'),
                 assert_finds({error, resolve}, ["no IPv4 address, only ::1", "--inet6"], A, 'b@::1'),
                 assert_finds({error, name}, ["--b is not of the form name@host"], A, '--b')
         end).

%% The doctor uses the dial map and the dial module, as a connect does.
configured_address(Config) ->
    Set = fun(Peer, Key, Value) -> ok = call(Peer, application, set_env, [handover, Key, Value]) end,
    with_cluster(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 assert_finds({error, resolve}, ["✘ resolve"], A, name(B)),
                 Set(A, dial_map, [{"b@*", "localhost"}]),
                 assert_finds({ok, handover}, ["it is b@b.invalid, "], A, name(B)),
                 Set(A, dial_map, [{"b@*", {{127, 0, 0, 2}, 1}}]),
                 assert_finds({error, tcp}, ["127.0.0.2", "connection refused"], A, name(B)),
                 Set(A, dial_map, []),
                 Set(A, dial_module, no_such_module),
                 assert_finds({error, resolve}, ["✘ resolve", "no_such_module:route('b@b.invalid'): error undef"],
                              A, name(B))
         end).

ipv6(Config) ->
    handover_ct:with_ipv6(
      fun() ->
              with_cluster(handover, [{a, #{proto => "handover_tcp6", host => "::1"}}], Config,
                           fun(A) -> assert_finds({ok, handover}, ["✔ resolve", "::1"], A, name(A)) end)
      end).

%% Nothing listens on EPMD's port, or something that is no EPMD. The doctor also runs on a node without distribution.
no_epmd(Config) ->
    Port = ?config(epmd_port, Config),
    with_cluster(none, [{a, #{undistributed => true}}], Config,
         fun(A) ->
                 ?assertEqual(nonode@nohost, name(A)),
                 assert_finds({error, tcp}, ["connection refused", "start a node or an epmd there"], A, 'b@127.0.0.1'),
                 handover_ct:with_server({127, 0, 0, 1}, Port, <<"SSH-2.0-OpenSSH\r\n">>,
                   fun() ->
                           assert_finds({error, epmd}, ["a program that is not an EPMD has port"], A, 'b@127.0.0.1')
                   end),
                 handover_ct:with_server({127, 0, 0, 1}, Port, close,
                   fun() -> assert_finds({error, epmd}, ["closed without an answer"], A, 'b@127.0.0.1') end)
         end).

node_without_handover(Config) ->
    with_cluster(handover, [a, {b, #{proto => "inet_tcp"}}], Config,
         fun(A, B) ->
                 assert_finds({ok, direct}, ["- handover", "✔ direct", "start the node with -proto_dist handover_tcp"],
                              A, name(B))
         end).

stock_epmd(Config) ->
    with_cluster(stock, [a, {b, #{args => ["-handover", "listen", "false"]}}], Config,
         fun(A, B) ->
                 assert_finds({ok, direct}, ["a stock EPMD", "✔ direct", "start handover's instead"], B, name(A)),
                 assert_finds({error, direct}, ["no port of its own", "`listen false`"], A, name(B)),
                 assert_finds({error, registered}, ["EPMD has no node c"], A, 'c@127.0.0.1')
         end).

not_allowed(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 ok = call(B, net_kernel, allow, [['z@127.0.0.1']]),
                 assert_finds({error, handshake}, ["its status is not_allowed", "net_kernel:allow/1"], A, name(B))
         end).

%% The doctor does not need the carrier of its own node. If the carrier of the other node is stopped, the doctor reports
%% that: the first time while EPMD asks for a socket, the second time, when EPMD has a channel, because the
%% acknowledgement is missing.
carrier_stopped(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 while_stopped(handover_ct:carrier_os_pid(A),
                               fun() -> assert_finds({error, registered}, [], A, 'c@127.0.0.1') end),
                 Carrier = handover_ct:carrier_os_pid(B),
                 [begin
                      Texts = [Text, "for its carrier"],
                      while_stopped(Carrier, fun() -> assert_finds({error, handover}, Texts, A, name(B)) end),
                      handover_ct:until(fun() -> element(1, call(A, ?MODULE, doctor, [name(B)])) =:= {ok, handover} end)
                  end || Text <- ["✘ handover", "no answer in time"]]
         end).

beam_stopped(Config) ->
    with_cluster(handover, [a, b], Config,
         fun(A, B) ->
                 Node = name(B),
                 Texts = ["✔ handover", "VM does not answer"],
                 while_stopped(handover_ct:beam_os_pid(B),
                               fun() -> assert_finds({error, handshake}, Texts, A, Node) end)
         end).

no_program(Config) ->
    Ebin = filename:join(handover_ct:copy_without_programs(Config), "ebin"),
    with_cluster(none, [{a, #{undistributed => true, args => ["-pa", Ebin]}}], Config,
         fun(A) -> ?assertMatch({{error, {program, {enoent, _}}}, ""}, call(A, ?MODULE, doctor, ['b@127.0.0.1'])) end).

%% What it leaves behind

%% After many doctors, some at a time, of a node with a link, neither the node nor its carrier nor EPMD has more
%% descriptors or processes. Its log, its nodes and the processes that monitor nodes show nothing.
leaves_no_trace(Config) ->
    Port = ?config(epmd_port, Config),
    Epmd = handover_ct:start_epmd(handover, Port),
    OsPid = handover_ct:epmd_os_pid(Epmd),
    try handover_ct:with_nodes([a, b], Port, fun(A, B) -> leaves_no_trace(OsPid, A, B, Config) end)
    after handover_ct:stop_epmd(Epmd)
    end.

leaves_no_trace(EpmdOsPid, A, B, Config) ->
    Log = filename:join(?config(priv_dir, Config), "leaves_no_trace.log"),
    ok = call(A, logger, add_handler, [file, logger_std_h, #{level => notice, config => #{file => Log}}]),
    Other = handover_ct:connect(A, B),
    ok = call(A, ?MODULE, record_node_messages, []),
    run_doctors(Config, name(A), ?AT_ONCE),      % the first ones create the channel, and the atoms of their names
    handover_ct:until(fun() -> pending_connections(A) =:= 0 end),
    {Fds, Processes, Known} = {handover_ct:own_fds(A), processes(A), length(call(A, erlang, nodes, [known]))},
    Others = [{P, handover_ct:fds(P)} || P <- [EpmdOsPid, handover_ct:carrier_os_pid(A)]],
    run_doctors(Config, name(A), ?DOCTORS),
    handover_ct:await_own_fds(A, Fds),
    [handover_ct:await_fds(P, F) || {P, F} <- Others],
    handover_ct:until(fun() -> processes(A) =< Processes orelse {processes(A), Processes} end),
    ?assertEqual([Other], call(A, erlang, nodes, [])),
    ?assertEqual([], call(A, erlang, nodes, [hidden])),
    ?assert(length(call(A, erlang, nodes, [known])) < Known + ?DOCTORS div 2),
    ?assertEqual([], call(A, ?MODULE, recorded_node_messages, [])),
    ok = call(A, logger_std_h, filesync, [file]),
    ?assertEqual({ok, <<>>}, file:read_file(Log)).

processes(Peer) -> call(Peer, erlang, system_info, [process_count]).

pending_connections(Peer) ->
    {ok, Nodes} = call(Peer, net_kernel, nodes_info, []),
    length([N || {N, Info} <- Nodes, proplists:get_value(state, Info) =/= up]).

%% Runs the program N times, ?AT_ONCE at a time. It must reach Node each time.
run_doctors(Config, Node, N) ->
    Command = lists:flatten(io_lib:format("ERL_EPMD_PORT=~b ~ts doctor ~ts >/dev/null; echo $?",
                                          [?config(epmd_port, Config), handover_ct:program("handover"), Node])),
    Workers = [spawn_monitor(fun() -> exit([os:cmd(Command) || _ <- lists:seq(1, N div ?AT_ONCE)]) end)
               || _ <- lists:seq(1, ?AT_ONCE)],
    Statuses = [receive {'DOWN', Ref, process, _, Status} -> Status end || {_, Ref} <- Workers],
    ?assertEqual(lists:duplicate(N, "0\n"), lists:append(Statuses)).

%% Through a firewall that accepts only TCP 4369

firewall(Config) ->
    Host = "host2.handover.test",
    ok = handover_hosts_SUITE:start_stock_epmd(2, Config),
    A = handover_hosts_SUITE:node(a, 1, Config),
    S = handover_hosts_SUITE:node(s, 2, Config, #{proto => "inet_tcp"}),
    try
        assert_finds({error, direct}, ["✔ registered", "fallback: 192.0.2.2:", "no answer in time", "in the firewalls"],
                     A, name(S)),
        Program = handover_ct:program("handover"),
        Dropped = handover_hosts_SUITE:in_host(1, [Program, " doctor --timeout 3s --port 4370 s@", Host], Config),
        ?assertNotEqual(nomatch, string:find(Dropped, "a firewall drops TCP port 4370"))
    after
        [handover_ct:stop_node(P) || P <- [A, S]]
    end.

%% EPMD's policy allows other hosts no lookups and no list of names, and handovers to one of its two nodes only.
policy(Config) ->
    File = filename:join(?config(priv_dir, Config), "policy.toml"),
    ok = file:write_file(File, "allow.lookups = []\nallow.names = []\nnodes.handover = [\"b\"]\n"),
    Epmd = [handover_ct:program("epmd"), " -daemon -config ", File],
    "" = handover_hosts_SUITE:in_host(2, Epmd, Config),
    Nodes = [A, B, C] = [handover_hosts_SUITE:node(N, H, Config) || {N, H} <- [{a, 1}, {b, 2}, {c, 2}]],
    try
        assert_finds({ok, handover}, ["✔ registered", "does not answer lookups from here"], A, name(B)),
        assert_finds({error, handover}, ["- registered", "the answer is 4, refused", "nodes.handover"], A, name(C)),
        assert_finds({ok, handover}, [], B, name(C))       % the policy does not apply to nodes of the same host
    after
        [handover_ct:stop_node(P) || P <- Nodes]
    end.

%% On the nodes

%% Calls handover:doctor/1 and returns its result and its output. Fails if it leaves a message in the mailbox of a
%% caller that traps exits.
doctor(Node) ->
    Caller = group_leader(),
    Collector = spawn_link(fun() -> collect_output([]) end),
    process_flag(trap_exit, true),
    group_leader(Collector, self()),
    Result = handover:doctor(Node),
    group_leader(Caller, self()),
    unlink(Collector),
    Collector ! {get, self()},
    Output = receive {Collector, Text} -> Text end,
    {messages, []} = process_info(self(), messages),
    {Result, Output}.

collect_output(Acc) ->
    receive
        {io_request, From, As, {put_chars, unicode, Chars}} -> From ! {io_reply, As, ok}, collect_output([Acc, Chars]);
        {get, From} -> From ! {self(), unicode:characters_to_list(Acc)}
    end.

%% Records the messages of net_kernel:monitor_nodes/2 on this node from now on.
record_node_messages() ->
    Self = self(),
    Recorder = spawn(fun() ->
                             true = register(?MODULE, self()),
                             ok = net_kernel:monitor_nodes(true, #{node_type => all}),
                             Self ! {self(), ready},
                             receive {get, From} -> From ! {self(), element(2, process_info(self(), messages))} end
                     end),
    receive {Recorder, ready} -> ok end.

recorded_node_messages() ->
    Recorder = whereis(?MODULE),
    Recorder ! {get, self()},
    receive {Recorder, Messages} -> Messages end.
