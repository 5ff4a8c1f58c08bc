%% The owner of the carrier program and its guard, with programs that misbehave in each way: the node says what is wrong and,
%% once it is up, never dies of it.
-module(handover_carrier_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 1}}].

all() ->
    [no_program, not_executable, ends_at_once, says_nothing, garbage, unknown_version, refused, wrong_process_at_the_fd_socket,
     garbage_later, stop_is_quick].

%% Boots a node on a copy of the application whose carrier is a shell script; gives what it prints.
boot(Script, Config) ->
    boot(Script, 8#755, Config).

boot(Script, Mode, Config) ->
    Ebin = application(Script, Mode, Config),
    handover_ct:failing_node("a", handover_ct:free_port(), [{"HANDOVER_START_EPMD", "false"}], ["-pa", Ebin]).

application(Script, Mode, Config) ->
    Dir = handover_ct:copy_without_programs(Config),
    write_program(Script, filename:join([Dir, "priv", "handover"]), Mode),
    filename:join(Dir, "ebin").

write_program(none, _, _) ->
    ok;
write_program(Script, Program, Mode) ->
    ok = filelib:ensure_dir(Program),
    ok = file:write_file(Program, ["#!/bin/sh\n", Script, "\n"]),
    ok = file:change_mode(Program, Mode).

%% printf's notation of a frame.
frame(Term) ->
    Bytes = term_to_binary(Term),
    ["printf '", [io_lib:format("\\~3.8.0b", [B]) || <<B>> <= <<(byte_size(Bytes)):32, Bytes/binary>>], "'\n"].

fails_with(Output, Pattern) ->
    ?assertMatch({match, _}, re:run(Output, Pattern, [dotall]), Output),
    ?assertMatch({match, _}, re:run(Output, "carrier_down"), Output),
    ?assertEqual(nomatch, re:run(Output, "^node_is_up", [multiline]), Output).

no_program(Config) -> fails_with(boot(none, Config), "priv/handover.*enoent").

not_executable(Config) -> fails_with(boot("cat", 8#644, Config), "priv/handover.*eacces").

ends_at_once(Config) -> fails_with(boot("exit 7", Config), "exit_status,7").

says_nothing(Config) -> fails_with(boot("exec cat > /dev/null", Config), "no_hello").

garbage(Config) -> fails_with(boot("printf '\\000\\000\\000\\003abc'; exec cat > /dev/null", Config), "bad_hello.*abc").

unknown_version(Config) ->
    Hello = {hello, 99, #{fd_socket => <<"nowhere">>, program => <<"x">>}},
    fails_with(boot([frame(Hello), "exec cat > /dev/null"], Config), "unknown_version,99").

refused(Config) ->
    fails_with(boot([frame({refused, unknown_version, <<"only 2">>}), "exec cat > /dev/null"], Config),
               "refused,unknown_version,<<\"only 2\">>").

wrong_process_at_the_fd_socket(Config) ->
    Name = "handover_carrier_SUITE." ++ os:getpid(),
    {ok, Listener} = socket:open(local, seqpacket, default),
    ok = socket:bind(Listener, #{family => local, path => [0 | Name]}),
    ok = socket:listen(Listener),
    Hello = {hello, 1, #{fd_socket => list_to_binary(Name), program => <<"x">>}},
    try fails_with(boot([frame(Hello), "exec cat > /dev/null"], Config), "not_the_carrier," ++ os:getpid())
    after
        socket:close(Listener)
    end.

%% A program that goes mad after the node is up: another takes its place, links live.
garbage_later(Config) ->
    Real = handover_ct:program("handover"),
    Mad = filename:join(?config(priv_dir, Config), "mad"),
    Go = Mad ++ "/go",
    Script = ["if mkdir ", Mad, " 2>/dev/null; then (i=0; while [ $i -lt 600 ] && ! [ -e ", Go, " ]; do i=$((i+1)); sleep 0.1; "
              "done; printf '\\000\\000\\000\\001x') & fi; exec ", Real, " port"],
    Ebin = application(Script, 8#755, Config),
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    [A, B] = [handover_ct:start_node(N, #{epmd_port => Port, args => Args}) || {N, Args} <- [{a, ["-pa", Ebin]}, {b, []}]],
    try
        Logs = handover_ct:logs(A),
        Node = handover_ct:connect(A, B),
        Link = handover_ct:dist_port(A, Node),
        ok = file:write_file(Go, ""),
        handover_ct:until(fun() -> maps:get(restarts, handover_ct:call(A, handover, info, [])) >= 1 end),
        handover_ct:until(fun() -> maps:get(epmd, handover_ct:call(A, handover, info, [])) =:= handover end),
        ?assertEqual(Link, handover_ct:dist_port(A, Node)),
        ?assertMatch([_ | _], handover_ct:reports(Logs, bad_message, 1))
    after
        [handover_ct:stop_node(P) || P <- [A, B]],
        handover_ct:stop_epmd(Epmd)
    end.

%% A program that hangs does not hold up net_kernel:stop, which has a second, nor keep the node's name.
stop_is_quick(Config) ->
    Real = handover_ct:program("handover"),
    Ebin = application(["exec ", Real, " port"], 8#755, Config),
    Port = handover_ct:free_port(),
    Epmd = handover_ct:start_epmd(handover, Port),
    A = handover_ct:start_node(a, #{epmd_port => Port, undistributed => true, args => ["-pa", Ebin]}),
    try
        {ok, _} = handover_ct:call(A, net_kernel, start, [['a@127.0.0.1', longnames]]),
        Carrier = handover_ct:carrier(A),
        handover_ct:kill(Carrier, "STOP"),
        ?assertEqual(ok, handover_ct:call(A, net_kernel, stop, [])),
        handover_ct:until(fun() -> not handover_ct:alive(Carrier) end),
        {ok, _} = handover_ct:call(A, net_kernel, start, [['a@127.0.0.1', longnames]])
    after
        handover_ct:stop_node(A),
        handover_ct:stop_epmd(Epmd)
    end.
