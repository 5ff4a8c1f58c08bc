%% `make bench`: every measure of handover beside its rival's, in one run, in turns. bench/run.sh starts it with the folder
%% where programs and results are; it writes results.json there.
%%
%% A row holds what each round measured, for the rival and for handover, and the ratios of the pairs: a noisy machine moves
%% both of a pair. Rounds alternate who goes first.
-module(handover_bench).

-export([main/1]).
-export([small/2, terms/3, rpc/2, connects/3, echo/1]).

-define(ROUNDS, 7).

main([Dir]) ->
    io:format("data path~n"),
    Path = data_path(Dir),
    io:format("connect~n"),
    Connect = loopback_connect() ++ delayed_connects(Dir),
    io:format("EPMD~n"),
    Epmd = lookups(Dir) ++ registrations(Dir) ++ many_names(Dir),
    io:format("handovers~n"),
    Handovers = handovers(Dir),
    io:format("boot, rest~n"),
    Rest = boot() ++ at_rest(),
    Json = json(#{machine => machine(), rows => Path ++ Connect ++ Epmd ++ Handovers ++ Rest}),
    ok = file:write_file(filename:join(Dir, "results.json"), [Json, "\n"]),
    halt().

%% Rounds of Stock and Ours in turns.
pairs(Rounds, Stock, Ours) ->
    lists:unzip([case N rem 2 of
                     0 -> S = Stock(), {S, Ours()};
                     1 -> O = Ours(), {Stock(), O}
                 end || N <- lists:seq(1, Rounds)]).

row(Id, Title, Unit, {Stock, Ours}, Target) ->
    io:format("  ~ts: ~.1f ~ts, stock ~.1f~n", [Title, median(Ours), Unit, median(Stock)]),
    #{id => Id, title => Title, unit => Unit, stock => Stock, handover => Ours,
      ratio => [O / max(S, 0.001) || {S, O} <- lists:zip(Stock, Ours)], target => Target}.

%% A measure with no rival.
alone(Id, Title, Unit, Ours, Target) ->
    io:format("  ~ts: ~.1f ~ts~n", [Title, float(median(Ours)), Unit]),
    #{id => Id, title => Title, unit => Unit, stock => [], handover => [float(X) || X <- Ours], ratio => [], target => Target}.

median(List) -> lists:nth((length(List) + 1) div 2, lists:sort(List)).
at(Q, List) -> lists:nth(max(1, round(Q * length(List))), lists:sort(List)).

%% (a) data path

data_path(Dir) ->
    with_pair("inet_tcp", stock, [], fun(StockA, StockB) ->
      with_pair("handover_tcp", handover, [], fun(OursA, OursB) ->
        with_pair("inet_tls", stock, tls(Dir), fun(TlsA, TlsB) ->
          Measure = fun(F, Args, S, O) ->
                            pairs(?ROUNDS, fun() -> on(S, F, Args) end, fun() -> on(O, F, Args) end)
                    end,
          Stock = {StockA, StockB}, Ours = {OursA, OursB}, Tls = {TlsA, TlsB},
          _ = [on(P, small, [20000]) || P <- [Stock, Ours, Tls]],
          [row(small, "small messages", "msg/s", Measure(small, [200000], Stock, Ours), #{ge => 0.98}),
           row(mib, "1 MiB terms", "MB/s", Measure(terms, [1 bsl 20, 200], Stock, Ours), #{ge => 0.98}),
           row(mib64, "64 MiB terms", "MB/s", Measure(terms, [64 bsl 20, 5], Stock, Ours), #{ge => 0.98})]
          ++ rpc_rows(pairs(?ROUNDS, fun() -> on(Stock, rpc, [3000]) end, fun() -> on(Ours, rpc, [3000]) end))
          ++ [row(tls_small, "small messages, inet_tls in place of inet_tcp", "msg/s",
                  pairs(3, fun() -> on(Tls, small, [100000]) end, fun() -> on(Ours, small, [100000]) end), none),
              row(tls_mib, "1 MiB terms, inet_tls in place of inet_tcp", "MB/s",
                  pairs(3, fun() -> on(Tls, terms, [1 bsl 20, 50]) end, fun() -> on(Ours, terms, [1 bsl 20, 50]) end), none)]
        end) end) end).

rpc_rows({Stock, Ours}) ->
    [row(Id, Title, "us", {[element(N, S) || S <- Stock], [element(N, O) || O <- Ours]}, #{le => Target})
     || {N, Id, Title, Target} <- [{1, rpc50, "rpc, median", 1.02}, {2, rpc99, "rpc, 99th percentile", 1.2}]].

on({A, B}, F, Args) -> handover_ct:call(A, ?MODULE, F, [handover_ct:name(B) | Args], 120000).

with_pair(Proto, Kind, Args, Fun) ->
    Port = handover_ct:free_port(),
    Options = #{proto => Proto, args => Args},
    handover_ct:with(Kind, [{a, Options}, {b, Options}], Port,
                     fun(A, B) -> handover_ct:connect(A, B), Fun(A, B) end).

tls(Dir) ->
    Pem = filename:join(Dir, "tls.pem"),
    ["-ssl_dist_opt", "server_certfile", Pem, "server_keyfile", Pem].

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
    receive {Pid, done} -> Amount / ((erlang:monotonic_time(microsecond) - Start) / 1.0e6) end.

echo(From) ->
    receive last -> From ! {self(), done}; {_, _} -> echo(From) end.

rpc(Node, Count) ->
    Took = [element(1, timer:tc(fun() -> Node = erpc:call(Node, erlang, node, []) end)) || _ <- lists:seq(1, Count)],
    {float(at(0.5, Took)), float(at(0.99, Took))}.

%% (b) connect

loopback_connect() ->
    with_pair("inet_tcp", stock, [], fun(SA, SB) ->
      with_pair("handover_tcp", handover, [], fun(OA, OB) ->
        Connects = fun(P) -> fun() -> on(P, connects, [40, 10]) end end,
        [row(connect, "connect on loopback, median", "us", pairs(?ROUNDS, Connects({SA, SB}), Connects({OA, OB})), #{le => 1.0})]
      end) end).

%% The median of so many connects, in us; Pause lets the other end see the disconnect.
connects(Node, Count, Pause) ->
    float(median([begin
                      _ = erlang:disconnect_node(Node),
                      timer:sleep(Pause),
                      {Us, true} = timer:tc(net_kernel, connect_node, [Node]),
                      timer:sleep(Pause),
                      Us
                  end || _ <- lists:seq(1, Count)])).

delayed_connects(Dir) ->
    case os:cmd(filename:join([handover_ct:root(), "ct", "hosts.sh"]) ++ " check") of
        "" ->
            Points = [{Ms, delayed(Dir, Ms)} || Ms <- [0, 10, 50, 200]],
            [row(list_to_atom(lists:concat([rtt, Ms])), lists:concat(["connect at ", Ms, " ms round trip, median"]), "us", P, none)
             || {Ms, P} <- Points]
                ++ [slope(Points)];
        Reason ->
            io:format("  left out: connects by delay: ~ts", [Reason]),
            []
    end.

%% Least squares over the medians: us of connect by us of round trip is the number of round trips.
slope(Points) ->
    Slope = fun(Which) ->
                    Xs = [Ms * 1000.0 || {Ms, _} <- Points],
                    Ys = [median(Which(P)) || {_, P} <- Points],
                    {Mx, My} = {lists:sum(Xs) / length(Xs), lists:sum(Ys) / length(Ys)},
                    lists:sum([(X - Mx) * (Y - My) || {X, Y} <- lists:zip(Xs, Ys)])
                        / lists:sum([(X - Mx) * (X - Mx) || X <- Xs])
            end,
    Ours = Slope(fun({_, O}) -> O end),
    row(slope, "round trips of a connect (slope)", "round trips", {[Slope(fun({S, _}) -> S end)], [Ours]},
        #{value_ge => 2.9, value_le => 3.1}).

delayed(Dir, Ms) ->
    [NsA, NsB] = Names = [lists:concat(["hbench", os:getpid(), "-", X]) || X <- [a, b]],
    _ = [begin "" = os:cmd("ip netns add " ++ N), "" = os:cmd("ip -n " ++ N ++ " link set lo up") end || N <- Names],
    Delay = io_lib:format("~pus", [Ms * 500]),
    Line = open_port({spawn_executable, filename:join(Dir, "delayline")},
                     [{args, ["-a", NsA, "-b", NsB, "-addr-a", "198.18.0.1/30", "-addr-b", "198.18.0.2/30", "-delay",
                              lists:flatten(Delay)]}, {line, 200}]),
    receive {Line, {data, {eol, "ready" ++ _}}} -> ok end,
    try
        Ports = [{"inet_tcp", 4369}, {"handover_tcp", 4370}],
        _ = [os:cmd("ip netns exec " ++ N ++ " " ++ os:find_executable("epmd") ++ " -daemon") || N <- Names],
        [[SA, SB], [OA, OB]] = [[in_host(Name, Ip, Ns, Proto, Port) || {Name, Ip, Ns} <- [{a, "198.18.0.1", NsA},
                                                                                       {b, "198.18.0.2", NsB}]]
                                || {Proto, Port} <- Ports],
        Connects = fun(P) -> fun() -> on(P, connects, [3, 3 * Ms + 20]) end end,
        Result = pairs(3, Connects({SA, SB}), Connects({OA, OB})),
        _ = [handover_ct:stop_node(P) || P <- [SA, SB, OA, OB]],
        Result
    after
        port_close(Line),
        _ = [begin _ = os:cmd("ip netns pids " ++ N ++ " | xargs -r kill -KILL"), os:cmd("ip netns del " ++ N) end || N <- Names]
    end.

in_host(Name, Ip, Ns, Proto, Port) ->
    handover_ct:start_node(Name, #{epmd_port => Port, proto => Proto, host => Ip,
                                   exec => {os:find_executable("ip"), ["netns", "exec", Ns, os:find_executable("erl")]}}).

%% (c), (e) EPMD

load(Dir, What, Port, More) ->
    Command = lists:flatten([filename:join(Dir, "epmdbench"), " ", What, " -port ", integer_to_list(Port), " ", More]),
    result(os:cmd(Command)).

result(Json) ->
    case re:run(Json, "per_second\":([0-9.e+]+),\"p50_us\":([0-9.e+]+),\"p99_us\":([0-9.e+]+)", [{capture, all_but_first, list}]) of
        {match, Numbers} -> list_to_tuple([number(N) || N <- Numbers]);
        nomatch -> error({load_failed, Json})
    end.

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
    with_epmds(fun({_, P1}, {_, P2}) ->
      Holds = [hold(Dir, P, 10) || P <- [P1, P2]],
      Rows = [begin
                  More = lists:concat(["-name n00003 -duration 1s -clients ", Clients]),
                  {S, O} = pairs(5, fun() -> load(Dir, "lookups", P1, More) end, fun() -> load(Dir, "lookups", P2, More) end),
                  Id = fun(What) -> list_to_atom(lists:concat([lookups, What, Clients])) end,
                  Title = fun(What) -> lists:concat([What, ", ", Clients, " clients"]) end,
                  Nth = fun(N) -> {[element(N, X) || X <- S], [element(N, X) || X <- O]} end,
                  [row(Id(""), Title("lookups"), "/s", Nth(1), target(Clients, #{ge => 1.3})),
                   row(Id(p50_), Title("lookup, median"), "us", Nth(2), none),
                   row(Id(p99_), Title("lookup, 99th percentile"), "us", Nth(3), target(Clients, #{le => 1.0}))]
              end || Clients <- [1, 8, 32, 64]],
      lists:foreach(fun port_close/1, Holds),
      lists:append(Rows)
    end).

target(32, Target) -> Target;
target(_, _) -> none.

hold(Dir, Port, Count) ->
    Hold = open_port({spawn_executable, filename:join(Dir, "epmdbench")},
                     [{args, ["register", "-hold", "-port", integer_to_list(Port), "-count", integer_to_list(Count)]}, {line, 200}]),
    receive {Hold, {data, {eol, _}}} -> Hold end.

registrations(Dir) ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      {S, O} = pairs(5, fun() -> load(Dir, "register", P1, "-count 500") end, fun() -> load(Dir, "register", P2, "-count 500") end),
      [row(registrations, "registrations, one after another", "/s", {[element(1, X) || X <- S], [element(1, X) || X <- O]}, none)]
    end).

many_names(Dir) ->
    Measure = fun(Count) ->
                      fun() ->
                              with_epmds(fun(_, {_, Port}) ->
                                Hold = hold(Dir, Port, Count),
                                {PerSecond, _, _} = load(Dir, "lookups", Port, "-name n00003 -duration 1s -clients 8"),
                                port_close(Hold),
                                PerSecond
                              end)
                      end
              end,
    [row(list_to_atom(lists:concat([names, Count])), lists:concat(["lookups with ", Count, " names, beside those with 10"]), "/s",
         pairs(3, Measure(10), Measure(Count)), #{ge => 0.85}) || Count <- [1000, 10000]].

%% (d) handovers

handovers(Dir) ->
    Chain = [number(N) || _ <- lists:seq(1, 3), N <- chain()],
    Port = handover_ct:free_port(),
    Beam = handover_ct:with(handover, [b], Port,
             fun(_) -> [element(1, load(Dir, "handovers", Port, "-name b -duration 2s -clients 16")) || _ <- lists:seq(1, 3)] end),
    [alone(chain, "handovers through epmd and carrier", "/s", Chain, #{value_ge => 10000}),
     alone(beam, "handovers to a BEAM", "/s", Beam, none)].

chain() ->
    Output = os:cmd("cd " ++ handover_ct:root() ++ " && go test -run xxx -bench Handover -benchtime 2s ./go/cmd/handover"),
    case re:run(Output, "([0-9.]+) handovers/s", [{capture, all_but_first, list}]) of
        {match, [Rate]} -> [Rate];
        nomatch -> error({benchmark_failed, Output})
    end.

%% (f) boot, rest

boot() ->
    with_epmds(fun({_, P1}, {_, P2}) ->
      {S, O} = pairs(15, fun() -> boots("inet_tcp", P1) end, fun() -> boots("handover_tcp", P2) end),
      Over = [Y - X || {X, Y} <- lists:zip(S, O)],
      [row(boot, "boot of a node", "ms", {S, O}, none),
       alone(boot_over, "boot over stock's", "ms", [median(Over)], #{value_le => 30})]
    end).

boots(Proto, Port) ->
    Start = erlang:monotonic_time(microsecond),
    _ = handover_ct:run_node("boot", Port, [], ["-eval", "halt()."], Proto),
    (erlang:monotonic_time(microsecond) - Start) / 1000.

at_rest() ->
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    A = handover_ct:start_node(a, #{epmd_port => Port}),
    try
        Rows = [begin
                    Before = switches(OsPid),
                    timer:sleep(10000),
                    [alone(list_to_atom(Name ++ "_rss"), Name ++ " at rest, RSS", "MB", [rss(OsPid)], #{value_le => 12}),
                     alone(list_to_atom(Name ++ "_wakeups"), Name ++ " at rest, context switches in 10 s", "", [switches(OsPid) - Before],
                           #{value_le => 0})]
                end || {Name, OsPid} <- [{"epmd", handover_ct:epmd_os_pid(Epmd)}, {"carrier", handover_ct:carrier(A)}]],
        lists:append(Rows)
    after
        handover_ct:stop_node(A),
        handover_ct:stop_epmd(Epmd)
    end.

rss(OsPid) -> sum(["/proc/" ++ integer_to_list(OsPid) ++ "/status"], "VmRSS:\\s+([0-9]+)") / 1024.

switches(OsPid) -> sum(filelib:wildcard(lists:concat(["/proc/", OsPid, "/task/*/status"])), "ctxt_switches:\\s+([0-9]+)").

sum(Files, Pattern) ->
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
