%% `make bench`: measures handover and its rivals alternately in one run. bench/run.sh starts it with the directory that contains
%% the programs; it writes results.json there.
%%
%% A row contains the values of each round, for the rival and for handover, and the ratio of each round. Other load on the machine
%% affects both measurements of a round. The order of the two alternates from round to round.
-module(handover_bench).

-export([main/1]).
-export([small/2, terms/3, rpc/2, echo/1]).
-export([hold_memory/1, keep/0, await_nodedown/2, wait_until/1, halt_at/1, disconnect_at/2, mesh/1]).

-define(ROUNDS, 7).
-define(PATH_ROUNDS, 15).
-define(PATH_TURNS, 3).
-define(MESSAGES, 100000).
-define(END_ROUNDS, 7).
-define(END_MEMORY, 1 bsl 30).
-define(MESH_HOST, 20).
-define(MESH_ROUNDS, 3).

%% With all parts it writes the results to a file; otherwise it only prints the ratios.
main([Dir]) ->
    Rows = lists:append([run_part(Part, Dir) || Part <- ["path", "connect", "ends", "mesh", "epmd", "handovers", "rest"]]),
    ok = file:write_file(filename:join(Dir, "results.json"), [json(#{machine => machine(), rows => Rows}), "\n"]),
    halt();
main([Dir | Parts]) ->
    [print_ratio(Row) || Part <- Parts, Row <- run_part(Part, Dir)],
    halt().

run_part(Part, Dir) ->
    io:format("~ts~n", [Part]),
    case Part of
        "path" -> data_path(Dir);
        "connect" -> loopback_connect() ++ delayed_connects(Dir);
        "ends" -> ends(Dir);
        "mesh" -> meshes(Dir);
        "epmd" -> lookups(Dir) ++ registrations(Dir) ++ many_names(Dir);
        "handovers" -> handovers(Dir);
        "rest" -> boot() ++ at_rest()
    end.

print_ratio(#{ratio := []}) -> ok;
print_ratio(#{title := Title, ratio := Ratio}) -> io:format("  ~ts: ratio ~.2f~n", [Title, median(Ratio)]).

%% Calls Stock and Ours once in each round, and returns the two lists of results.
pairs(Rounds, Stock, Ours) ->
    lists:unzip([case N rem 2 of
                     0 -> S = Stock(), {S, Ours()};
                     1 -> O = Ours(), {Stock(), O}
                 end || N <- lists:seq(1, Rounds)]).

row(Id, Title, Unit, {Stock, Ours}, Target) ->
    io:format("  ~ts: ~.1f ~ts, stock ~.1f~n", [Title, median(Ours), Unit, median(Stock)]),
    #{id => Id, title => Title, unit => Unit, stock => Stock, handover => Ours,
      ratio => [O / max(S, 0.001) || {S, O} <- lists:zip(Stock, Ours)], target => Target}.

%% A row for a measure without a rival.
row_without_rival(Id, Title, Unit, Ours, Target) ->
    io:format("  ~ts: ~.1f ~ts~n", [Title, float(median(Ours)), Unit]),
    #{id => Id, title => Title, unit => Unit, stock => [], handover => [float(X) || X <- Ours], ratio => [], target => Target}.

median(List) -> lists:nth((length(List) + 1) div 2, lists:sort(List)).
quantile(Q, List) -> lists:nth(max(1, round(Q * length(List))), lists:sort(List)).

%% (a) data path

%% Where the kernel puts the threads of a BEAM changes the result of a pair of nodes more than the protocol does, and the kernel
%% seldom moves them. So each round starts new pairs, with one processor for each node. The remaining chance is measured too: the
%% rows that compare two pairs with inet_tcp should have a ratio of 1.
data_path(Dir) ->
    Rounds = [path_round(N) || N <- lists:seq(1, ?PATH_ROUNDS)],
    Of = fun(Kind, Key) -> [maps:get(Key, maps:get(Kind, Round)) || Round <- Rounds] end,
    Row = fun({Key, Title, Unit, Target}, Other, Id, More) ->
                  row(list_to_atom(Id ++ atom_to_list(Key)), Title ++ More, Unit, {Of(stock, Key), Of(Other, Key)}, Target)
          end,
    Measures = [{small, "small messages", "msg/s", #{ge => 0.98}},
                {small_cpu, "processor time of both nodes for a small message", "ns", #{le => 1.02}},
                {mib, "1 MiB terms", "MB/s", #{ge => 0.98}},
                {mib64, "64 MiB terms", "MB/s", #{ge => 0.98}},
                {rpc50, "rpc, median", "us", #{le => 1.02}},
                {rpc99, "rpc, 99th percentile", "us", #{le => 1.2}}],
    [Row(M, ours, "", "") || M <- Measures]
        ++ [Row(setelement(4, M, none), again, "again_", ": inet_tcp compared with inet_tcp") || M <- Measures]
        ++ tls_rows(Dir).

%% Measures three pairs of nodes in turns, and returns the median of the turns for each pair.
path_round(N) ->
    Kinds = case N rem 3 of
                0 -> [stock, ours, again];
                1 -> [ours, again, stock];
                2 -> [again, stock, ours]
            end,
    with_pairs([{K, []} || K <- Kinds], [], fun(Pairs) ->
        _ = [call_a(P, small, [20000]) || {_, P} <- Pairs],
        Turns = [[{K, measure_path(P)} || {K, P} <- Pairs] || _ <- lists:seq(1, ?PATH_TURNS)],
        maps:from_list([{K, medians([M || Turn <- Turns, {Kind, M} <- Turn, Kind =:= K])} || K <- Kinds])
    end).

medians([First | _] = Maps) ->
    maps:map(fun(Key, _) -> median([maps:get(Key, M) || M <- Maps]) end, First).

measure_path({A, B} = P) ->
    Cpu = fun() -> lists:sum([cpu_us(handover_ct:call(X, os, getpid, [])) || X <- [A, B]]) end,
    Before = Cpu(),
    Small = call_a(P, small, [?MESSAGES]),
    After = Cpu(),
    {Rpc50, Rpc99} = call_a(P, rpc, [1500]),
    #{small => Small, small_cpu => (After - Before) * 1000 / ?MESSAGES, mib => call_a(P, terms, [1 bsl 20, 200]),
      mib64 => call_a(P, terms, [64 bsl 20, 4]), rpc50 => Rpc50, rpc99 => Rpc99}.

%% inet_tls takes several times as long, much more than the placement of threads explains, so one set of pairs is enough.
tls_rows(Dir) ->
    with_pairs([{stock, []}, {ours, []}, {tls, tls_args(Dir)}], [], fun(Pairs) ->
        Load = fun(Kind, F, Args) -> fun() -> call_a(proplists:get_value(Kind, Pairs), F, Args) end end,
        Row = fun(Id, Title, Unit, F, Args) ->
                      row(Id, Title ++ ": handover compared with inet_tls", Unit, pairs(3, Load(tls, F, Args), Load(ours, F, Args)), none)
              end,
        [Row(tls_small, "small messages", "msg/s", small, [100000]),
         Row(tls_mib, "1 MiB terms", "MB/s", terms, [1 bsl 20, 50])]
    end).

%% Calls Fun with connected pairs of nodes. Each pair has its own EPMD and, if the machine has two processors, one for each node.
with_pairs([], Pairs, Fun) ->
    Fun(lists:reverse(Pairs));
with_pairs([{Kind, Args} | Kinds], Pairs, Fun) ->
    [A, B] = [#{args => Args, exec => erl_on_processor(N)} || N <- ["0", "1"]],
    with_pair(Kind, A, B, fun(Pair) -> with_pairs(Kinds, [{Kind, Pair} | Pairs], Fun) end).

erl_on_processor(Processor) ->
    Erl = os:find_executable("erl"),
    case os:cmd("taskset -c 0,1 true") of
        "" -> {os:find_executable("taskset"), ["-c", Processor, Erl]};
        _ -> Erl
    end.

with_pair(Kind, OptionsA, OptionsB, Fun) ->
    {Proto, Epmd} = protocol(Kind),
    Specs = [{a, OptionsA#{proto => Proto}}, {b, OptionsB#{proto => Proto}}],
    handover_ct:with_cluster(Epmd, Specs, handover_ct:free_port(),
                             fun(A, B) -> handover_ct:connect(A, B), Fun({A, B}) end).

protocol(ours) -> {"handover_tcp", handover};
protocol(tls) -> {"inet_tls", stock};
protocol(_) -> {"inet_tcp", stock}.

%% Calls F on A, with B's name as the first argument.
call_a({A, B}, F, Args) -> handover_ct:call(A, ?MODULE, F, [handover_ct:name(B) | Args], 120000).

tls_args(Dir) ->
    Pem = filename:join(Dir, "tls.pem"),
    ["-ssl_dist_opt", "server_certfile", Pem, "server_keyfile", Pem, "server_verify", "verify_none", "client_verify", "verify_none"].

small(Node, Count) ->
    Pid = spawn(Node, ?MODULE, echo, [self()]),
    Start = erlang:monotonic_time(microsecond),
    _ = [Pid ! {message, N} || N <- lists:seq(1, Count)],
    answered(Pid, Start, Count).

terms(Node, Size, Count) ->
    Pid = spawn(Node, ?MODULE, echo, [self()]),
    Data = binary:copy(<<7>>, Size),
    Start = erlang:monotonic_time(microsecond),
    _ = [Pid ! {data, Data} || _ <- lists:seq(1, Count)],
    answered(Pid, Start, Size * Count / 1.0e6).

answered(Pid, Start, Amount) ->
    Pid ! last,
    receive {Pid, done} -> Amount / ((erlang:monotonic_time(microsecond) - Start) / 1.0e6)
    after 60000 -> error(no_answer)
    end.

echo(From) ->
    receive last -> From ! {self(), done}; {_, _} -> echo(From) end.

rpc(Node, Count) ->
    Took = [element(1, timer:tc(fun() -> Node = erpc:call(Node, erlang, node, []) end)) || _ <- lists:seq(1, Count)],
    {float(quantile(0.5, Took)), float(quantile(0.99, Took))}.

%% (b) connect

%% The nodes are hidden, so that global does not connect them again. Each round has new pairs, as for the data path, but they are
%% not bound to a processor, because carriers and EPMD take part.
loopback_connect() ->
    Hidden = #{args => ["-hidden"]},
    Round = fun(Kind) -> fun() -> with_pair(Kind, Hidden, Hidden, fun(P) -> median_connect_us(P, 30) end) end end,
    [row(connect, "connect on loopback, median", "us", pairs(?PATH_ROUNDS, Round(stock), Round(ours)), #{le => 1.0})].

%% The median time of Count connects, in us. Before each, both ends must have seen the disconnect.
median_connect_us({A, B}, Count) ->
    Node = handover_ct:name(B),
    float(median([begin
                      handover_ct:until(fun() -> disconnect(A, B, Node) end),
                      connect_us(A, Node)
                  end || _ <- lists:seq(1, Count)])).

%% One of some thousands of connects directly after a disconnect gets no answer and fails after net_setuptime, with inet_tcp and
%% with handover. It is tried again, and the second attempt counts.
connect_us(A, Node) ->
    case handover_ct:call(A, timer, tc, [net_kernel, connect_node, [Node]]) of
        {Us, true} -> Us;
        {_, false} -> io:format("  a connect got no answer; trying again~n"), connect_us(A, Node)
    end.

%% Disconnects A from Node, which is B, and tells whether both have no connection any more.
disconnect(A, B, Node) ->
    _ = handover_ct:call(A, erlang, disconnect_node, [Node]),
    lists:all(fun(P) -> handover_ct:call(P, erlang, nodes, [connected]) =:= [] end, [A, B]).

delayed_connects(Dir) ->
    case os:cmd(filename:join([handover_ct:root(), "ct", "hosts.sh"]) ++ " check") of
        "" ->
            Points = [{Ms, connects_over_delay(Dir, Ms)} || Ms <- [0, 10, 50, 200]],
            [row(list_to_atom(lists:concat([rtt, Ms])), lists:concat(["connect at ", Ms, " ms round trip, median"]), "us", P, none)
             || {Ms, P} <- Points]
                ++ [slope_row(Points)];
        Reason ->
            io:format("  skipped connects over a delay: ~ts", [Reason]),
            []
    end.

%% A least-squares fit for each round. The slope, ms of connect per ms of round trip, is the number of round trips.
slope_row(Points) ->
    Rounds = length(element(1, element(2, hd(Points)))),
    Slopes = fun(Which) -> [fit_slope(N, [{Ms, element(Which, P)} || {Ms, P} <- Points]) || N <- lists:seq(1, Rounds)] end,
    row(slope, "round trips of a connect (slope)", "round trips", {Slopes(1), Slopes(2)}, #{value_ge => 2.95, value_le => 3.1}).

fit_slope(Round, Points) ->
    Xs = [Ms * 1000.0 || {Ms, _} <- Points],
    Ys = [lists:nth(Round, Us) || {_, Us} <- Points],
    {Mx, My} = {lists:sum(Xs) / length(Xs), lists:sum(Ys) / length(Ys)},
    lists:sum([(X - Mx) * (Y - My) || {X, Y} <- lists:zip(Xs, Ys)]) / lists:sum([(X - Mx) * (X - Mx) || X <- Xs]).

connects_over_delay(Dir, Ms) ->
    with_hosts(Dir, Ms, fun(NsA, NsB) ->
        Ports = [{"inet_tcp", 4369}, {"handover_tcp", 4370}],
        [[SA, SB], [OA, OB]] = [[start_node_on_host(Name, Ip, Ns, Proto, Port) || {Name, Ip, Ns} <- [{a, "198.18.0.1", NsA},
                                                                                       {b, "198.18.0.2", NsB}]]
                                || {Proto, Port} <- Ports],
        Connects = fun(P) -> fun() -> median_connect_us(P, 3) end end,
        Result = pairs(5, Connects({SA, SB}), Connects({OA, OB})),
        _ = [handover_ct:stop_node(P) || P <- [SA, SB, OA, OB]],
        Result
    end).

%% Calls Fun with two hosts that have a round trip of Ms between them. On each, the stock epmd runs on port 4369 and handover's on
%% port 4370.
with_hosts(Dir, Ms, Fun) ->
    [NsA, NsB] = Names = [os:getenv("HANDOVER_BENCH_HOSTS") ++ X || X <- ["-host1", "-host2"]],
    _ = [begin "" = os:cmd("ip netns add " ++ N), "" = os:cmd("ip -n " ++ N ++ " link set lo up") end || N <- Names],
    Delay = io_lib:format("~pus", [Ms * 500]),
    Line = open_port({spawn_executable, filename:join(Dir, "delayline")},
                     [{args, ["-a", NsA, "-b", NsB, "-addr-a", "198.18.0.1/30", "-addr-b", "198.18.0.2/30", "-delay",
                              lists:flatten(Delay)]}, {line, 200}]),
    receive {Line, {data, {eol, "ready" ++ _}}} -> ok after 15000 -> error(no_delay_line) end,
    try
        _ = [os:cmd(lists:concat(["ip netns exec ", N, " ", Epmd, " -port ", Port, " -daemon"]))
             || N <- Names, {Epmd, Port} <- [{os:find_executable("epmd"), 4369}, {handover_ct:program("epmd"), 4370}]],
        Fun(NsA, NsB)
    after
        port_close(Line),
        _ = [begin _ = os:cmd("ip netns pids " ++ N ++ " | xargs -r kill -KILL"), os:cmd("ip netns del " ++ N) end || N <- Names]
    end.

start_node_on_host(Name, Ip, Ns, Proto, Port) ->
    handover_ct:start_node(Name, #{epmd_port => Port, proto => Proto, host => Ip, args => ["-hidden"],
                                   exec => {os:find_executable("ip"), ["netns", "exec", Ns, os:find_executable("erl")]}}).

%% the end of a link

%% The time from the end of node B, or of its link, to nodedown on node A, by one clock. For halt and kill, B holds memory, which
%% the kernel has to free, with inet_tcp too.
ends(Dir) ->
    Round = fun(Kind, How) ->
                    fun() -> with_pair(Kind, #{args => ["-hidden"]}, #{args => ["-hidden"]}, fun(P) -> nodedown_us(How, P, Dir) end) end
            end,
    [row(Id, Title, "us", pairs(?END_ROUNDS, Round(stock, How), Round(ours, How)), #{le => 1.2})
     || {Id, Title, How} <- [{end_halt, "nodedown after halt with 1 GiB of memory", halt_at},
                             {end_kill, "nodedown after SIGKILL with 1 GiB of memory", kill},
                             {end_disconnect, "nodedown after disconnect_node, median of 20", disconnect_at}]].

nodedown_us(kill, {A, B}, Dir) ->
    OsPid = fill_memory(B),
    float(us_until_nodedown(A, B, fun() ->
                                   list_to_integer(string:trim(os:cmd(lists:concat([Dir, "/epmdbench kill -pid ", OsPid]))))
                       end));
nodedown_us(halt_at, {A, B}, _) ->
    _ = fill_memory(B),
    float(us_until_nodedown(A, B, schedule_at(B, halt_at, [])));
nodedown_us(disconnect_at, {A, B}, _) ->
    Node = handover_ct:name(A),
    float(median([begin
                      handover_ct:until(fun() -> handover_ct:call(A, net_kernel, connect_node, [handover_ct:name(B)]) end),
                      us_until_nodedown(A, B, schedule_at(B, disconnect_at, [Node]))
                  end || _ <- lists:seq(1, 20)])).

%% Lets B hold memory, and returns its operating system pid.
fill_memory(B) ->
    ok = handover_ct:call(B, ?MODULE, hold_memory, [?END_MEMORY], 120000),
    list_to_integer(handover_ct:call(B, os, getpid, [])).

%% The time from End to nodedown of B on A, in us. End() ends the link and returns when, in Unix microseconds.
us_until_nodedown(A, B, End) ->
    Self = self(),
    Waiter = spawn_link(fun() -> Self ! {self(), handover_ct:call(A, ?MODULE, await_nodedown, [handover_ct:name(B), watching])} end),
    handover_ct:until(fun() -> is_pid(handover_ct:call(A, erlang, whereis, [watching])) end),
    Ended = End(),
    receive {Waiter, Seen} -> Seen - Ended end.

%% A fun for us_until_nodedown: B calls Function in 50 ms, when everything else is at rest.
schedule_at(B, Function, Args) ->
    fun() ->
            Time = os:system_time(microsecond) + 50000,
            _ = handover_ct:call(B, erlang, spawn, [?MODULE, Function, Args ++ [Time]]),
            Time
    end.

hold_memory(Size) ->
    Pid = spawn(?MODULE, keep, []),
    Pid ! binary:copy(<<7>>, Size),
    ok.

keep() -> receive Data when is_binary(Data) -> keep(Data) end.
keep(Data) -> receive never -> Data end.

await_nodedown(Node, Name) ->
    ok = net_kernel:monitor_nodes(true, [{node_type, all}]),
    true = register(Name, self()),
    receive {nodedown, Node, _} -> Seen = os:system_time(microsecond) end,
    ok = net_kernel:monitor_nodes(false, [{node_type, all}]),
    true = unregister(Name),
    Seen.

wait_until(Time) ->
    case os:system_time(microsecond) of
        Now when Now < Time -> wait_until(Time);
        _ -> ok
    end.

halt_at(Time) -> wait_until(Time), erlang:halt().

disconnect_at(Node, Time) -> wait_until(Time), erlang:disconnect_node(Node).

%% a mesh

%% All nodes connect to all others at the same time. Measured until every node is connected to every other.
meshes(Dir) ->
    case os:cmd(filename:join([handover_ct:root(), "ct", "hosts.sh"]) ++ " check") of
        "" ->
            [row(list_to_atom(lists:concat([mesh, Ms])), lists:concat([2 * ?MESH_HOST, " nodes on two hosts form a full mesh, ", Ms, " ms delay"]),
                 "ms", with_hosts(Dir, Ms, fun mesh_rounds/2), #{le => 1.0}) || Ms <- [0, 50]];
        Reason ->
            io:format("  skipped meshes: ~ts", [Reason]),
            []
    end.

mesh_rounds(NsA, NsB) ->
    Round = fun(Proto, Port) -> fun() -> mesh_ms(NsA, NsB, Proto, Port) end end,
    pairs(?MESH_ROUNDS, Round("inet_tcp", 4369), Round("handover_tcp", 4370)).

mesh_ms(NsA, NsB, Proto, Port) ->
    Hosts = [{"198.18.0.1", NsA}, {"198.18.0.2", NsB}],
    Nodes = [start_node_on_host(lists:concat([n, N]), Ip, Ns, Proto, Port) || N <- lists:seq(1, ?MESH_HOST), {Ip, Ns} <- Hosts],
    try
        Names = [handover_ct:name(P) || P <- Nodes],
        Self = self(),
        Start = erlang:monotonic_time(microsecond),
        Callers = [spawn_link(fun() -> Self ! {self(), handover_ct:call(P, ?MODULE, mesh, [Names], 120000)} end) || P <- Nodes],
        _ = [receive {C, ok} -> ok end || C <- Callers],
        (erlang:monotonic_time(microsecond) - Start) / 1000
    after
        _ = [handover_ct:stop_node(P) || P <- Nodes]
    end.

mesh(Names) ->
    Self = self(),
    Others = Names -- [node()],
    Pids = [spawn(fun() -> _ = net_kernel:connect_node(N), Self ! {self(), connected} end) || N <- Others],
    _ = [receive {P, connected} -> ok end || P <- Pids],
    case Others -- nodes(connected) of
        [] -> ok;
        _ -> mesh(Names)
    end.

%% (c), (e) EPMD

%% Runs epmdbench. Returns {PerSecond, P50, P99}, the last two in us.
load(Dir, What, Port, More) ->
    {_, PerSecond, P50, P99} = run_epmdbench(Dir, What, Port, More),
    {PerSecond, P50, P99}.

%% Also returns the processor time of Epmd for each request, in us. Only this value is not affected by the processor time that the
%% load itself needs.
load(Dir, What, Port, More, Epmd) ->
    OsPid = handover_ct:epmd_os_pid(Epmd),
    Before = cpu_us(OsPid),
    {Count, PerSecond, P50, P99} = run_epmdbench(Dir, What, Port, More),
    {PerSecond, P50, P99, (cpu_us(OsPid) - Before) / Count}.

run_epmdbench(Dir, What, Port, More) ->
    Output = os:cmd(lists:concat([filename:join(Dir, "epmdbench"), " ", What, " -port ", Port, " ", More])),
    case re:run(Output, "[:]([0-9.e+]+)", [global, {capture, all_but_first, list}]) of
        {match, [_, _, _, _] = Numbers} -> list_to_tuple([number(N) || [N] <- Numbers]);
        _ -> error({load_failed, What, Output})
    end.

%% The processor time of all threads of a process, in us.
cpu_us(OsPid) ->
    lists:sum([list_to_integer(hd(string:lexemes(binary_to_list(Text), " ")))
               || F <- filelib:wildcard(lists:concat(["/proc/", OsPid, "/task/*/schedstat"])), {ok, Text} <- [file:read_file(F)]]) / 1000.

number(Text) ->
    case string:to_float(Text) of
        {error, no_float} -> float(list_to_integer(Text));
        {Float, _} -> Float
    end.

with_epmds(Fun) ->
    [P1, P2] = [handover_ct:free_port(), handover_ct:free_port()],
    Stock = handover_ct:start_epmd(stock, P1),
    Ours = handover_ct:start_epmd(handover, P2),
    try Fun({Stock, P1}, {Ours, P2})
    after handover_ct:stop_epmd(Stock), handover_ct:stop_epmd(Ours)
    end.

lookups(Dir) ->
    with_epmds(fun({Stock, P1}, {Ours, P2}) ->
      Holds = [hold_names(Dir, P, 10) || P <- [P1, P2]],
      Rows = [begin
                  More = lists:concat(["-name n00003 -duration 1s -clients ", Clients]),
                  {S, O} = pairs(?ROUNDS, fun() -> load(Dir, "lookups", P1, More, Stock) end, fun() -> load(Dir, "lookups", P2, More, Ours) end),
                  Id = fun(What) -> list_to_atom(lists:concat([lookups, What, Clients])) end,
                  Title = fun(What) -> lists:concat([What, ", ", Clients, case Clients of 1 -> " client"; _ -> " clients" end]) end,
                  Nth = fun(N) -> {[element(N, X) || X <- S], [element(N, X) || X <- O]} end,
                  [row(Id(""), Title("lookups"), "/s", Nth(1), target(Clients, #{ge => 1.3})),
                   row(Id(p50_), Title("lookup, median"), "us", Nth(2), none),
                   row(Id(p99_), Title("lookup, 99th percentile"), "us", Nth(3), target(Clients, #{le => 1.0})),
                   row(Id(cpu_), Title("EPMD's processor time for a lookup"), "us", Nth(4), none)]
              end || Clients <- [1, 8, 32, 64]],
      lists:foreach(fun port_close/1, Holds),
      lists:append(Rows)
    end).

target(32, Target) -> Target;
target(_, _) -> none.

%% Registers Count names until the port is closed.
hold_names(Dir, Port, Count) ->
    Hold = open_port({spawn_executable, filename:join(Dir, "epmdbench")},
                     [{args, ["register", "-hold", "-port", integer_to_list(Port), "-count", integer_to_list(Count)]}, {line, 200}]),
    receive {Hold, {data, {eol, _}}} -> Hold after 60000 -> error({no_names, Port, Count}) end.

registrations(Dir) ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      {S, O} = pairs(5, fun() -> load(Dir, "register", P1, "-count 500") end, fun() -> load(Dir, "register", P2, "-count 500") end),
      [row(registrations, "registrations, one after another", "/s", {[element(1, X) || X <- S], [element(1, X) || X <- O]}, none)]
    end).

%% Two of handover's EPMDs at the same time, one of them with ten names. The stock epmd is no rival here, because it holds only
%% about 1,017 names.
many_names(Dir) ->
    lists:append([name_rows(Dir, Count) || Count <- [1000, 10000]]).

name_rows(Dir, Count) ->
    Ports = [P1, P2] = [handover_ct:free_port(), handover_ct:free_port()],
    Epmds = [E1, E2] = [handover_ct:start_epmd(handover, P) || P <- Ports],
    Holds = [hold_names(Dir, P1, 10), hold_names(Dir, P2, Count)],
    Load = fun(P, E) -> fun() -> load(Dir, "lookups", P, "-name n00003 -duration 1s -clients 8", E) end end,
    {Few, Many} = pairs(?ROUNDS, Load(P1, E1), Load(P2, E2)),
    lists:foreach(fun port_close/1, Holds),
    lists:foreach(fun handover_ct:stop_epmd/1, Epmds),
    [row(list_to_atom(lists:concat([Id, Count])),
         lists:concat([Title, " with ", Count, " names; rival: handover's EPMD with 10 names"]), Unit,
         {[element(N, X) || X <- Few], [element(N, X) || X <- Many]}, Target)
     || {Id, Title, Unit, N, Target} <- [{names, "lookups", "/s", 1, #{ge => 0.85}},
                                         {names_cpu, "EPMD's processor time for a lookup", "us", 4, none}]].

%% (d) handovers

%% The rival is what a node without handover does to connect: a lookup and a dial. Connections to a BEAM are measured until its
%% challenge arrives.
handovers(Dir) ->
    [handovers_to_programs(Dir), handovers_to_beams(Dir)].

handovers_to_programs(Dir) ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      Nodes = [start_program(Dir, Kind, P) || {Kind, P} <- [{"listener", P1}, {"carrier", P2}]],
      Pairs = connections(Dir, P1, P2, ""),
      lists:foreach(fun port_close/1, Nodes),
      row(chain, "handovers through EPMD and carrier; rival: lookup and dial", "/s", Pairs, #{ge => 1.0})
    end).

handovers_to_beams(Dir) ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      handover_ct:with_nodes([{n, #{proto => "inet_tcp", epmd_port => P1}}, {n, #{proto => "handover_tcp", epmd_port => P2}}], P1,
        fun(_, _) ->
          row(beam, "connections to a BEAM, until its challenge arrives", "/s", connections(Dir, P1, P2, "-handshake "), #{ge => 0.95})
        end)
    end).

connections(Dir, P1, P2, More) ->
    Load = fun(What, Port) -> fun() -> element(1, load(Dir, What, Port, More ++ "-name n -duration 1s -clients 16")) end end,
    pairs(?ROUNDS, Load("dials", P1), Load("handovers", P2)).

%% Starts epmdbench in the place of a node.
start_program(Dir, Kind, Port) ->
    Node = open_port({spawn_executable, filename:join(Dir, "epmdbench")},
                     [{args, [Kind, "-name", "n", "-port", integer_to_list(Port), "-program", handover_ct:program("handover")]}, {line, 200}]),
    receive {Node, {data, {eol, "ready"}}} -> Node after 15000 -> error({no_node, Kind}) end.

%% (f) boot, rest

boot() ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      {S, O} = pairs(15, fun() -> boot_ms("inet_tcp", P1) end, fun() -> boot_ms("handover_tcp", P2) end),
      Extra = [Y - X || {X, Y} <- lists:zip(S, O)],
      [row(boot, "boot of a node", "ms", {S, O}, none),
       row_without_rival(boot_over, "boot of a node, more than with inet_tcp", "ms", [median(Extra)], #{value_le => 30})]
    end).

boot_ms(Proto, Port) ->
    Start = erlang:monotonic_time(microsecond),
    _ = handover_ct:run_node("boot", Port, [], ["-eval", "halt()."], Proto),
    (erlang:monotonic_time(microsecond) - Start) / 1000.

at_rest() ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    A = handover_ct:start_node(a, #{epmd_port => Port}),
    try
        Rows = [begin
                    await_rest(OsPid, 10),
                    Before = context_switches(OsPid),
                    timer:sleep(10000),
                    [row_without_rival(list_to_atom(Name ++ "_rss"), Name ++ " at rest, RSS", "MB", [rss_mb(OsPid)],
                                       #{value_le => 12}),
                     row_without_rival(list_to_atom(Name ++ "_wakeups"), Name ++ " at rest, context switches in 10 s", "times",
                                       [context_switches(OsPid) - Before], #{value_le => 0})]
                end || {Name, OsPid} <- [{"epmd", handover_ct:epmd_os_pid(Epmd)},
                                         {"carrier", handover_ct:carrier_os_pid(A)}]],
        lists:append(Rows)
    after
        handover_ct:stop_node(A),
        handover_ct:stop_epmd(Epmd)
    end.

%% Waits until a second passes without a context switch, at most so many seconds: at first Go's runtime works in the
%% background.
await_rest(_, 0) ->
    ok;
await_rest(OsPid, Seconds) ->
    Before = context_switches(OsPid),
    timer:sleep(1000),
    case context_switches(OsPid) of
        Before -> ok;
        _ -> await_rest(OsPid, Seconds - 1)
    end.

rss_mb(OsPid) -> sum_matches(["/proc/" ++ integer_to_list(OsPid) ++ "/status"], "VmRSS:\\s+([0-9]+)") / 1024.

context_switches(OsPid) -> sum_matches(filelib:wildcard(lists:concat(["/proc/", OsPid, "/task/*/status"])), "ctxt_switches:\\s+([0-9]+)").

sum_matches(Files, Pattern) ->
    lists:sum([list_to_integer(N) || F <- Files, {ok, Text} <- [file:read_file(F)],
                                     {match, Ms} <- [re:run(Text, Pattern, [global, {capture, all_but_first, list}])], [N] <- Ms]).

%% output

machine() ->
    Line = fun(Command) -> string:trim(os:cmd(Command)) end,
    #{cpu => Line("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1"), cores => erlang:system_info(logical_processors),
      memory_gib => list_to_integer(Line("awk '/MemTotal/{print int($2/1048576)}' /proc/meminfo")), kernel => Line("uname -sr"),
      otp => erlang:system_info(otp_release), go => Line("go env GOVERSION"), date => Line("date -u +%F")}.

json(Map) when is_map(Map) ->
    ["{", lists:join(",", [[json(K), ":", json(V)] || {K, V} <- lists:sort(maps:to_list(Map))]), "}"];
json(Atom) when is_atom(Atom) -> [$", atom_to_list(Atom), $"];
json(Integer) when is_integer(Integer) -> integer_to_list(Integer);
json(Float) when is_float(Float) -> io_lib:format("~.4f", [Float]);
json([C | _] = Text) when is_integer(C), C > 31 -> [$", [[$\\ || X =:= $"] ++ [X] || X <- Text], $"];
json(List) when is_list(List) -> ["[", lists:join(",", [json(X) || X <- List]), "]"].
