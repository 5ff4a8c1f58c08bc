%% What the suites share: EPMDs and nodes of their own on a port of their own, conditions with deadlines, counts of fds.
-module(handover_ct).

-export([root/0, free_port/0, program/1, ebin/0, copy_without_programs/1]).
-export([start_epmd/2, start_epmd/3, stop_epmd/1, epmd_os_pid/1, kill/2,
         with_server/4, with_relay/3]).
-export([with/4, with_nodes/3]).
-export([start_node/2, stop_node/1, call/4, call/5, connect/2, name/1]).
-export([remsh/3, failing_node/3, failing_node/4, node_output/3, run_node/5]).
-export([until/1, until/2, fds/1, own_fds/1, own_fds_are/2, carrier/1, alive/1, logs/1, reports/3, epmd_names/2, extra/2, dist_port/2]).

-define(DEADLINE_MS, 60000).

%% A TCP port that nobody listens on at the moment.
free_port() ->
    {ok, Socket} = gen_tcp:listen(0, [{ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Socket),
    ok = gen_tcp:close(Socket),
    Port.

%% The top of the repository: the build is below it.
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

%% The directory of a copy of the application that has no programs. Each copy has a directory of its own: the suites of one run
%% share priv_dir.
copy_without_programs(Config) ->
    {priv_dir, Private} = lists:keyfind(priv_dir, 1, Config),
    Dir = filename:join([Private, integer_to_list(erlang:unique_integer([positive])), "handover"]),
    ok = filelib:ensure_path(Dir),
    "" = os:cmd("cp -rL " ++ ebin() ++ " " ++ Dir),
    Dir.

%% EPMDs

start_epmd(Kind, Port) ->
    start_epmd(Kind, Port, []).

%% Kind: handover or stock. A handle to stop it by.
start_epmd(Kind, Port, Args) ->
    Epmd = open_port({spawn_executable, epmd(Kind)},
                     [{args, ["-port", integer_to_list(Port) | Args]}, stderr_to_stdout, exit_status, binary]),
    until(fun() -> answers(Port) end),
    Epmd.

epmd(handover) -> program("epmd");
epmd(stock) -> os:find_executable("epmd").

answers(Port) ->
    case gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]) of
        {ok, Socket} -> ok = gen_tcp:close(Socket), true;
        {error, _} -> false
    end.

epmd_os_pid(Epmd) ->
    {os_pid, OsPid} = erlang:port_info(Epmd, os_pid),
    OsPid.

stop_epmd(Epmd) ->
    case erlang:port_info(Epmd, os_pid) of
        {os_pid, OsPid} ->
            kill(OsPid, "TERM"),
            receive {Epmd, {exit_status, _}} -> ok after ?DEADLINE_MS -> error({epmd_still_runs, OsPid}) end;
        undefined -> ok
    end.

kill(OsPid, Signal) ->
    "" = os:cmd(lists:flatten(io_lib:format("kill -~s ~b", [Signal, OsPid]))),
    ok.

%% Runs Fun while something that is no EPMD listens there: it answers each connection with these bytes, or closes it.
with_server(Ip, Port, Answer, Fun) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {active, false}, {ip, Ip}, {reuseaddr, true}]),
    Server = spawn_link(fun() -> serve(Listener, Answer) end),
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

%% Runs Fun while what connects to Here is connected to There.
with_relay({Ip, Port}, There, Fun) ->
    {ok, Listener} = gen_tcp:listen(Port, [binary, {active, false}, {ip, Ip}, {reuseaddr, true}]),
    Relay = spawn_link(fun() -> relay(Listener, There) end),
    try Fun()
    after
        unlink(Relay),
        exit(Relay, kill),
        gen_tcp:close(Listener)
    end.

relay(Listener, {Ip, Port} = There) ->
    {ok, Client} = gen_tcp:accept(Listener),
    {ok, Server} = gen_tcp:connect(Ip, Port, [binary, {active, false}]),
    Pump = spawn(fun() -> receive go -> pump(Client, Server) end end),
    [ok = gen_tcp:controlling_process(S, Pump) || S <- [Client, Server]],
    Pump ! go,
    relay(Listener, There).

pump(A, B) ->
    [inet:setopts(S, [{active, true}]) || S <- [A, B]],
    pump(#{A => B, B => A}).

pump(Other) ->
    receive
        {tcp, Socket, Data} -> _ = gen_tcp:send(maps:get(Socket, Other), Data), pump(Other);
        {_, _} -> done
    end.

%% What a client of EPMD at Port sees.
epmd_names(Ip, Port) ->
    {ok, Socket} = gen_tcp:connect(Ip, Port, [binary, {active, false}]),
    ok = gen_tcp:send(Socket, <<1:16, $n>>),
    Text = all(Socket, <<>>),
    [binary_to_list(Name) || <<"name ", Rest/binary>> <- binary:split(binary:part(Text, 4, byte_size(Text) - 4), <<"\n">>, [global]),
                             [Name | _] <- [binary:split(Rest, <<" at port ">>)]].

%% What the node of that name has registered with the EPMD at Port: its extra field.
extra(Port, Name) ->
    {ok, Socket} = gen_tcp:connect({127, 0, 0, 1}, Port, [binary, {active, false}]),
    ok = gen_tcp:send(Socket, [<<(length(Name) + 1):16>>, "z", Name]),
    case all(Socket, <<>>) of
        <<$w, 0, _:64, Length:16, _:Length/binary, Size:16, Extra:Size/binary>> -> Extra;
        <<$w, Result>> -> {no, Result}
    end.

all(Socket, Acc) ->
    case gen_tcp:recv(Socket, 0, ?DEADLINE_MS) of
        {ok, Data} -> all(Socket, <<Acc/binary, Data/binary>>);
        {error, closed} -> gen_tcp:close(Socket), Acc
    end.

%% Nodes

%% Options: epmd_port (must), proto ("handover_tcp" or several), host ("127.0.0.1"), names (longnames), args, env, exec,
%% undistributed (false), starts_epmd (false: an EPMD that a suite has ended stays so).
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

with_exec(#{exec := Exec}, Start) -> Start#{exec => Exec};
with_exec(_, Start) -> Start.

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

%% Fine too when it has ended.
stop_node(Peer) ->
    try peer:stop(Peer) catch exit:_ -> ok end.

call(Peer, M, F, A) ->
    call(Peer, M, F, A, 2 * ?DEADLINE_MS).

call(Peer, M, F, A, Ms) ->
    peer:call(Peer, M, F, A, Ms).

name(Peer) ->
    call(Peer, erlang, node, []).

%% Connects and gives the other's name.
connect(Peer, Other) ->
    Node = name(Other),
    pong = call(Peer, net_adm, ping, [Node]),
    Node.

%% Runs Fun with an EPMD (none, handover, stock or {Kind, Args}) and nodes (Name or {Name, Options}), as its arguments, that
%% are gone afterwards, whatever happens.
with(Epmd, Specs, Port, Fun) ->
    Handle = case Epmd of
                 none -> none;
                 {Kind, Args} -> start_epmd(Kind, Port, Args);
                 Kind -> start_epmd(Kind, Port)
             end,
    try with_nodes(Specs, Port, Fun)
    after
        Handle =:= none orelse stop_epmd(Handle)
    end.

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

%% Nodes by their output

%% What `erl -remsh Node' prints, on a terminal, when Input is typed and then left with ^C.
remsh(Node, Port, Input) ->
    Erl = ["erl -name rem@127.0.0.1 -hidden ", lists:join(" ", args(#{})), " -remsh ", atom_to_list(Node)],
    Terminal = open_port({spawn_executable, os:find_executable("script")},
                         [{args, ["-qfc", unicode:characters_to_list(Erl), "/dev/null"]}, exit_status,
                          {env, [{"ERL_EPMD_PORT", integer_to_list(Port)}, {"TERM", "vt100"}]}]),
    typed(Terminal, [], [{"1>", Input}, {"2>", [3]}, {"BREAK", "a\n"}]).

%% Types the next line when its prompt has come.
typed(Terminal, Acc, Script) ->
    receive
        {Terminal, {data, Data}} -> type(Terminal, Acc ++ Data, Script);
        {Terminal, {exit_status, _}} -> Acc
    after ?DEADLINE_MS ->
            {os_pid, OsPid} = erlang:port_info(Terminal, os_pid),
            kill(OsPid, "KILL"),
            error({no_prompt, Script, Acc})
    end.

type(Terminal, Acc, [{Prompt, Line} | Rest] = Script) ->
    case string:find(Acc, Prompt) of
        nomatch -> typed(Terminal, Acc, Script);
        _ -> true = port_command(Terminal, Line), typed(Terminal, Acc, Rest)
    end;
type(Terminal, Acc, []) ->
    typed(Terminal, Acc, []).

%% What a node prints that can't start.
failing_node(Name, Port, Env) ->
    failing_node(Name, Port, Env, []).

failing_node(Name, Port, Env, Args) ->
    run_node(Name, Port, Env, Args ++ ["-eval", "io:format(\"node_is_up~n\"), halt()."]).

%% What a node prints that starts and stops at an EPMD of Kind.
node_output(Name, Port, Kind) ->
    Epmd = start_epmd(Kind, Port),
    try run_node(Name, Port, [], ["-eval", "logger:set_primary_config(level, notice), init:stop()."])
    after stop_epmd(Epmd)
    end.

run_node(Name, Port, Env, Args) ->
    run_node(Name, Port, Env, Args, "handover_tcp").

%% What a node prints from its start to its end.
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
            kill(OsPid, "KILL"),
            error({node_does_not_end, lists:flatten(Acc)})
    end.

%% Conditions

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

%% The open fds of a process, by what they are, so that a difference explains itself.
fds(OsPid) ->
    Dir = "/proc/" ++ integer_to_list(OsPid) ++ "/fd",
    {ok, Numbers} = file:list_dir(Dir),
    lists:sort([kind(Link) || N <- Numbers, {ok, Link} <- [file:read_link(filename:join(Dir, N))]]).

kind("/proc/" ++ _) ->
    "proc";                          % of a process that may be another one later
kind(Link) ->
    [Kind | _] = string:split(Link, ":["),
    Kind.

%% What a node has open, and the condition that it has nothing more than this again. (Less is no leak: what was about to end
%% at the count before has ended.)
own_fds(Peer) ->
    call(Peer, handover_ct_work, own_fds, []).

own_fds_are(Peer, Fds) ->
    until(fun() ->
                  case own_fds(Peer) -- Fds of
                      [] -> true;
                      More -> {too_many, More}
                  end
          end, 2 * ?DEADLINE_MS).

alive(OsPid) ->
    filelib:is_dir("/proc/" ++ integer_to_list(OsPid)).

%% The os pid of a node's carrier program.
carrier(Peer) ->
    maps:get(os_pid, call(Peer, handover, info, [])).

%% The port of the link from Peer to Node.
dist_port(Peer, Node) ->
    [Port] = [P || {N, P} <- call(Peer, erlang, system_info, [dist_ctrl]), N =:= Node],
    Port.

%% Installs a logger handler on the node that keeps handover's events; gives a function that reads them.
logs(Peer) ->
    ok = call(Peer, handover_ct_logs, start, []),
    fun() -> call(Peer, handover_ct_logs, get, []) end.

%% The reports of Event once there are Count of them: a connect may return before its failure is logged.
reports(Logs, Event, Count) ->
    Reports = fun() -> [R || #{event := E} = R <- Logs(), E =:= Event] end,
    until(fun() -> length(Reports()) >= Count orelse Reports() end),
    Reports().
