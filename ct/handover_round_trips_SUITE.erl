%% How many round trips a connect takes, counted on the wire and not with a clock. test/delayline joins two hosts with a
%% delay that is longer than anything else takes. So packets of the two directions alternate only if one side waits for
%% the other, and tcpdump shows how often that happens.
%%
%%   PREFIX-a 198.18.0.1  ===== TUN, 300 ms each way =====  198.18.0.2 PREFIX-b
-module(handover_round_trips_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 2}}].

all() -> [stock_takes_five, handover_takes_three, falling_back_takes_seven].

-type address() :: string().

%% What tcpdump has shown. A turn is the number of the host that sent. The lists have the last element first.
-record(seen, {turns = [] :: [string()],
               ends = #{} :: #{{Source :: address(), Destination :: address()} => Sequence :: integer()},
               lines = [] :: [string()]}).

-define(CHALLENGE_ACK_LENGTH, 19).     % Length:16, 'a', Digest:16 bytes: the last packet of a handshake

init_per_suite(Config) ->
    case handover_ct:hosts(["check"]) of
        "" -> find_programs(os:find_executable("tcpdump"), Config);
        Reason -> {skip, Reason}
    end.

find_programs(false, _) ->
    {skip, "tcpdump is missing: make deps installs it"};
find_programs(Tcpdump, Config) ->
    Built = filename:join([handover_ct:root(), "_build", "delayline"]),   % by test/long/matrix.sh: a chroot has no Go
    case {filelib:is_regular(Built), os:find_executable("go")} of
        {true, _} -> [{tcpdump, Tcpdump}, {delayline, Built} | Config];
        {false, false} -> {skip, "go is missing, to build the delay line"};
        {false, Go} -> [{tcpdump, Tcpdump}, {delayline, build_delayline(Go, ?config(priv_dir, Config))} | Config]
    end.

build_delayline(Go, Dir) ->
    Delayline = filename:join(Dir, "delayline"),
    "" = os:cmd("cd " ++ handover_ct:root() ++ " && " ++ Go ++ " build -C test -o " ++ Delayline ++ " ./delayline"),
    Delayline.

end_per_suite(_) -> ok.

init_per_testcase(Case, Config) ->
    Prefix = lists:concat(["hfl", os:getpid(), "-", erlang:phash2(Case, 100)]),
    Namespaces = [Prefix ++ "-a", Prefix ++ "-b"],
    ["" = os:cmd("ip netns add " ++ Ns ++ " && ip -n " ++ Ns ++ " link set lo up") || Ns <- Namespaces],
    Line = start_delayline(Namespaces, Config),
    [{namespaces, Namespaces}, {line, Line} | Config].

end_per_testcase(_, Config) ->
    port_close(?config(line, Config)),
    [begin
         _ = os:cmd("ip netns pids " ++ Ns ++ " | xargs -r kill -KILL"),
         "" = os:cmd("ip netns del " ++ Ns)
     end || Ns <- ?config(namespaces, Config)],
    ok.

start_delayline([A, B], Config) ->
    Line = open_port({spawn_executable, ?config(delayline, Config)},
                     [{args, ["-a", A, "-b", B, "-addr-a", "198.18.0.1/30", "-addr-b", "198.18.0.2/30",
                              "-delay", "300ms"]},
                      {line, 200}]),
    receive {Line, {data, {eol, "ready" ++ _}}} -> Line after 60000 -> error(no_delayline) end.

stock_takes_five(Config) ->
    assert_round_trips(5, "inet_tcp", "inet_tcp", Config).

handover_takes_three(Config) ->
    assert_round_trips(3, "handover_tcp", "handover_tcp", Config).

%% With the stock EPMD: one for TCP, one for its refusal, then the five of a connect without handover. The refusal is a
%% FIN, and the count leaves out FINs, because the other side does not wait for most of them.
falling_back_takes_seven(Config) ->
    assert_round_trips(7 - 1, "handover_tcp", "inet_tcp", Config).

%% Counts from the SYN to the acknowledgement of the challenge. If it fails, the packets are shown.
assert_round_trips(RoundTrips, ProtoA, ProtoB, Config) ->
    {Turns, Lines} = record_connect(ProtoA, ProtoB, Config),
    ?assertEqual({RoundTrips, Lines}, {length(Turns) div 2, Lines}).

record_connect(ProtoA, ProtoB, Config) ->
    [NsA, NsB] = ?config(namespaces, Config),
    [start_stock_epmd(Ns) || {Ns, "inet_tcp"} <- [{NsA, ProtoA}, {NsB, ProtoB}]],
    Options = #{starts_epmd => true},
    handover_ct:with_nodes([{a, Options#{netns => NsA, proto => ProtoA, host => "198.18.0.1"}},
                            {b, Options#{netns => NsB, proto => ProtoB, host => "198.18.0.2"}}], 4369,
      fun(A, B) ->
              Tcpdump = start_tcpdump(NsA, Config),
              ?assertEqual(true, handover_ct:call(A, net_kernel, connect_node, [handover_ct:name(B)])),
              read_packets(Tcpdump, #seen{})
      end).

start_stock_epmd(Ns) ->
    os:cmd("ip netns exec " ++ Ns ++ " " ++ os:find_executable("epmd") ++ " -daemon").

start_tcpdump(Ns, Config) ->
    Devices = string:lexemes(os:cmd("ip -n " ++ Ns ++ " -br link | cut -d ' ' -f 1"), "\n"),
    [Device] = Devices -- ["lo"],
    Port = open_port({spawn_executable, os:find_executable("ip")},
                     [{args, ["netns", "exec", Ns, ?config(tcpdump, Config),
                              "-n", "-l", "--immediate-mode", "-i", Device, "tcp"]},
                      {line, 1000}, stderr_to_stdout]),
    receive {Port, {data, {eol, "listening on" ++ _}}} -> Port
    after 60000 -> error(no_capture)
    end.

%% Reads tcpdump's lines until the last packet of the handshake, and counts turns: a SYN or bytes from one side, until
%% the other side sends a SYN or bytes. On a busy machine tcpdump may miss a packet. Then the acknowledgement of its
%% bytes shows that it was sent.
read_packets(Port, #seen{lines = Lines} = Seen) ->
    receive
        {Port, {data, {eol, Line}}} ->
            Next = Seen#seen{lines = [Line | Lines]},
            case re:run(Line, "IP (198\\.18\\.0\\.([12])\\.[0-9]+) > (\\S+): Flags \\[([^]]*)\\]"
                        "(?:, seq (?:[0-9]+:)?([0-9]+))?(?:, ack ([0-9]+))?.*length ([0-9]+)",
                        [{capture, all_but_first, list}]) of
                {match, [Source, From, Destination, Flags, End, Ack, Length]} ->
                    Now = add_packet(From, {Source, Destination}, Flags, number(End), number(Ack), Length, Next),
                    end_or_continue(Port, From, list_to_integer(Length), Now);
                nomatch ->
                    read_packets(Port, Next)
            end
    after 60000 -> error({no_challenge_ack, lists:reverse(Lines)})
    end.

end_or_continue(Port, "2", ?CHALLENGE_ACK_LENGTH, #seen{turns = Turns, lines = Lines}) ->
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    handover_ct:signal(OsPid, "TERM"),
    {lists:reverse(Turns), lists:reverse(Lines)};
end_or_continue(Port, _, _, Seen) ->
    read_packets(Port, Seen).

number("") -> 0;
number(Text) -> list_to_integer(Text).

%% tcpdump shows the sequence numbers of a SYN as they are, and all others relative to it. A FIN takes one number.
add_packet(From, {Source, Destination} = Way, Flags, End, Ack, Length, #seen{turns = Turns, ends = Ends} = Seen) ->
    Other = {Destination, Source},
    case lists:member($S, Flags) of
        true ->
            Seen#seen{turns = add_turn(From, Turns), ends = Ends#{Way => 1}};
        false ->
            Missed = Ack > maps:get(Other, Ends, Ack),
            Before = case Missed of
                         true -> add_turn(other(From), Turns);
                         false -> Turns
                     end,
            Now = case Length of
                      "0" -> Before;
                      _ -> add_turn(From, Before)
                  end,
            Fin = length([F || F <- Flags, F =:= $F]),
            Seen#seen{turns = Now, ends = Ends#{Way => max(End + Fin, maps:get(Way, Ends, 1)),
                                                Other => max(Ack, maps:get(Other, Ends, 1))}}
    end.

other("1") -> "2";
other("2") -> "1".

add_turn(From, [From | _] = Turns) -> Turns;
add_turn(From, Turns) -> [From | Turns].
