%% How many round trips a connect takes, counted on the wire and not by a clock: two hosts are joined by a delay line (go/cmd/
%% delayline) so long that nothing crosses unless one side waits for the other, and tcpdump says which way packets went.
%%
%%   PREFIX-a 198.18.0.1  ===== TUN, 300 ms each way =====  198.18.0.2 PREFIX-b
-module(handover_flights_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [stock_takes_five, handover_takes_three, falling_back_takes_seven].

-record(seen, {turns = [] :: [string()],                                   % the last first
               ends = #{} :: #{{Source :: string(), Destination :: string()} => integer()},
               lines = [] :: [string()]}).

-define(CHALLENGE_ACK_LENGTH, 19).     % Length:16, 'a', Digest:16 bytes: the last packet of a handshake

init_per_suite(Config) ->
    case os:cmd(filename:join([handover_ct:root(), "ct", "hosts.sh"]) ++ " check") of
        "" -> needs_tcpdump(os:find_executable("tcpdump"), Config);
        Reason -> {skip, string:trim(Reason)}
    end.

needs_tcpdump(false, _) ->
    {skip, "tcpdump is missing: make deps installs it"};
needs_tcpdump(Tcpdump, Config) ->
    Built = filename:join([handover_ct:root(), "_build", "delayline"]),      % by test/long/matrix.sh: a chroot has no Go
    case {filelib:is_regular(Built), os:find_executable("go")} of
        {true, _} -> [{tcpdump, Tcpdump}, {delayline, Built} | Config];
        {false, false} -> {skip, "go is missing, to build the delay line"};
        {false, Go} -> [{tcpdump, Tcpdump}, {delayline, delayline(Go, ?config(priv_dir, Config))} | Config]
    end.

delayline(Go, Dir) ->
    Delayline = filename:join(Dir, "delayline"),
    "" = os:cmd("cd " ++ handover_ct:root() ++ " && " ++ Go ++ " build -C test -o " ++ Delayline ++ " ./delayline"),
    Delayline.

end_per_suite(_) -> ok.

init_per_testcase(Case, Config) ->
    Prefix = lists:concat(["hfl", os:getpid(), "-", erlang:phash2(Case, 100)]),
    Namespaces = [Prefix ++ "-a", Prefix ++ "-b"],
    [begin "" = os:cmd("ip netns add " ++ Ns), "" = os:cmd("ip -n " ++ Ns ++ " link set lo up") end || Ns <- Namespaces],
    Line = delay_line(Namespaces, Config),
    [{namespaces, Namespaces}, {line, Line} | Config].

end_per_testcase(_, Config) ->
    port_close(?config(line, Config)),
    [begin
         _ = os:cmd("ip netns pids " ++ Ns ++ " | xargs -r kill -KILL"),
         "" = os:cmd("ip netns del " ++ Ns)
     end || Ns <- ?config(namespaces, Config)],
    ok.

delay_line([A, B], Config) ->
    Line = open_port({spawn_executable, ?config(delayline, Config)},
                     [{args, ["-a", A, "-b", B, "-addr-a", "198.18.0.1/30", "-addr-b", "198.18.0.2/30", "-delay", "300ms"]},
                      {line, 200}]),
    receive {Line, {data, {eol, "ready" ++ _}}} -> Line after 60000 -> error(no_delay_line) end.

stock_takes_five(Config) ->
    takes(5, "inet_tcp", "inet_tcp", Config).

handover_takes_three(Config) ->
    takes(3, "handover_tcp", "handover_tcp", Config).

%% To a stock EPMD: one for TCP, one for its refusal, then the stock five. The refusal is a FIN, which is not counted: nobody
%% waits for most FINs.
falling_back_takes_seven(Config) ->
    takes(7 - 1, "handover_tcp", "inet_tcp", Config).

%% From SYN to the challenge's acknowledgement. A failure shows the packets.
takes(RoundTrips, ProtoA, ProtoB, Config) ->
    {Directions, Lines} = conversation(ProtoA, ProtoB, Config),
    ?assertEqual({RoundTrips, Lines}, {length(Directions) div 2, Lines}).

conversation(ProtoA, ProtoB, Config) ->
    [NsA, NsB] = ?config(namespaces, Config),
    A = node(a, "198.18.0.1", NsA, ProtoA),
    B = node(b, "198.18.0.2", NsB, ProtoB),
    try
        Capture = capture(NsA, Config),
        ?assertEqual(true, handover_ct:call(A, net_kernel, connect_node, [handover_ct:name(B)])),
        directions(Capture, #seen{})
    after
        [handover_ct:stop_node(P) || P <- [A, B]]
    end.

node(Name, Ip, Ns, Proto) ->
    Proto =:= "inet_tcp" andalso os:cmd("ip netns exec " ++ Ns ++ " " ++ os:find_executable("epmd") ++ " -daemon"),
    handover_ct:start_node(Name, #{epmd_port => 4369, proto => Proto, host => Ip, starts_epmd => true,
                                   exec => {os:find_executable("ip"), ["netns", "exec", Ns, os:find_executable("erl")]}}).

capture(Ns, Config) ->
    [Device] = [D || D <- string:lexemes(os:cmd("ip -n " ++ Ns ++ " -br link | cut -d ' ' -f 1"), "\n"), D =/= "lo"],
    Port = open_port({spawn_executable, os:find_executable("ip")},
                     [{args, ["netns", "exec", Ns, ?config(tcpdump, Config), "-n", "-l", "--immediate-mode", "-i", Device, "tcp"]},
                      {line, 1000}, stderr_to_stdout]),
    receive {Port, {data, {eol, "listening on" ++ _}}} -> Port
    after 60000 -> error(no_capture)
    end.

%% The turns of the conversation: packets that say something (a SYN or bytes), those of one side in a row as one. On a busy machine
%% tcpdump misses one now and then; the acknowledgement of its bytes shows that it was there.

directions(Port, #seen{lines = Lines} = Seen) ->
    receive
        {Port, {data, {eol, Line}}} ->
            case re:run(Line, "IP (198\\.18\\.0\\.([12])\\.[0-9]+) > (\\S+): Flags \\[([^]]*)\\](?:, seq (?:[0-9]+:)?([0-9]+))?"
                        "(?:, ack ([0-9]+))?.*length ([0-9]+)", [{capture, all_but_first, list}]) of
                {match, [Source, From, Destination, Flags, End, Ack, Length]} ->
                    packet(Port, From, list_to_integer(Length),
                           turns(From, {Source, Destination}, Flags, number(End), number(Ack), Length, Seen#seen{lines = [Line | Lines]}));
                nomatch ->
                    directions(Port, Seen#seen{lines = [Line | Lines]})
            end
    after 60000 -> error({no_challenge_ack, lists:reverse(Lines)})
    end.

packet(Port, "2", ?CHALLENGE_ACK_LENGTH, #seen{turns = Turns, lines = Lines}) ->
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    handover_ct:kill(OsPid, "TERM"),
    {lists:reverse(Turns), lists:reverse(Lines)};
packet(Port, _, _, Seen) ->
    directions(Port, Seen).

number("") -> 0;
number(Text) -> list_to_integer(Text).

%% The numbers of a SYN are absolute, all others are counted from it. A FIN counts as a byte.
turns(From, {Source, Destination} = Way, Flags, End, Ack, Length, #seen{turns = Turns, ends = Ends} = Seen) ->
    Other = {Destination, Source},
    case lists:member($S, Flags) of
        true ->
            Seen#seen{turns = turn(From, Turns), ends = Ends#{Way => 1}};
        false ->
            Missed = Ack > maps:get(Other, Ends, Ack),
            Before = case Missed of
                         true -> turn(other(From), Turns);
                         false -> Turns
                     end,
            Now = case Length of
                      "0" -> Before;
                      _ -> turn(From, Before)
                  end,
            Fin = length([F || F <- Flags, F =:= $F]),
            Seen#seen{turns = Now, ends = Ends#{Way => max(End + Fin, maps:get(Way, Ends, 1)), Other => max(Ack, maps:get(Other, Ends, 1))}}
    end.

other("1") -> "2";
other("2") -> "1".

turn(From, [From | _] = Turns) -> Turns;
turn(From, Turns) -> [From | Turns].
