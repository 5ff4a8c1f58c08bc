%% Runs a suite of OTP's, or one of its cases, and writes down how each case ends: a hook of Common Test beside the suites' own.
-module(conformance).

-export([start/0]).
-export([init/2, pre_init_per_testcase/4, post_end_per_testcase/5, post_end_per_suite/4, on_tc_skip/4]).

-define(REASON, 300).                              % characters of it

%% @doc `erl … -s conformance start -extra Folder Suite [Group Case]'. The folder has a report and the logs afterwards.
%% In a process of its own: the node has to have booted for some suites.
-spec start() -> pid().
start() -> spawn(fun run/0).

run() ->
    [Folder, Suite | Which] = init:get_plain_arguments(),
    Path = os:getenv("PATH"),
    true = os:putenv("PATH", filename:join(Folder, "bin") ++ [$: | Path]),  % erl has put its own first
    _ = ct:run_test(which(Which) ++ [{dir, filename:join(Folder, "tests")},
                                     {suite, list_to_atom(Suite)},
                                     {logdir, filename:join(Folder, "logs")},
                                     {auto_compile, false},
                                     {multiply_timetraps, 2},                        % two sides share the machine
                                     {ct_hooks, [{ts_install_cth, [{nodenames, 2}]},  % mnesia's ask for them
                                                 {?MODULE, Folder}]}]),
    halt().

which([]) -> [];
which(["-", Case]) -> [{testcase, list_to_atom(Case)}];
which([Group, Case]) -> [{group, list_to_atom(Group)}, {testcase, list_to_atom(Case)}].

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
    say(State, "run ~ts ~ts", [os:find_executable("epmd"), Protocol]),
    {ok, State}.

pre_init_per_testcase(Suite, Case, Config, #state{excused = Excused} = State) ->
    Name = name(Suite, group(Config), Case),
    case Excused of
        #{Name := Reason} -> {{skip, Reason}, State};
        #{} -> {Config, State}
    end.

post_end_per_testcase(_Suite, _Case, _Config, {Skip, _} = Result, State) when Skip =:= skip; Skip =:= skipped ->
    {Result, State};                              % on_tc_skip comes after
post_end_per_testcase(Suite, Case, Config, Result, State) ->
    {How, Reason} = ending(proplists:get_value(tc_status, Config, ok), Result),
    say(State, "~ts ~ts ~ts", [How, name(Suite, group(Config), Case), Reason]),
    {Result, State}.

%% A suite that ends so has left none of its cases out.
post_end_per_suite(Suite, _Config, Result, State) ->
    say(State, "end ~ts", [Suite]),
    {Result, State}.

on_tc_skip(_Suite, {Case, _Group}, _Reason, State) when Case =:= end_per_suite; Case =:= end_per_group ->
    State;
on_tc_skip(Suite, {Case, Group}, Reason, State) ->
    skipped(name(Suite, Group, Case), Reason, State);
on_tc_skip(Suite, Case, Reason, State) ->
    skipped(name(Suite, '-', Case), Reason, State).

%% internal

%% What could not start because what comes before it failed, has failed.
skipped(Name, {tc_auto_skip, Reason}, State) ->
    say(State, "FAIL ~ts ~ts", [Name, short(Reason)]),
    State;
skipped(Name, {_, Reason}, State) ->
    say(State, "skip ~ts ~ts", [Name, short(Reason)]),
    State.

ending({failed, Reason}, _) -> {"FAIL", short(Reason)};
ending({skipped, Reason}, _) -> {"skip", short(Reason)};
ending(_, {Bad, Reason}) when Bad =:= error; Bad =:= failed; Bad =:= timetrap_timeout -> {"FAIL", short(Reason)};
ending(_, {'EXIT', Reason}) -> {"FAIL", short(Reason)};
ending(_, _) -> {"ok", ""}.

group(Config) ->
    proplists:get_value(name, proplists:get_value(tc_group_properties, Config, []), '-').

name(Suite, Group, Case) -> lists:append(lists:join(":", [atom_to_list(A) || A <- [Suite, Group, Case]])).

short(Reason) ->
    Text = re:replace(io_lib:format("~0tp", [Reason]), "\\s+", " ", [global, unicode, {return, list}]),
    string:slice(Text, 0, ?REASON).

say(#state{report = Report}, Format, Args) ->
    ok = file:write_file(Report, unicode:characters_to_binary(io_lib:format(Format ++ "~n", Args)), [append]).
