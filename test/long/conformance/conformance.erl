%% Runs one of OTP's suites, or one case of it, and writes the result of each case to a report. It is a hook of Common Test.
-module(conformance).

-export([start/0]).
-export([init/2, pre_init_per_testcase/4, post_end_per_testcase/5, post_end_per_suite/4, on_tc_skip/4]).

-define(MAX_REASON, 300).                          % characters

%% @doc Called by `erl … -s conformance start -extra Folder Suite [Group Case]'. Writes the report and the logs to Folder.
%% The suite runs in a process of its own, because some suites need a node that has finished booting.
-spec start() -> pid().
start() -> spawn(fun run/0).

run() ->
    [Folder, Suite | Which] = init:get_plain_arguments(),
    Path = os:getenv("PATH"),
    true = os:putenv("PATH", filename:join(Folder, "bin") ++ [$: | Path]),  % erl puts its own directory first
    _ = ct:run_test(case_options(Which) ++ [{dir, filename:join(Folder, "tests")},
                                     {suite, list_to_atom(Suite)},
                                     {logdir, filename:join(Folder, "logs")},
                                     {auto_compile, false},
                                     {multiply_timetraps, 2},                        % two sides share the machine
                                     {ct_hooks, [{ts_install_cth, [{nodenames, 2}]},  % mnesia's suites need them
                                                 {?MODULE, Folder}]}]),
    halt().

case_options([]) -> [];
case_options(["-", Case]) -> [{testcase, list_to_atom(Case)}];
case_options([Group, Case]) -> [{group, list_to_atom(Group)}, {testcase, list_to_atom(Case)}].

%% the hook

-record(state, {report :: file:filename(),
                excused :: #{Case :: string() => Reason :: string()}}).

init(_Id, Folder) ->
    {ok, Lines} = file:read_file(filename:join([Folder, "tests", "excused"])),
    Excused = [list_to_tuple(string:split(Line, " ")) || Line <- string:lexemes(binary_to_list(Lines), "\n")],
    State = #state{report = filename:join(Folder, "report"), excused = maps:from_list(Excused)},
    Protocol = case init:get_argument(proto_dist) of
                   {ok, [[Name]]} -> Name;
                   _ -> "inet_tcp"
               end,
    append_line(State, "run ~ts ~ts", [os:find_executable("epmd"), Protocol]),
    {ok, State}.

pre_init_per_testcase(Suite, Case, Config, #state{excused = Excused} = State) ->
    Name = name(Suite, group(Config), Case),
    case Excused of
        #{Name := Reason} -> {{skip, Reason}, State};
        #{} -> {Config, State}
    end.

post_end_per_testcase(_Suite, _Case, _Config, {Skip, _} = Result, State) when Skip =:= skip; Skip =:= skipped ->
    {Result, State};                              % on_tc_skip is called next
post_end_per_testcase(Suite, Case, Config, Result, State) ->
    {How, Reason} = result(proplists:get_value(tc_status, Config, ok), Result),
    append_line(State, "~ts ~ts ~ts", [How, name(Suite, group(Config), Case), Reason]),
    {Result, State}.

%% The line "end" shows that the suite ran all its cases.
post_end_per_suite(Suite, _Config, Result, State) ->
    append_line(State, "end ~ts", [Suite]),
    {Result, State}.

on_tc_skip(_Suite, {Case, _Group}, _Reason, State) when Case =:= end_per_suite; Case =:= end_per_group ->
    State;
on_tc_skip(Suite, {Case, Group}, Reason, State) ->
    report_skip(name(Suite, Group, Case), Reason, State);
on_tc_skip(Suite, Case, Reason, State) ->
    report_skip(name(Suite, '-', Case), Reason, State).

%% internal

%% A case that was skipped because an init function failed counts as failed.
report_skip(Name, {tc_auto_skip, Reason}, State) ->
    append_line(State, "FAIL ~ts ~ts", [Name, shorten(Reason)]),
    State;
report_skip(Name, {_, Reason}, State) ->
    append_line(State, "skip ~ts ~ts", [Name, shorten(Reason)]),
    State.

result({failed, Reason}, _) -> {"FAIL", shorten(Reason)};
result({skipped, Reason}, _) -> {"skip", shorten(Reason)};
result(_, {Bad, Reason}) when Bad =:= error; Bad =:= failed; Bad =:= timetrap_timeout -> {"FAIL", shorten(Reason)};
result(_, {'EXIT', Reason}) -> {"FAIL", shorten(Reason)};
result(_, _) -> {"ok", ""}.

group(Config) ->
    proplists:get_value(name, proplists:get_value(tc_group_properties, Config, []), '-').

name(Suite, Group, Case) -> lists:append(lists:join(":", [atom_to_list(A) || A <- [Suite, Group, Case]])).

shorten(Reason) ->
    Text = re:replace(io_lib:format("~0tp", [Reason]), "\\s+", " ", [global, unicode, {return, list}]),
    string:slice(Text, 0, ?MAX_REASON).

append_line(#state{report = Report}, Format, Args) ->
    ok = file:write_file(Report, unicode:characters_to_binary(io_lib:format(Format ++ "~n", Args)), [append]).
