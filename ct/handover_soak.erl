%% Real nodes on two firewalled hosts (ct/hosts.sh), whose links, nodes, carriers and EPMDs end and are restarted at
%% random. test/long/soak.sh runs it:   erl -noinput -pa … -run handover_soak main PREFIX TIME SEED
%%
%% On each pair of nodes, in both directions, a sender numbers messages and a receiver acknowledges them. While a link
%% is up, the numbers must be consecutive, in the messages and in the acknowledgements. When a link has ended, some
%% numbers may be missing, and none may come twice or late. At the end every node must reach every other one again, and
%% BEAMs, carriers and EPMDs may not have more descriptors, processes and memory than at the start. Prints one line for
%% each check, `ok NAME …' or `FAIL NAME …'.
-module(handover_soak).

-export([main/1]).
-export([start/1, stop/0, report/0, memory/0]).               % on the nodes

-define(NODES, [{a1, 1}, {a2, 1}, {a3, 1}, {b1, 2}, {b2, 2}, {b3, 2}]).      % name, number of its host
-define(WINDOW, 32).                                          % messages that may be unacknowledged
-define(MESSAGES_OF_A_PAIR, 50).                              % acknowledged messages that show that a pair works
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
    exchange_messages(),
    end_messages_and_links(),
    Start = [{N, resources(N)} || N <- names() ++ [1, 2]],
    [call(N, ?MODULE, start, [others(N)]) || N <- names()],
    act_at_random(erlang:monotonic_time(millisecond) + Ms),
    try exchange_messages() of
        ok -> check(recovery, true, "every node reaches every other one", [])
    catch
        error:{not_within_ms, _, Rest} -> check(recovery, false, "these did not get through: ~0tp", [Rest])
    end,
    [add_report(N) || N <- names()],
    check(messages, get(violations) =:= [], "~b acknowledged; lost, doubled or out of order: ~0tp",
          [count(acknowledged), get(violations)]),
    check(upgrades, count(not_upgraded) =:= 0, "~b, and ~b that failed", [count(upgrade), count(not_upgraded)]),
    io:format("soak: ~0tp~n", [lists:sort([{What, N} || {{count, What}, N} <- get()])]),
    end_messages_and_links(),
    [compare(N, Resources) || {N, Resources} <- Start].

count(What) -> case get({count, What}) of undefined -> 0; N -> N end.
add(What, N) -> put({count, What}, count(What) + N).

%% What happens to nodes and links

act_at_random(End) ->
    case erlang:monotonic_time(millisecond) < End of
        true ->
            {What, Node, Other} = choose(),
            add(What, 1),
            act(What, Node, Other),
            timer:sleep(rand:uniform(200)),
            act_at_random(End);
        false -> ok
    end.

choose() ->
    Weighted = [{connect, 20}, {disconnect, 40}, {upgrade, 8}, {kill_carrier, 8}, {kill_epmd, 4}, {kill_node, 3},
                {stop_node, 3}],
    What = random_element(lists:append([lists:duplicate(N, W) || {W, N} <- Weighted])),
    Node = random_element(names()),
    {What, Node, random_element(names() -- [Node])}.

random_element(List) -> lists:nth(rand:uniform(length(List)), List).

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
    kill(epmd_os_pid(host(Node))),
    start_epmd(host(Node));
act(kill_node, Node, _) ->
    add_report(Node),
    kill(handover_ct:beam_os_pid(get({peer, Node}))),
    restart(Node);
act(stop_node, Node, _) ->
    add_report(Node),
    ok = call(Node, init, stop, []),
    restart(Node).

%% The process may have ended.
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

%% Waits until an EPMD runs. A node may have started it.
start_epmd(Host) ->
    until(fun() ->
                  _ = epmd(Host, "-daemon"),
                  string:find(epmd(Host, "-names"), "up and running") =/= nomatch
          end).

%% The process that listens on EPMD's port.
epmd_os_pid(Host) ->
    Listener = os:cmd(lists:concat(["ip netns exec ", namespace(Host), " ss -Hltnp 'sport = :4369'"])),
    {match, [OsPid]} = re:run(Listener, "pid=(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(OsPid).

start_node(Node) ->
    Host = host(Node),
    Options = #{epmd_port => 4369, host => lists:concat(["host", Host, ".handover.test"]), netns => namespace(Host),
                args => ["-handover", "listen", "false", "-kernel", "logger_level", "critical"]},
    put({peer, Node}, handover_ct:start_node(Node, Options)).

%% Waits until all pairs have exchanged messages, in both directions.
exchange_messages() ->
    [call(N, ?MODULE, start, [others(N)]) || N <- names()],
    Before = acknowledged(),
    until(fun() ->
                  Now = acknowledged(),
                  Few = [Pair || {Pair, N} <- Now, N < proplists:get_value(Pair, Before, 0) + ?MESSAGES_OF_A_PAIR],
                  (Few =:= [] andalso length(Now) =:= length(?NODES) * (length(?NODES) - 1)) orelse Few
          end).

acknowledged() ->
    [{{N, To}, Count} || N <- names(), {{acknowledged, To}, Count} <- call(N, ?MODULE, report, [])].

%% Stops the messages and waits until there is no link.
end_messages_and_links() ->
    [call(N, ?MODULE, stop, []) || N <- names()],
    until(fun() ->
                  Links = [{N, M} || N <- names(), M <- call(N, erlang, nodes, [connected])],
                  [call(N, erlang, disconnect_node, [M]) || {N, M} <- Links],
                  Links =:= [] orelse Links
          end).

%% Adds a node's report to the totals. Must be called before the node ends.
add_report(Node) ->
    Report = call(Node, ?MODULE, report, []),
    [add(acknowledged, N) || {{acknowledged, _}, N} <- Report],
    put(violations, [V || {{violation, _}, V} <- Report] ++ get(violations)).

%% Resources

%% Of a node: descriptors and memory of the BEAM and of the carrier, processes. Of the EPMD of a host: descriptors,
%% memory.
resources(Host) when is_integer(Host) ->
    Epmd = epmd_os_pid(Host),
    [{epmd_fds, handover_ct:fds(Epmd)}, {epmd_kib, rss(Epmd)}];
resources(Node) ->
    until(fun() -> maps:get(epmd, call(Node, handover, info, [])) =:= handover end),
    Carrier = handover_ct:carrier_os_pid(get({peer, Node})),
    [{beam_fds, handover_ct:own_fds(get({peer, Node}))}, {processes, call(Node, erlang, system_info, [process_count])},
     {beam_kib, call(Node, ?MODULE, memory, [])}, {carrier_fds, handover_ct:fds(Carrier)}, {carrier_kib, rss(Carrier)}].

rss(OsPid) ->
    {ok, Status} = file:read_file(lists:concat(["/proc/", OsPid, "/status"])),
    {match, [KiB]} = re:run(Status, "VmRSS:\\s+(\\d+)", [{capture, all_but_first, list}]),
    list_to_integer(KiB).

compare(Name, Start) ->
    Result = try until(fun() -> case more(Start, resources(Name)) of [] -> true; More -> More end end)
             catch error:{not_within_ms, _, More} -> More
             end,
    Now = [{What, N} || {What, N} <- resources(Name), is_integer(N)],
    check(lists:concat(["held by ", Name]), Result =:= ok, "~0tp; at the start ~0tp; more: ~0tp",
          [Now, [{What, N} || {What, N} <- Start, is_integer(N)], Result]).

more(Start, Now) ->
    [{What, Was, Is} || {{What, Was}, {What, Is}} <- lists:zip(Start, Now), is_more(What, Was, Is)].

%% Memory may grow by what allocators and garbage collectors keep, but not with time. EPMD opens a channel to a carrier
%% when it first needs one: a carrier may have one more socket than at the start, and EPMD one for each node of its host.
is_more(carrier_fds, Was, Is) -> is_more_than_sockets(1, Is -- Was);
is_more(epmd_fds, Was, Is) -> is_more_than_sockets(length(?NODES) div 2, Is -- Was);
is_more(_, Was, Is) when is_list(Was) -> Is -- Was =/= [];
is_more(processes, Was, Is) -> Is > Was;
is_more(_, Was, Is) -> Is > Was + Was div 4 + 16384.

is_more_than_sockets(Most, Fds) ->
    length(Fds) > Most orelse lists:any(fun(Kind) -> Kind =/= "socket" end, Fds).

%% On the nodes: one receiver, and a sender to each of the other nodes

start(Others) ->
    Starter = self(),
    case whereis(?MODULE) of
        undefined ->
            Owner = spawn(fun() -> own_table(Starter, Others) end),
            receive {Owner, ready} -> ok end;
        _ -> ok
    end.

stop() ->
    Owner = whereis(?MODULE),
    Monitor = monitor(process, Owner),
    exit(Owner, kill),
    receive {'DOWN', Monitor, _, _, _} -> ok end.

report() -> ets:tab2list(?MODULE).

memory() ->
    _ = [garbage_collect(P) || P <- processes()],
    erlang:memory(total) div 1024.

%% Owns the table of the counts, the receiver and the senders. They end with it.
own_table(Starter, Others) ->
    true = register(?MODULE, self()),
    ?MODULE = ets:new(?MODULE, [named_table, public]),
    Owner = self(),
    Receiver = spawn_link(fun() -> start_receiver(Owner) end),
    receive {Receiver, ready} -> ok end,
    _ = [spawn_link(fun() -> start_sender(Node) end) || Node <- Others],
    Starter ! {self(), ready},
    receive after infinity -> ok end.

violation(What) -> true = ets:insert(?MODULE, {{violation, erlang:unique_integer()}, {node(), What}}).

%% OTP guarantees that nodeup comes before every message of the new link, and nodedown after every message of the old
%% one. Lives has the number of links to each node that have ended. Seen has the last number of each sender, and the
%% life in which it came.
start_receiver(Owner) ->
    true = register(handover_soak_receiver, self()),
    ok = net_kernel:monitor_nodes(true),
    Owner ! {self(), ready},
    receiver(#{}, #{}).

receiver(Lives, Seen) ->
    receive
        {hello, Sender} ->
            _ = erlang:send(Sender, {welcome, self()}, [noconnect]),
            receiver(Lives, Seen);
        {message, Sender, N, Sum, Payload} ->
            Life = maps:get(node(Sender), Lives, 0),
            erlang:crc32(Payload) =:= Sum orelse violation({damaged, Sender, N}),
            is_next(maps:get(Sender, Seen, none), N, Life) orelse
                violation({received, Sender, N, maps:get(Sender, Seen), Life}),
            _ = erlang:send(Sender, {ack, self(), N, Life}, [noconnect]),
            receiver(Lives, Seen#{Sender => {N, Life}});
        {nodedown, Node} ->
            receiver(Lives#{Node => maps:get(Node, Lives, 0) + 1}, Seen);
        {nodeup, _} ->
            receiver(Lives, Seen)
    end.

is_next(none, _, _) -> true;
is_next({Last, Life}, N, Life) -> N =:= Last + 1;
is_next({Last, _}, N, _) -> N > Last.

%% The state of a sender:
%%   receiver  the receiver's pid, which it tells on each new link, or none
%%   sent      the number of the last message
%%   base      messages up to this one are acknowledged or lost
%%   last      the last acknowledgement
%%   gap       whether a link has ended since then
start_sender(To) ->
    ok = net_kernel:monitor_nodes(true),
    sender(#{to => To, receiver => none, sent => 0, base => 0, last => none, gap => false}).

sender(#{to := To} = S) ->
    case lists:member(To, nodes()) of
        true -> read_answers(ask_for_receiver(send_messages(S)), 20);
        false ->
            timer:sleep(rand:uniform(500)),
            _ = net_kernel:connect_node(To),
            read_answers(S, 0)
    end.

ask_for_receiver(#{to := To, receiver := none} = S) ->
    _ = erlang:send({handover_soak_receiver, To}, {hello, self()}, [noconnect]),
    S;
ask_for_receiver(S) ->
    S.

send_messages(#{receiver := Receiver, sent := Sent, base := Base} = S) when is_pid(Receiver), Sent - Base < ?WINDOW ->
    N = Sent + 1,
    Payload = payload(N),
    case erlang:send(Receiver, {message, self(), N, erlang:crc32(Payload), Payload}, [noconnect]) of
        ok -> send_messages(S#{sent => N});
        noconnect -> S
    end;
send_messages(S) ->
    S.

%% Every 200th one is large enough to fill the buffers of a link.
payload(N) when N rem 200 =:= 0 -> binary:copy(<<N:64>>, 40000);
payload(_) -> rand:bytes(rand:uniform(1500)).

read_answers(#{to := To, last := Last, gap := Gap, sent := Sent, base := Base} = S, Ms) ->
    receive
        {ack, Receiver, N, Life} ->
            (N =< Sent andalso is_next_ack(Last, {Receiver, N, Life}, Gap)) orelse
                violation({acknowledged, To, N, Sent, Last, Life, Gap}),
            _ = ets:update_counter(?MODULE, {acknowledged, To}, 1, {{acknowledged, To}, 0}),
            read_answers(S#{last => {Receiver, N, Life}, gap => false, base => max(N, Base)}, Ms);
        {welcome, Receiver} -> read_answers(S#{receiver => Receiver}, 0);
        {nodedown, To} -> read_answers(S#{receiver => none, base => Sent, gap => true}, 0);
        {nodedown, _} -> read_answers(S, Ms);
        {nodeup, _} -> read_answers(S, Ms)
    after Ms -> sender(S)
    end.

%% Another receiver belongs to another instance of the node.
is_next_ack({Receiver, Last, _}, {Receiver, N, _}, true) -> N > Last;
is_next_ack({Receiver, Last, Was}, {Receiver, N, Life}, false) -> is_next({Last, Was}, N, Life);
is_next_ack(_, _, _) -> true.
