%% @doc Checks the steps of a connection to a node by running the program `handover doctor' (docs/DOCTOR.md). It does
%% not use the carrier, so it works while the carrier is down and on a node without distribution.
-module(handover_doctor).

-export([run/1]).

-export_type([step/0, failure/0]).

-type step() :: name | resolve | tcp | epmd | registered | handover | direct | handshake.
%% The step that failed. {program, _}: the program could not be started, ended unexpectedly, or did not end within 90 s.
-type failure() :: step()
                 | {program, no_step | timeout | {exit_status, integer()} | {Reason :: term(), Path :: binary()}}.

-define(STEPS, [name, resolve, tcp, epmd, registered, handover, direct, handshake]).
%% Each of the eight steps takes at most 8 s.
-define(DEADLINE_MS, 90000).
-define(LINE_BYTES, 65536).
%% Exit statuses of the program.
-define(BY_HANDOVER, 0).
-define(FAILED, 1).
-define(DIRECT, 3).

%% @doc Runs the program and prints one line for each step to the caller's group leader. Returns how Node can be
%% reached, or the first step that failed.
-spec run(node()) -> {ok, handover | direct} | {error, failure()}.
run(Node) ->
    case find_route(Node) of
        {ok, Route} -> run(Node, Route);
        {error, {bad_route, Text}} -> print([<<"✘ resolve  "/utf8>>, Text]), {error, resolve}
    end.

run(Node, Route) ->
    Program = handover_config:program("handover"),
    try handover_program:open(Program, [{args, ["doctor" | program_args(Node, Route)]}, {line, ?LINE_BYTES}, binary,
                                        exit_status, stderr_to_stdout, hide]) of
        Port ->
            Timer = erlang:start_timer(?DEADLINE_MS, self(), doctor),
            try read_output(Port, Timer, {program, no_step})
            after
                _ = erlang:cancel_timer(Timer),
                close_port(Port, Timer)
            end
    catch
        error:Reason -> {error, {program, {Reason, unicode:characters_to_binary(Program)}}}
    end.

%% internal

%% For an invalid name, the program reports the error.
find_route(Node) ->
    case handover_dist:is_node_name(Node) of
        true -> handover_dial:route(Node);
        false -> {ok, {name, "", handover_config:epmd_port()}}
    end.

program_args(Node, {Source, Host, Port}) ->
    address_args(Source, Host) ++ ["--port", integer_to_list(Port)] ++ family_args()
        ++ ["--", atom_to_binary(Node, utf8)].

address_args(name, _) -> [];
address_args(_, Ip) when is_tuple(Ip) -> ["--address", inet:ntoa(Ip)];
address_args(_, Host) -> ["--address", unicode:characters_to_binary(Host)].

%% With several protocols, IPv4 is checked.
family_args() ->
    case init:get_argument(proto_dist) of
        {ok, [["handover_tcp6"]]} -> ["--inet6"];
        _ -> []
    end.

read_output(Port, Timer, Failure) ->
    receive
        {Port, {data, {_, Line}}} -> print(Line), read_output(Port, Timer, failed_step(Line, Failure));
        {Port, {exit_status, ?BY_HANDOVER}} -> {ok, handover};
        {Port, {exit_status, ?DIRECT}} -> {ok, direct};
        {Port, {exit_status, ?FAILED}} -> {error, Failure};
        {Port, {exit_status, Status}} -> {error, {program, {exit_status, Status}}};
        {timeout, Timer, doctor} -> {error, {program, timeout}}
    end.

failed_step(<<"✘ "/utf8, Rest/binary>>, Failure) ->
    [Name | _] = binary:split(Rest, <<" ">>),
    case [Step || Step <- ?STEPS, atom_to_binary(Step, utf8) =:= Name] of
        [Step] -> Step;
        [] -> Failure
    end;
failed_step(_, Failure) ->
    Failure.

print(Line) ->
    case unicode:characters_to_list(iolist_to_binary(Line)) of
        Text when is_list(Text) -> io:put_chars([Text, $\n]);
        {_, Text, _} -> io:put_chars([Text, $\n])
    end.

%% If the program still runs, it ends by its own deadlines. No message may stay in the mailbox of the caller, which may
%% trap exits.
close_port(Port, Timer) ->
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
