%% handover:doctor/1 and the program that it runs, with real nodes and EPMDs: what they find, and that nobody notices them.
%% The Go tests have each way that a step can end.
-module(handover_doctor_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-export([suite/0, all/0, init_per_testcase/2, end_per_testcase/2]).
-export([found/1, elsewhere/1, ipv6/1, nobody_there/1, node_without_handover/1, stock_epmd/1, not_allowed/1, carrier_stopped/1,
         vm_stopped/1, no_program/1, unnoticed/1, firewall/1, policy/1]).
-export([doctor/1, watch/0, watched/0]).

-define(DOCTORS, 100).
-define(AT_ONCE, 4).

suite() -> [{timetrap, {minutes, 2}}].

all() ->
    [found, elsewhere, ipv6, nobody_there, node_without_handover, stock_epmd, not_allowed, carrier_stopped, vm_stopped, no_program,
     unnoticed, firewall, policy].

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

with(Epmd, Specs, Config, Fun) -> handover_ct:with(Epmd, Specs, ?config(epmd_port, Config), Fun).
call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).
name(Peer) -> handover_ct:name(Peer).

%% What the doctor on Peer finds out about Node, with Says among what it prints.
assert_finds(Expected, Says, Peer, Node) ->
    {Result, Text} = call(Peer, ?MODULE, doctor, [Node]),
    ct:log("~ts", [Text]),
    {Expected, []} = {Result, [{Word, "is not in what it printed"} || Word <- Says, string:find(Text, Word) =:= nomatch]},
    ok.

%% what it finds

found(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 assert_finds({ok, handover}, ["✔ handshake", "it is b@127.0.0.1, ", "b@127.0.0.1 can be reached by handover."], A, name(B)),
                 assert_finds({ok, handover}, [], A, name(A)),
                 assert_finds({error, registered}, ["✘ registered", "EPMD has no node c; it has b, a\n", "- handshake\n"], A, 'c@127.0.0.1'),
                 assert_finds({error, handshake}, ["it calls itself b@127.0.0.1", "handover:connect/1"], A, 'b@localhost'),
                 assert_finds({error, resolve}, ["✘ resolve"], A, 'b@nowhere.invalid'),
                 assert_finds({error, resolve}, ["no IPv4 address, only ::1", "--inet6"], A, 'b@::1'),
                 assert_finds({error, name}, ["--b is not of the form name@host"], A, '--b')
         end).

%% It goes where a connection would.
elsewhere(Config) ->
    Set = fun(Peer, Key, Value) -> ok = call(Peer, application, set_env, [handover, Key, Value]) end,
    with(handover, [a, {b, #{host => "b.invalid"}}], Config,
         fun(A, B) ->
                 assert_finds({error, resolve}, ["✘ resolve"], A, name(B)),
                 Set(A, dial_map, [{"b@*", "localhost"}]),
                 assert_finds({ok, handover}, ["it is b@b.invalid, "], A, name(B)),
                 Set(A, dial_map, [{"b@*", {{127, 0, 0, 2}, 1}}]),
                 assert_finds({error, tcp}, ["127.0.0.2", "connection refused"], A, name(B)),
                 Set(A, dial_map, []),
                 Set(A, dial_module, no_such_module),
                 assert_finds({error, resolve}, ["✘ resolve", "no_such_module:route('b@b.invalid'): error undef"], A, name(B))
         end).

ipv6(Config) ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {error, Reason} -> {skip, io_lib:format("no IPv6 here: ~p", [Reason])};
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            with(handover, [{a, #{proto => "handover_tcp6", host => "::1"}}], Config,
                 fun(A) -> assert_finds({ok, handover}, ["✔ resolve", "::1"], A, name(A)) end)
    end.

%% From a node that is not alive.
nobody_there(Config) ->
    Port = ?config(epmd_port, Config),
    with(none, [{a, #{undistributed => true}}], Config,
         fun(A) ->
                 ?assertEqual(nonode@nohost, name(A)),
                 assert_finds({error, tcp}, ["connection refused", "start a node or an epmd there"], A, 'b@127.0.0.1'),
                 handover_ct:with_server({127, 0, 0, 1}, Port, <<"SSH-2.0-OpenSSH\r\n">>,
                   fun() -> assert_finds({error, epmd}, ["a program that is not an EPMD has port"], A, 'b@127.0.0.1') end),
                 handover_ct:with_server({127, 0, 0, 1}, Port, close,
                   fun() -> assert_finds({error, epmd}, ["closed without an answer"], A, 'b@127.0.0.1') end)
         end).

node_without_handover(Config) ->
    with(handover, [a, {b, #{proto => "inet_tcp"}}], Config,
         fun(A, B) ->
                 assert_finds({ok, direct}, ["- handover", "✔ direct", "start the node with -proto_dist handover_tcp"], A, name(B))
         end).

stock_epmd(Config) ->
    with(stock, [a, {b, #{args => ["-handover", "listen", "false"]}}], Config,
         fun(A, B) ->
                 assert_finds({ok, direct}, ["a stock EPMD", "✔ direct", "start handover's instead"], B, name(A)),
                 assert_finds({error, direct}, ["no port of its own", "`listen false`"], A, name(B)),
                 assert_finds({error, registered}, ["EPMD has no node c"], A, 'c@127.0.0.1')
         end).

not_allowed(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 ok = call(B, net_kernel, allow, [['z@127.0.0.1']]),
                 assert_finds({error, handshake}, ["its status is not_allowed", "net_kernel:allow/1"], A, name(B))
         end).

%% The checking node's own carrier is not needed; the other's is.
carrier_stopped(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 stopped(handover_ct:carrier(A), fun() -> assert_finds({error, registered}, [], A, 'c@127.0.0.1') end),
                 Carrier = handover_ct:carrier(B),
                 [begin
                      stopped(Carrier, fun() -> assert_finds({error, handover}, [Says, "for its carrier"], A, name(B)) end),
                      handover_ct:until(fun() -> element(1, call(A, ?MODULE, doctor, [name(B)])) =:= {ok, handover} end)
                  end || Says <- ["✘ handover", "no answer in time"]]  % EPMD asks for a way; then there is one, and no word
         end).

vm_stopped(Config) ->
    with(handover, [a, b], Config,
         fun(A, B) ->
                 Node = name(B),
                 stopped(list_to_integer(call(B, os, getpid, [])),
                         fun() -> assert_finds({error, handshake}, ["✔ handover", "VM does not answer"], A, Node) end)
         end).

stopped(OsPid, Fun) ->
    handover_ct:kill(OsPid, "STOP"),
    try Fun() after handover_ct:kill(OsPid, "CONT") end.

no_program(Config) ->
    Ebin = filename:join(handover_ct:copy_without_programs(Config), "ebin"),
    with(none, [{a, #{undistributed => true, args => ["-pa", Ebin]}}], Config,
         fun(A) -> ?assertMatch({{error, {program, {enoent, _}}}, ""}, call(A, ?MODULE, doctor, ['b@127.0.0.1'])) end).

%% that nobody notices it

%% Many doctors, some at a time, of a node with a link: neither it nor its carrier nor EPMD keeps a file or a process of
%% them; its log, its nodes and those who monitor nodes show nothing.
unnoticed(Config) ->
    Port = ?config(epmd_port, Config),
    Epmd = handover_ct:start_epmd(handover, Port),
    try handover_ct:with_nodes([a, b], Port, fun(A, B) -> unnoticed(handover_ct:epmd_os_pid(Epmd), A, B, Config) end)
    after handover_ct:stop_epmd(Epmd)
    end.

unnoticed(Epmd, A, B, Config) ->
    Log = filename:join(?config(priv_dir, Config), "unnoticed.log"),
    ok = call(A, logger, add_handler, [file, logger_std_h, #{level => notice, config => #{file => Log}}]),
    Other = handover_ct:connect(A, B),
    ok = call(A, ?MODULE, watch, []),
    assert_reached(Config, name(A), ?AT_ONCE),               % now the channel is there, and the names
    handover_ct:until(fun() -> pending(A) =:= 0 end),
    {Fds, Processes, Known} = {handover_ct:own_fds(A), processes(A), length(call(A, erlang, nodes, [known]))},
    Others = [{P, handover_ct:fds(P)} || P <- [Epmd, handover_ct:carrier(A)]],
    assert_reached(Config, name(A), ?DOCTORS),
    handover_ct:own_fds_are(A, Fds),
    [handover_ct:until(fun() -> More = handover_ct:fds(P) -- F, More =:= [] orelse {P, More} end) || {P, F} <- Others],
    handover_ct:until(fun() -> processes(A) =< Processes orelse {processes(A), Processes} end),
    ?assertEqual([Other], call(A, erlang, nodes, [])),
    ?assertEqual([], call(A, erlang, nodes, [hidden])),
    ?assert(length(call(A, erlang, nodes, [known])) < Known + ?DOCTORS div 2),
    ?assertEqual([], call(A, ?MODULE, watched, [])),
    ok = call(A, logger_std_h, filesync, [file]),
    ?assertEqual({ok, <<>>}, file:read_file(Log)).

processes(Peer) -> call(Peer, erlang, system_info, [process_count]).

%% Connections that are coming up.
pending(Peer) ->
    {ok, Nodes} = call(Peer, net_kernel, nodes_info, []),
    length([N || {N, Info} <- Nodes, proplists:get_value(state, Info) =/= up]).

%% The program, N times.
assert_reached(Config, Node, N) ->
    Command = lists:flatten(io_lib:format("ERL_EPMD_PORT=~b ~ts doctor ~ts >/dev/null; echo $?",
                                          [?config(epmd_port, Config), handover_ct:program("handover"), Node])),
    Workers = [spawn_monitor(fun() -> exit([os:cmd(Command) || _ <- lists:seq(1, N div ?AT_ONCE)]) end)
               || _ <- lists:seq(1, ?AT_ONCE)],
    Statuses = [receive {'DOWN', Ref, process, _, Status} -> Status end || {_, Ref} <- Workers],
    ?assertEqual(lists:duplicate(N, "0\n"), lists:append(Statuses)).

%% through a firewall that lets nothing in but TCP 4369

firewall(Config) ->
    Host = "host2.handover.test",
    ok = start_stock_epmd(Config),
    A = handover_hosts_SUITE:node(a, 1, Config),
    S = handover_hosts_SUITE:node(s, 2, Config, #{proto => "inet_tcp"}),
    try
        assert_finds({error, direct}, ["✔ registered", "fallback: 192.0.2.2:", "no answer in time", "in the firewalls"], A, name(S)),
        Program = handover_ct:program("handover"),
        Dropped = handover_hosts_SUITE:in_host(1, [Program, " doctor --timeout 3s --port 4370 s@", Host], Config),
        ?assertNotEqual(nomatch, string:find(Dropped, "a firewall drops TCP port 4370"))
    after
        [handover_ct:stop_node(P) || P <- [A, S]]
    end.

start_stock_epmd(Config) ->
    "" = handover_hosts_SUITE:in_host(2, "epmd -daemon", Config),
    handover_ct:until(fun() -> string:find(handover_hosts_SUITE:in_host(2, "epmd -names", Config), "running") =/= nomatch end).

%% No lookups, no list of names, and of two nodes one to be handed over to.
policy(Config) ->
    File = filename:join(?config(priv_dir, Config), "policy.toml"),
    ok = file:write_file(File, "allow.lookups = []\nallow.names = []\nnodes.handover = [\"b\"]\n"),
    Epmd = [handover_ct:program("epmd"), " -daemon -config ", File],
    "" = handover_hosts_SUITE:in_host(2, Epmd, Config),
    Nodes = [A, B, C] = [handover_hosts_SUITE:node(N, H, Config) || {N, H} <- [{a, 1}, {b, 2}, {c, 2}]],
    try
        assert_finds({ok, handover}, ["✔ registered", "does not answer lookups from here"], A, name(B)),
        assert_finds({error, handover}, ["- registered", "the answer is 4, refused", "nodes.handover"], A, name(C)),
        assert_finds({ok, handover}, [], B, name(C))       % a host's own nodes are free of policy
    after
        [handover_ct:stop_node(P) || P <- Nodes]
    end.

%% on the nodes

%% The result of handover:doctor/1, what it printed, and that it left nothing in the mailbox of one who traps exits.
doctor(Node) ->
    Caller = group_leader(),
    Printed = spawn_link(fun() -> printed([]) end),
    process_flag(trap_exit, true),
    group_leader(Printed, self()),
    Result = handover:doctor(Node),
    group_leader(Caller, self()),
    unlink(Printed),
    Printed ! {text, self()},
    Text = receive {Printed, Chars} -> Chars end,
    {messages, []} = process_info(self(), messages),
    {Result, Text}.

printed(Acc) ->
    receive
        {io_request, From, As, {put_chars, unicode, Chars}} -> From ! {io_reply, As, ok}, printed([Acc, Chars]);
        {text, From} -> From ! {self(), unicode:characters_to_list(Acc)}
    end.

%% Keeps what net_kernel says of nodes.
watch() ->
    Self = self(),
    Watcher = spawn(fun() ->
                            true = register(?MODULE, self()),
                            ok = net_kernel:monitor_nodes(true, #{node_type => all}),
                            Self ! {self(), ready},
                            receive {watched, From} -> From ! {self(), element(2, process_info(self(), messages))} end
                    end),
    receive {Watcher, ready} -> ok end.

watched() ->
    Watcher = whereis(?MODULE),
    Watcher ! {watched, self()},
    receive {Watcher, Messages} -> Messages end.
