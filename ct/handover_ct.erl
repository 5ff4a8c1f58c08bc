%% Helpers that the suites share: EPMDs and nodes on a port of their own, conditions with deadlines, open descriptors.
-module(handover_ct).

-export([root/0, free_port/0, program/1, ebin/0, copy_without_programs/1, with_ipv6/1, hosts/1]).
-export([start_epmd/2, start_epmd/3, stop_epmd/1, epmd_os_pid/1]).
-export([registered_names/1, registered_extra/2, request_handover/2]).
-export([with_server/4, with_relay/3, handshake_answer/1]).
-export([with_cluster/4, with_nodes/3, start_node/2, stop_node/1, call/4, call/5, name/1]).
-export([ping/2, connect/2, disconnect/2, dist_port/2, await_no_nodes/1, await_registered/1]).
-export([remsh/3, failing_node_output/3, failing_node_output/4, node_output/3, run_node/5]).
-export([until/1, until/2, signal/2, while_stopped/2, is_running/1, beam_os_pid/1, carrier_os_pid/1]).
-export([fds/1, await_fds/2, own_fds/1, await_own_fds/2]).
-export([record_reports/1, await_report/2, await_reports/3, report_text/1]).

-define(DEADLINE_MS, 60000).

%% A TCP port on which nothing listens at the moment.
free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

%% The top directory of the repository. The build is below it.
root() ->
    root(filename:absname(ebin())).

root(Dir) ->
    case filelib:is_regular(filename:join([Dir, "docs", "PROTOCOL.md"])) of
        true -> Dir;
        false when Dir =/= "/" -> root(filename:dirname(Dir))
    end.

ebin() ->
    filename:dirname(code:which(handover)).

program(Name) ->
    filename:absname(filename:join([ebin(), "..", "priv", Name])).

%% Copies the application without its programs and returns the directory of the copy. Each copy has a directory of its
%% own, because the suites of one run share priv_dir.
copy_without_programs(Config) ->
    {priv_dir, Private} = lists:keyfind(priv_dir, 1, Config),
    Dir = filename:join([Private, integer_to_list(erlang:unique_integer([positive])), "handover"]),
    ok = filelib:ensure_path(Dir),
    "" = os:cmd("cp -rL " ++ ebin() ++ " " ++ Dir),
    Dir.

%% Runs Fun if this machine has IPv6. Otherwise the test case is skipped.
with_ipv6(Fun) ->
    case gen_tcp:listen(0, [inet6, {ip, {0, 0, 0, 0, 0, 0, 0, 1}}]) of
        {ok, Socket} ->
            ok = gen_tcp:close(Socket),
            Fun();
        {error, Reason} ->
            {skip, lists:flatten(io_lib:format("no IPv6 on this machine: ~p", [Reason]))}
    end.

%% Runs ct/hosts.sh and returns its output, which is empty if it succeeded.
hosts(Args) ->
    string:trim(os:cmd(lists:join($ , [filename:join([root(), "ct", "hosts.sh"]) | Args]))).

%% EPMDs

start_epmd(Kind, Port) ->
    start_epmd(Kind, Port, []).

%% Kind is handover or stock. The caller must call stop_epmd/1 with the result.
start_epmd(Kind, Port, Args) ->
    Epmd = open_port({spawn_executable, epmd(Kind)},
                     [{args, ["-port", integer_to_list(Port) | Args]}, stderr_to_stdout, exit_status, binary]),
    until(fun() -> is_listening(Port) end),
    Epmd.

epmd(handover) -> program("epmd");
epmd(stock) -> os:find_executable("epmd").

is_listening(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, Socket} -> ok = gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

epmd_os_pid(Epmd) ->
    {os_pid, OsPid} = erlang:port_info(Epmd, os_pid),
    OsPid.

%% Is a no-op if the EPMD has ended.
stop_epmd(Epmd) ->
    case erlang:port_info(Epmd, os_pid) of
        {os_pid, OsPid} ->
            signal(OsPid, "TERM"),
            receive {Epmd, {exit_status, _}} -> ok after ?DEADLINE_MS -> error({epmd_still_runs, OsPid}) end;
        undefined -> ok
    end.

%% The alive names that the EPMD at Port has, in its order.
registered_names(Port) ->
    <<_:32, Text/binary>> = receive_all(send_request(Port, "n"), <<>>),
    [binary_to_list(Name) || <<"name ", Rest/binary>> <- binary:split(Text, <<"\n">>, [global]),
                             [Name | _] <- [binary:split(Rest, <<" at port ">>)]].

%% The Extra that the node Name has registered with the EPMD at Port, or {no, Result}.
registered_extra(Port, Name) ->
    case receive_all(send_request(Port, ["z", Name]), <<>>) of
        <<$w, 0, _:64, Length:16, _:Length/binary, Size:16, Extra:Size/binary>> -> Extra;
        <<$w, Result>> -> {no, Result}
    end.

%% Sends a HANDOVER_REQ for Name to the EPMD at Port. Returns the connection.
request_handover(Port, Name) ->
    send_request(Port, ["h", Name]).

send_request(Port, Request) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    ok = gen_tcp:send(Socket, [<<(iolist_size(Request)):16>>, Request]),
    Socket.

receive_all(Socket, Acc) ->
    case gen_tcp:recv(Socket, 0, ?DEADLINE_MS) of
        {ok, Data} -> receive_all(Socket, <<Acc/binary, Data/binary>>);
        {error, closed} -> gen_tcp:close(Socket), Acc
    end.

%% Other programs on EPMD's port

%% Runs Fun while a server listens at Ip and Port. The server answers the first bytes of each connection with Answer. If
%% Answer is close, it closes the connection.
with_server(Ip, Port, Answer, Fun) ->
    with_listener(Ip, Port, fun(Listener) -> serve(Listener, Answer) end, Fun).

with_listener(Ip, Port, Serve, Fun) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {active, false}, {ip, Ip}, {reuseaddr, true}]),
    Server = spawn_link(fun() -> Serve(Listener) end),
    try Fun()
    after
        unlink(Server),
        exit(Server, kill),
        gen_tcp:close(Listener)
    end.

serve(Listener, Answer) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    {ok, _} = gen_tcp:recv(Socket, 0, ?DEADLINE_MS),
    case Answer of
        close -> ok = gen_tcp:close(Socket);
        _ -> gen_tcp:send(Socket, Answer)
    end,
    serve(Listener, Answer).

%% Runs Fun while each connection to {Ip, Port} is relayed to Target, which is {Ip, Port} too.
with_relay({Ip, Port}, Target, Fun) ->
    with_listener(Ip, Port, fun(Listener) -> relay(Listener, Target) end, Fun).

relay(Listener, {Ip, Port} = Target) ->
    {ok, Client} = gen_tcp:accept(Listener),
    {ok, Server} = gen_tcp:connect(Ip, Port, [binary, {active, false}]),
    Pump = spawn(fun() -> receive go -> pump(Client, Server) end end),
    [ok = gen_tcp:controlling_process(S, Pump) || S <- [Client, Server]],
    Pump ! go,
    relay(Listener, Target).

pump(A, B) ->
    [inet:setopts(S, [{active, true}]) || S <- [A, B]],
    pump(#{A => B, B => A}).

pump(Other) ->
    receive
        {tcp, Socket, Data} -> _ = gen_tcp:send(maps:get(Socket, Other), Data), pump(Other);
        {_, _} -> done
    end.

%% The bytes with which a node that calls itself Name (a binary) answers a handover: HANDOVER_RESP, status, challenge.
handshake_answer(Name) ->
    Challenge = <<$N, (1 bsl 24):64, 1:32, 1:32, (byte_size(Name)):16, Name/binary>>,
    <<$i, 0, 6:16, 3:16, "sok", (byte_size(Challenge)):16, Challenge/binary>>.

%% Nodes

%% Options:
%%   epmd_port      required
%%   proto          "handover_tcp", or a list of several protocols
%%   host           "127.0.0.1"
%%   names          longnames
%%   args, env      more arguments and environment variables
%%   netns          the network namespace to run in
%%   exec           the command to run instead of erl
%%   undistributed  false
%%   starts_epmd    false: the node does not start an EPMD, also if a suite has killed it
start_node(Name, Options) ->
    Host = maps:get(host, Options, "127.0.0.1"),
    Start = #{connection => standard_io, args => args(Options), env => env(Options), wait_boot => 2 * ?DEADLINE_MS,
              shutdown => halt},
    Named = Start#{name => Name, host => Host, longnames => maps:get(names, Options, longnames) =:= longnames},
    case maps:get(undistributed, Options, false) of
        true -> started(peer:start(with_exec(Options, Start)));
        false -> started(peer:start(with_exec(Options, Named)))
    end.

started({ok, Peer, _}) -> Peer;
started({ok, Peer}) -> Peer.

with_exec(#{netns := Namespace}, Start) ->
    Start#{exec => {os:find_executable("ip"), ["netns", "exec", Namespace, os:find_executable("erl")]}};
with_exec(#{exec := Exec}, Start) ->
    Start#{exec => Exec};
with_exec(_, Start) ->
    Start.

args(Options) ->
    ["-handover", "start_epmd", atom_to_list(maps:get(starts_epmd, Options, false)),
     "-proto_dist"] ++ protocols(maps:get(proto, Options, "handover_tcp")) ++
    ["-start_epmd", "false", "-setcookie", "handover_ct", "-connect_all", "false",
     "-pa", ebin(), "-pa", filename:dirname(code:which(?MODULE)),
     "-kernel", "prevent_overlapping_partitions", "false"]
        ++ maps:get(args, Options, []).

protocols([C | _] = Protocol) when is_integer(C) -> [Protocol];
protocols(Protocols) -> Protocols.

env(#{epmd_port := Port} = Options) ->
    [{"ERL_EPMD_PORT", integer_to_list(Port)} | maps:get(env, Options, [])].

%% Is a no-op if the node has ended.
stop_node(Peer) ->
    try peer:stop(Peer) catch exit:_ -> ok end.

%% Runs Fun with an EPMD and nodes, which are its arguments. They are stopped afterwards, also if Fun fails.
%% Epmd: none, handover, stock or {Kind, Args}. Specs: a list of Name or {Name, Options}.
%% The port of EPMD is given directly, or as epmd_port in the Config of the test case.
with_cluster(Epmd, Specs, Config, Fun) when is_list(Config) ->
    {epmd_port, Port} = lists:keyfind(epmd_port, 1, Config),
    with_cluster(Epmd, Specs, Port, Fun);
with_cluster(none, Specs, Port, Fun) ->
    with_nodes(Specs, Port, Fun);
with_cluster({Kind, Args}, Specs, Port, Fun) ->
    Epmd = start_epmd(Kind, Port, Args),
    try with_nodes(Specs, Port, Fun)
    after stop_epmd(Epmd)
    end;
with_cluster(Kind, Specs, Port, Fun) ->
    with_cluster({Kind, []}, Specs, Port, Fun).

%% The same without an EPMD.
with_nodes(Specs, Port, Fun) ->
    with_nodes(Specs, Port, [], Fun).

with_nodes([], _Port, Nodes, Fun) ->
    apply(Fun, lists:reverse(Nodes));
with_nodes([{Name, Options} | Specs], Port, Nodes, Fun) ->
    Peer = start_node(Name, Options#{epmd_port => maps:get(epmd_port, Options, Port)}),
    try with_nodes(Specs, Port, [Peer | Nodes], Fun)
    after
        stop_node(Peer)
    end;
with_nodes([Name | Specs], Port, Nodes, Fun) ->
    with_nodes([{Name, #{}} | Specs], Port, Nodes, Fun).

call(Peer, M, F, A) ->
    call(Peer, M, F, A, 2 * ?DEADLINE_MS).

call(Peer, M, F, A, Ms) ->
    peer:call(Peer, M, F, A, Ms).

name(Peer) ->
    call(Peer, erlang, node, []).

ping(Peer, Node) ->
    call(Peer, net_adm, ping, [Node]).

%% Connects Peer to the node Other, which must succeed, and returns Other's name.
connect(Peer, Other) ->
    Node = name(Other),
    pong = ping(Peer, Node),
    Node.

%% Disconnects Peer from the node Other, and waits until neither lists the other.
disconnect(Peer, Other) ->
    Ends = [{Peer, Other}, {Other, Peer}],
    IsConnected = fun(P, Q) -> lists:member(name(Q), call(P, erlang, nodes, [connected])) end,
    %% The end that took the connection is connected a moment later.
    [until(fun() -> IsConnected(P, Q) end) || {P, Q} <- Ends],
    true = call(Peer, erlang, disconnect_node, [name(Other)]),
    [until(fun() -> not IsConnected(P, Q) end) || {P, Q} <- Ends],
    ok.

%% The Erlang port of the link from Peer to Node.
dist_port(Peer, Node) ->
    [Port] = [P || {N, P} <- call(Peer, erlang, system_info, [dist_ctrl]), N =:= Node],
    Port.

%% Waits until Peer has no visible link.
await_no_nodes(Peer) ->
    until(fun() -> call(Peer, erlang, nodes, []) =:= [] end).

%% Waits until Peer is registered with handover's EPMD.
await_registered(Peer) ->
    until(fun() -> maps:get(epmd, call(Peer, handover, info, [])) =:= handover end).

%% Nodes and their output

%% Runs `erl -remsh Node' on a terminal, types Input at the first prompt, leaves with ^C, and returns the output.
remsh(Node, Port, Input) ->
    Erl = ["erl -name rem@127.0.0.1 -hidden ", lists:join(" ", args(#{})), " -remsh ", atom_to_list(Node)],
    Terminal = open_port({spawn_executable, os:find_executable("script")},
                         [{args, ["-qfc", unicode:characters_to_list(Erl), "/dev/null"]}, exit_status,
                          {env, [{"ERL_EPMD_PORT", integer_to_list(Port)}, {"TERM", "vt100"}]}]),
    read_terminal(Terminal, [], [{"1>", Input}, {"2>", [3]}, {"BREAK", "a\n"}]).

read_terminal(Terminal, Acc, Script) ->
    receive
        {Terminal, {data, Data}} -> type_at_prompt(Terminal, Acc ++ Data, Script);
        {Terminal, {exit_status, _}} -> Acc
    after ?DEADLINE_MS ->
            {os_pid, OsPid} = erlang:port_info(Terminal, os_pid),
            signal(OsPid, "KILL"),
            error({no_prompt, Script, Acc})
    end.

type_at_prompt(Terminal, Acc, [{Prompt, Line} | Rest] = Script) ->
    case string:find(Acc, Prompt) of
        nomatch -> read_terminal(Terminal, Acc, Script);
        _ -> true = port_command(Terminal, Line), read_terminal(Terminal, Acc, Rest)
    end;
type_at_prompt(Terminal, Acc, []) ->
    read_terminal(Terminal, Acc, []).

%% The output of a node that should not start. If it does start, the output has the line "node_is_up".
failing_node_output(Name, Port, Env) ->
    failing_node_output(Name, Port, Env, []).

failing_node_output(Name, Port, Env, Args) ->
    run_node(Name, Port, Env, Args ++ ["-eval", "io:format(\"node_is_up~n\"), halt()."]).

%% The output of a node that starts with an EPMD of Kind, and stops.
node_output(Name, Port, Kind) ->
    Epmd = start_epmd(Kind, Port),
    try run_node(Name, Port, [], ["-eval", "logger:set_primary_config(level, notice), init:stop()."])
    after stop_epmd(Epmd)
    end.

run_node(Name, Port, Env, Args) ->
    run_node(Name, Port, Env, Args, "handover_tcp").

%% The output of a node from its start to its end.
run_node(Name, Port, Env, Args, Proto) ->
    Erl = open_port({spawn_executable, os:find_executable("erl")},
                    [{args, ["-noinput", "-name", Name ++ "@127.0.0.1" | args(#{proto => Proto})] ++ Args},
                     {env, [{"ERL_EPMD_PORT", integer_to_list(Port)}, {"ERL_CRASH_DUMP", "/dev/null"} | Env]},
                     stderr_to_stdout, exit_status]),
    output(Erl, []).

output(Port, Acc) ->
    receive
        {Port, {data, Data}} -> output(Port, [Acc, Data]);
        {Port, {exit_status, _}} -> unicode:characters_to_list(iolist_to_binary(Acc))
    after 2 * ?DEADLINE_MS ->
            {os_pid, OsPid} = erlang:port_info(Port, os_pid),
            signal(OsPid, "KILL"),
            error({node_does_not_end, lists:flatten(Acc)})
    end.

%% Conditions

%% Waits until Condition returns true. Any other result is part of the error at the deadline.
until(Condition) ->
    until(Condition, ?DEADLINE_MS).

until(Condition, Ms) ->
    until(Condition, erlang:monotonic_time(millisecond) + Ms, Ms).

until(Condition, Deadline, Ms) ->
    case Condition() of
        true -> ok;
        Other ->
            erlang:monotonic_time(millisecond) < Deadline orelse error({not_within_ms, Ms, Other}),
            receive after 20 -> ok end,
            until(Condition, Deadline, Ms)
    end.

%% Operating system processes

signal(OsPid, Signal) ->
    "" = os:cmd(lists:flatten(io_lib:format("kill -~s ~b", [Signal, OsPid]))),
    ok.

%% Runs Fun while the process is stopped (SIGSTOP). The kernel stops it when one of its threads has handled the signal; on
%% a busy machine the other threads run until then.
while_stopped(OsPid, Fun) ->
    signal(OsPid, "STOP"),
    try until(fun() -> is_stopped(OsPid) end), Fun() after signal(OsPid, "CONT") end.

is_stopped(OsPid) ->
    {ok, Stat} = file:read_file(io_lib:format("/proc/~b/stat", [OsPid])),
    re:run(Stat, "\\) T ") =/= nomatch.

is_running(OsPid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(OsPid)).

beam_os_pid(Peer) ->
    list_to_integer(call(Peer, os, getpid, [])).

carrier_os_pid(Peer) ->
    maps:get(os_pid, call(Peer, handover, info, [])).

%% Descriptors

%% The kinds of the open descriptors of a process. If two results differ, the difference shows what was opened.
fds(OsPid) ->
    Dir = "/proc/" ++ integer_to_list(OsPid) ++ "/fd",
    {ok, Numbers} = file:list_dir(Dir),
    lists:sort([fd_kind(Link) || N <- Numbers, {ok, Link} <- [file:read_link(filename:join(Dir, N))]]).

%% A path in /proc has the pid of a process, which may differ at the next call. In a chroot it is not at the beginning.
fd_kind(Link) ->
    case re:run(Link, "/proc/[0-9]+/") of
        {match, _} -> "proc";
        nomatch -> hd(string:split(Link, ":["))
    end.

%% Waits until a process has no descriptor that is not in Fds. Fewer are accepted: a descriptor that was about to be
%% closed when Fds was read is no leak.
await_fds(OsPid, Fds) ->
    await_no_more(fun() -> fds(OsPid) end, Fds).

%% The same for the BEAM of a node. own_fds/1 waits until the node loads nothing more.
own_fds(Peer) ->
    call(Peer, handover_ct_work, own_fds, []).

await_own_fds(Peer, Fds) ->
    await_no_more(fun() -> own_fds(Peer) end, Fds).

await_no_more(Read, Fds) ->
    until(fun() ->
                  case Read() -- Fds of
                      [] -> true;
                      More -> {too_many, More}
                  end
          end, 2 * ?DEADLINE_MS).

%% Reports

%% Records handover's reports on the node from now on. Returns a function that reads them.
record_reports(Peer) ->
    ok = call(Peer, handover_ct_logs, start, []),
    fun() -> call(Peer, handover_ct_logs, get, []) end.

%% Waits for a report of Event and returns the first one. Reports is what record_reports/1 returned.
await_report(Reports, Event) ->
    hd(await_reports(Reports, Event, 1)).

%% Waits for Count reports of Event, because a connect may return before its failure is logged. Returns all of them.
await_reports(Reports, Event, Count) ->
    OfEvent = fun() -> [R || #{event := E} = R <- Reports(), E =:= Event] end,
    until(fun() -> length(OfEvent()) >= Count orelse OfEvent() end),
    OfEvent().

%% The text that is logged for a report.
report_text(Report) ->
    {Format, Args} = handover_log:format(Report),
    lists:flatten(io_lib:format(Format, Args)).
