%% Real nodes on two firewalled hosts (ct/hosts.sh), while links, nodes, carriers and EPMDs go away and come back at random.
%% test/long/soak.sh runs it:   erl -noinput -pa … -run handover_soak main PREFIX TIME SEED
%%
%% On every pair of nodes, in both directions, a sender numbers messages and a receiver acknowledges them. During the life of a
%% link each number must be the last one's successor, in the messages and in the acknowledgements; behind the end of a link
%% some may be missing, and none may come twice or late. At the end every node must reach every other one again, and BEAMs,
%% carriers and EPMDs must hold no more descriptors, processes and memory than at the start. Prints a line a check,
%% `ok NAME …` or `FAIL NAME …`.
-module(handover_soak).

-export([main/1]).
-export([start/1, stop/0, report/0, memory/0]).               % on the nodes

-define(NODES, [{a1, 1}, {a2, 1}, {a3, 1}, {b1, 2}, {b2, 2}, {b3, 2}]).      % name, number of its host
-define(WINDOW, 32).                                          % messages that may be unacknowledged
-define(FLOWS, 50).                                           % acknowledged messages that show that a pair works
-define(DEADLINE_MS, 180000).

main([Prefix, Time, Seed]) ->
    io:format("soak: seed ~s; SEED=~s repeats the choices of this run~n", [Seed, Seed]),
    _ = rand:seed(exsss, list_to_integer(Seed)),
    put(prefix, Prefix),
    put(violations, []),
    try soak(milliseconds(string:to_integer(Time)))
    catch Class:Reason:Stack -> check(soak, false, "broke off: ~0tp", [{Class, Reason, Stack}])
    end,
    [handover_ct:stop_node(P) || {{peer, _}, P} <- get()],
    halt(0).

milliseconds({N, "s"}) -> N * 1000;
milliseconds({N, "m"}) -> N * 60000;
milliseconds({N, "h"}) -> N * 3600000.

check(Name, true, Format, Args) -> io:format("ok ~s: " ++ Format ++ "~n", [Name | Args]);
check(Name, false, Format, Args) -> io:format("FAIL ~s: " ++ Format ++ "~n", [Name | Args]).

soak(Ms) ->
    [start_epmd(H) || H <- [1, 2]],
    [start_node(N) || {N, _} <- ?NODES],
    flow(),
    quiet(),
    Start = [{N, held(N)} || N <- holders()],
    [call(N, ?MODULE, start, [others(N)]) || N <- names()],
    chaos(erlang:monotonic_time(millisecond) + Ms),
    try flow() of
        ok -> check(recovery, true, "every node reaches every other one", [])
    catch
        error:{not_within_ms, _, Rest} -> check(recovery, false, "these did not get through: ~0tp", [Rest])
    end,
    [collect(N) || N <- names()],
    check(messages, get(violations) =:= [], "~b acknowledged; lost, doubled or out of order: ~0tp",
          [count(acknowledged), get(violations)]),
    check(upgrades, count(not_upgraded) =:= 0, "~b, and ~b that failed", [count(upgrade), count(not_upgraded)]),
    io:format("soak: ~0tp~n", [lists:sort([{What, N} || {{count, What}, N} <- get()])]),
    quiet(),
    [compare(N, Held) || {N, Held} <- Start].

count(What) -> case get({count, What}) of undefined -> 0; N -> N end.
add(What, N) -> put({count, What}, count(What) + N).

%% What happens

chaos(End) ->
    case erlang:monotonic_time(millisecond) < End of
        true ->
            {What, Node, Other} = choose(),
            add(What, 1),
            act(What, Node, Other),
            timer:sleep(rand:uniform(200)),
            chaos(End);
        false -> ok
    end.

choose() ->
    Weighted = [{connect, 20}, {disconnect, 40}, {upgrade, 8}, {kill_carrier, 8}, {kill_epmd, 4}, {kill_node, 3}, {stop_node, 3}],
    What = lists:nth(rand:uniform(86), lists:append([lists:duplicate(N, W) || {W, N} <- Weighted])),
    Node = any(names()),
    {What, Node, any(names() -- [Node])}.

any(List) -> lists:nth(rand:uniform(length(List)), List).

act(connect, Node, Other) ->
    _ = call(Node, net_kernel, connect_node, [full(Other)]);
act(disconnect, Node, Other) ->
    _ = call(Node, erlang, disconnect_node, [full(Other)]);
act(upgrade, Node, _) ->
    case epmd(host(Node), "-upgrade") of
        "Upgraded" ++ _ -> ok;
        Said -> add(not_upgraded, 1), io:format("soak: epmd -upgrade: ~ts~n", [Said])
    end;
act(kill_carrier, Node, _) ->
    case call(Node, handover, info, []) of
        #{os_pid := OsPid} when is_integer(OsPid) -> kill(OsPid);
        _ -> add(carrier_was_down, 1)
    end;
act(kill_epmd, Node, _) ->
    kill(epmd_pid(host(Node))),
    start_epmd(host(Node));
act(kill_node, Node, _) ->
    collect(Node),
    kill(list_to_integer(call(Node, os, getpid, []))),
    restart(Node);
act(stop_node, Node, _) ->
    collect(Node),
    ok = call(Node, init, stop, []),
    restart(Node).

%% It may be gone by now.
kill(OsPid) -> _ = os:cmd("kill -KILL " ++ integer_to_list(OsPid)), ok.

restart(Node) ->
    until(fun() -> string:find(epmd(host(Node), "-names"), "name " ++ atom_to_list(Node) ++ " ") =:= nomatch end),
    handover_ct:stop_node(get({peer, Node})),
    start_node(Node),
    call(Node, ?MODULE, start, [others(Node)]).

%% Hosts, EPMDs and nodes

names() -> [N || {N, _} <- ?NODES].
host(Node) -> proplists:get_value(Node, ?NODES).
full(Node) -> list_to_atom(lists:concat([Node, "@host", host(Node), ".handover.test"])).
others(Node) -> [full(N) || N <- names(), N =/= Node].
namespace(Host) -> lists:concat([get(prefix), "-host", Host]).
call(Node, M, F, A) -> handover_ct:call(get({peer, Node}), M, F, A).
until(Condition) -> handover_ct:until(Condition, ?DEADLINE_MS).

epmd(Host, Command) ->
    os:cmd(lists:concat(["ip netns exec ", namespace(Host), " ", handover_ct:program("epmd"), " ", Command, " 2>&1"])).

%% Nodes may have started it already.
start_epmd(Host) ->
    until(fun() ->
                  _ = epmd(Host, "-daemon"),
                  string:find(epmd(Host, "-names"), "up and running") =/= nomatch
          end).

%% The process that has the port.
epmd_pid(Host) ->
    {match, [OsPid]} = re:run(os:cmd(lists:concat(["ip netns exec ", namespace(Host), " ss -Hltnp 'sport = :4369'"])), "pid=(\\d+)",
                              [{capture, all_but_first, list}]),
    list_to_integer(OsPid).

start_node(Node) ->
    Host = host(Node),
    Exec = {os:find_executable("ip"), ["netns", "exec", namespace(Host), os:find_executable("erl")]},
    put({peer, Node}, handover_ct:start_node(Node, #{epmd_port => 4369, host => lists:concat(["host", Host, ".handover.test"]), exec => Exec,
                                                     args => ["-handover", "listen", "false", "-kernel", "logger_level", "critical"]})).

%% All pairs exchange messages, in both directions.
flow() ->
    [call(N, ?MODULE, start, [others(N)]) || N <- names()],
    Before = acknowledged(),
    until(fun() ->
                  Now = acknowledged(),
                  Few = [Pair || {Pair, N} <- Now, N < proplists:get_value(Pair, Before, 0) + ?FLOWS],
                  (Few =:= [] andalso length(Now) =:= length(?NODES) * (length(?NODES) - 1)) orelse Few
          end).

acknowledged() ->
    [{{N, To}, Count} || N <- names(), {{acknowledged, To}, Count} <- call(N, ?MODULE, report, [])].

%% No messages and no links.
quiet() ->
    [call(N, ?MODULE, stop, []) || N <- names()],
    until(fun() ->
                  Links = [{N, M} || N <- names(), M <- call(N, erlang, nodes, [connected])],
                  [call(N, erlang, disconnect_node, [M]) || {N, M} <- Links],
                  Links =:= [] orelse Links
          end).

%% What a node has seen, before it goes.
collect(Node) ->
    Report = call(Node, ?MODULE, report, []),
    [add(acknowledged, N) || {{acknowledged, _}, N} <- Report],
    put(violations, [V || {{violation, _}, V} <- Report] ++ get(violations)).

%% What is held

holders() -> names() ++ [1, 2].

%% Of a node: descriptors of the BEAM and of the carrier, processes, memory of both. Of the EPMD of a host: descriptors, memory.
held(Host) when is_integer(Host) ->
    Epmd = epmd_pid(Host),
    [{epmd_fds, handover_ct:fds(Epmd)}, {epmd_kib, rss(Epmd)}];
held(Node) ->
    until(fun() -> maps:get(epmd, call(Node, handover, info, [])) =:= handover end),
    Carrier = handover_ct:carrier(get({peer, Node})),
    [{beam_fds, call(Node, handover_ct_work, own_fds, [])}, {processes, call(Node, erlang, system_info, [process_count])},
     {beam_kib, call(Node, ?MODULE, memory, [])}, {carrier_fds, handover_ct:fds(Carrier)}, {carrier_kib, rss(Carrier)}].

rss(OsPid) ->
    {ok, Status} = file:read_file(lists:concat(["/proc/", OsPid, "/status"])),
    {match, [KiB]} = re:run(Status, "VmRSS:\\s+(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(KiB).

compare(Name, Start) ->
    Result = try until(fun() -> case more(Start, held(Name)) of [] -> true; More -> More end end)
             catch error:{not_within_ms, _, More} -> More
             end,
    Now = [{What, N} || {What, N} <- held(Name), is_integer(N)],
    check(lists:concat(["held by ", Name]), Result =:= ok, "~0tp; at the start ~0tp; more: ~0tp",
          [Now, [{What, N} || {What, N} <- Start, is_integer(N)], Result]).

more(Start, Now) ->
    [{What, Was, Is} || {{What, Was}, {What, Is}} <- lists:zip(Start, Now), is_more(What, Was, Is)].

%% Memory may grow by what allocators and collectors keep, and not with time. EPMD opens a channel to a carrier when it first needs one.
is_more(carrier_fds, Was, Is) -> not lists:member(Is -- Was, [[], ["socket"]]);
is_more(_, Was, Is) when is_list(Was) -> Is -- Was =/= [];
is_more(processes, Was, Is) -> Is > Was;
is_more(_, Was, Is) -> Is > Was + Was div 4 + 16384.

%% On a node: one receiver, and a sender for each of the others

start(Others) ->
    Starter = self(),
    case whereis(?MODULE) of
        undefined ->
            Keeper = spawn(fun() -> keep(Starter, Others) end),
            receive {Keeper, ready} -> ok end;
        _ -> ok
    end.

stop() ->
    Keeper = whereis(?MODULE),
    Monitor = monitor(process, Keeper),
    exit(Keeper, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end.

report() -> ets:tab2list(?MODULE).

memory() ->
    _ = [garbage_collect(P) || P <- processes()],
    erlang:memory(total) div 1024.

keep(Starter, Others) ->
    true = register(?MODULE, self()),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    Keeper = self(),
    Receiver = spawn_link(fun() -> start_receiver(Keeper) end),
    receive {Receiver, ready} -> ok end,
    _ = [spawn_link(fun() -> start_sender(Node) end) || Node <- Others],
    Starter ! {self(), ready},
    receive after infinity -> ok end.

violation(What) -> true = ets:insert(?MODULE, {{violation, erlang:unique_integer()}, {node(), What}}).

%% OTP promises: nodeup comes before all that the new link brings, nodedown after all that the old one has brought. Lives counts the
%% ends of links; Seen has the last number of each sender, and in which life it came.
start_receiver(Keeper) ->
    true = register(handover_soak_receiver, self()),
    ok = net_kernel:monitor_nodes(true),
    Keeper ! {self(), ready},
    receiver(#{}, #{}).

receiver(Lives, Seen) ->
    receive
        {hello, Sender} ->
            _ = erlang:send(Sender, {welcome, self()}, [noconnect]),
            receiver(Lives, Seen);
        {message, Sender, N, Sum, Payload} ->
            Life = maps:get(node(Sender), Lives, 0),
            erlang:crc32(Payload) =:= Sum orelse violation({damaged, Sender, N}),
            follows(maps:get(Sender, Seen, none), N, Life) orelse violation({received, Sender, N, maps:get(Sender, Seen), Life}),
            _ = erlang:send(Sender, {ack, self(), N, Life}, [noconnect]),
            receiver(Lives, Seen#{Sender => {N, Life}});
        {nodedown, Node} ->
            receiver(Lives#{Node => maps:get(Node, Lives, 0) + 1}, Seen);
        {nodeup, _} ->
            receiver(Lives, Seen)
    end.

follows(none, _, _) -> true;
follows({Last, Life}, N, Life) -> N =:= Last + 1;
follows({Last, _}, N, _) -> N > Last.

%% Receiver: it has to answer on each link first, as a node that has just started has none yet. Base: messages up to it are acknowledged or lost. Last: the last acknowledgement; a link has ended since if Gap.
start_sender(To) ->
    ok = net_kernel:monitor_nodes(true),
    sender(#{to => To, receiver => none, sent => 0, base => 0, last => none, gap => false}).

sender(#{to := To} = S) ->
    case lists:member(To, nodes()) of
        true -> answers(greet(fill(S)), 20);
        false ->
            timer:sleep(rand:uniform(500)),
            _ = net_kernel:connect_node(To),
            answers(S, 0)
    end.

greet(#{to := To, receiver := none} = S) ->
    _ = erlang:send({handover_soak_receiver, To}, {hello, self()}, [noconnect]),
    S;
greet(S) ->
    S.

fill(#{receiver := Receiver, sent := Sent, base := Base} = S) when is_pid(Receiver), Sent - Base < ?WINDOW ->
    N = Sent + 1,
    Payload = payload(N),
    case erlang:send(Receiver, {message, self(), N, erlang:crc32(Payload), Payload}, [noconnect]) of
        ok -> fill(S#{sent => N});
        noconnect -> S
    end;
fill(S) ->
    S.

%% Now and then one that fills the buffers of a link.
payload(N) when N rem 200 =:= 0 -> binary:copy(<<N:64>>, 40000);
payload(_) -> rand:bytes(rand:uniform(1500)).

answers(#{to := To, last := Last, gap := Gap, sent := Sent, base := Base} = S, Ms) ->
    receive
        {ack, Receiver, N, Life} ->
            (N =< Sent andalso follows_ack(Last, {Receiver, N, Life}, Gap)) orelse violation({acknowledged, To, N, Sent, Last, Life, Gap}),
            _ = ets:update_counter(?MODULE, {acknowledged, To}, 1, {{acknowledged, To}, 0}),
            answers(S#{last => {Receiver, N, Life}, gap => false, base => max(N, Base)}, Ms);
        {welcome, Receiver} -> answers(S#{receiver => Receiver}, 0);
        {nodedown, To} -> answers(S#{receiver => none, base => Sent, gap => true}, 0);
        {nodedown, _} -> answers(S, Ms);
        {nodeup, _} -> answers(S, Ms)
    after Ms -> sender(S)
    end.

%% Another receiver is another node, which is new.
follows_ack({Receiver, Last, _}, {Receiver, N, _}, true) -> N > Last;
follows_ack({Receiver, Last, Was}, {Receiver, N, Life}, false) -> follows({Last, Was}, N, Life);
follows_ack(_, _, _) -> true.
