%% @doc Checks the way to a node by running `handover doctor' (docs/DOCTOR.md). A program of its own, and not the carrier:
%% so it works while the carrier is down, and on a node that is not alive.
-module(handover_doctor).

-export([run/1]).

-export_type([step/0, failure/0]).

-type step() :: name | resolve | tcp | epmd | registered | handover | direct | handshake.
%% Beside a step: the program can't be started, ended otherwise than it should, or did not end.
-type failure() :: step() | {program, no_step | timeout | {exit_status, integer()} | {Reason :: term(), Path :: binary()}}.

-define(STEPS, [name, resolve, tcp, epmd, registered, handover, direct, handshake]).
%% Its eight steps take at most 8 s each.
-define(DEADLINE_MS, 90000).
-define(LINE_BYTES, 65536).
%% Its exit statuses.
-define(BY_HANDOVER, 0).
-define(FAILED, 1).
-define(DIRECT, 3).

%% @doc Prints a line a step to the caller's group leader.
-spec run(node()) -> {ok, handover | direct} | {error, failure()}.
run(Node) ->
    case where(Node) of
        {ok, Route} -> run(Node, Route);
        {error, {bad_route, Text}} -> print([<<"✘ resolve  "/utf8>>, Text]), {error, resolve}
    end.

run(Node, Route) ->
    Program = handover_config:program("handover"),
    try handover_program:open(Program, [{args, ["doctor" | args(Node, Route)]}, {line, ?LINE_BYTES}, binary, exit_status,
                                        stderr_to_stdout, hide]) of
        Port ->
            Timer = erlang:start_timer(?DEADLINE_MS, self(), doctor),
            try lines(Port, Timer, {program, no_step})
            after
                _ = erlang:cancel_timer(Timer),
                close(Port, Timer)
            end
    catch
        error:Reason -> {error, {program, {Reason, unicode:characters_to_binary(Program)}}}
    end.

%% internal

%% A name that is none is for the program to complain of.
where(Node) ->
    case handover_dist:is_node_name(Node) of
        true -> handover_dial:route(Node);
        false -> {ok, {name, "", handover_config:epmd_port()}}
    end.

args(Node, {Source, Host, Port}) ->
    address(Source, Host) ++ ["--port", integer_to_list(Port)] ++ family() ++ ["--", atom_to_binary(Node, utf8)].

address(name, _) -> [];
address(_, Ip) when is_tuple(Ip) -> ["--address", inet:ntoa(Ip)];
address(_, Host) -> ["--address", unicode:characters_to_binary(Host)].

%% Of several protocols IPv4's is checked.
family() ->
    case init:get_argument(proto_dist) of
        {ok, [["handover_tcp6"]]} -> ["--inet6"];
        _ -> []
    end.

lines(Port, Timer, Failure) ->
    receive
        {Port, {data, {_, Line}}} -> print(Line), lines(Port, Timer, failure(Line, Failure));
        {Port, {exit_status, ?BY_HANDOVER}} -> {ok, handover};
        {Port, {exit_status, ?DIRECT}} -> {ok, direct};
        {Port, {exit_status, ?FAILED}} -> {error, Failure};
        {Port, {exit_status, Status}} -> {error, {program, {exit_status, Status}}};
        {timeout, Timer, doctor} -> {error, {program, timeout}}
    end.

failure(<<"✘ "/utf8, Rest/binary>>, Failure) ->
    [Name | _] = binary:split(Rest, <<" ">>),
    case [Step || Step <- ?STEPS, atom_to_binary(Step, utf8) =:= Name] of
        [Step] -> Step;
        [] -> Failure
    end;
failure(_, Failure) ->
    Failure.

print(Line) ->
    case unicode:characters_to_list(iolist_to_binary(Line)) of
        Text when is_list(Text) -> io:put_chars([Text, $\n]);
        {_, Text, _} -> io:put_chars([Text, $\n])
    end.

%% Where it still runs it ends by its own deadlines. Nothing of it stays in the mailbox, for callers that trap exits too.
close(Port, Timer) ->
    true = unlink(Port),
    try port_close(Port) catch error:badarg -> true end,
    flush(Port, Timer).

flush(Port, Timer) ->
    receive
        {Port, _} -> flush(Port, Timer);
        {'EXIT', Port, _} -> flush(Port, Timer);
        {timeout, Timer, doctor} -> flush(Port, Timer)
    after 0 ->
            ok
    end.
