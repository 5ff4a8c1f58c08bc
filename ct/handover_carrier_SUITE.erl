%% handover_carrier and the guard, with carrier programs that misbehave. A node that cannot start reports what is wrong.
%% A node that is up never ends because of its carrier.
-module(handover_carrier_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [with_cluster/4, call/4]).

-compile([export_all, nowarn_export_all]).

suite() -> [{timetrap, {minutes, 1}}].

all() ->
    [no_program, not_executable, ends_at_once, no_hello, garbage_instead_of_hello, unknown_version, refused,
     wrong_process_at_the_fd_socket, garbage_after_start, stop_with_a_stopped_carrier].

%% Starts a node on a copy of the application whose carrier is a shell script. Returns the node's output.
boot(Script, Config) ->
    boot(Script, 8#755, Config).

boot(Script, Mode, Config) ->
    Ebin = copy_with_carrier(Script, Mode, Config),
    handover_ct:failing_node_output("a", handover_ct:free_port(), [{"HANDOVER_START_EPMD", "false"}], ["-pa", Ebin]).

%% Copies the application, with Script (none: nothing) as its carrier, and returns the directory of the modules.
copy_with_carrier(Script, Mode, Config) ->
    Dir = handover_ct:copy_without_programs(Config),
    write_program(Script, filename:join([Dir, "priv", "handover"]), Mode),
    filename:join(Dir, "ebin").

write_program(none, _, _) ->
    ok;
write_program(Script, Program, Mode) ->
    ok = filelib:ensure_dir(Program),
    ok = file:write_file(Program, ["#!/bin/sh\n", Script, "\n"]),
    ok = file:change_mode(Program, Mode).

%% A shell command that prints the frame of Term.
print_frame(Term) ->
    Bytes = term_to_binary(Term),
    ["printf '", [io_lib:format("\\~3.8.0b", [B]) || <<B>> <= <<(byte_size(Bytes)):32, Bytes/binary>>], "'\n"].

%% The node did not start, and its output has the reason.
assert_fails(Output, Pattern) ->
    ?assertMatch({match, _}, re:run(Output, Pattern, [dotall]), Output),
    ?assertMatch({match, _}, re:run(Output, "carrier_down"), Output),
    ?assertEqual(nomatch, re:run(Output, "^node_is_up", [multiline]), Output).

no_program(Config) -> assert_fails(boot(none, Config), "priv/handover.*enoent").

not_executable(Config) -> assert_fails(boot("cat", 8#644, Config), "priv/handover.*eacces").

ends_at_once(Config) -> assert_fails(boot("exit 7", Config), "exit_status,7").

no_hello(Config) -> assert_fails(boot("exec cat > /dev/null", Config), "no_hello").

garbage_instead_of_hello(Config) ->
    assert_fails(boot("printf '\\000\\000\\000\\003abc'; exec cat > /dev/null", Config), "bad_hello.*abc").

unknown_version(Config) ->
    Hello = {hello, 99, #{fd_socket => <<"nowhere">>, program => <<"x">>}},
    assert_fails(boot([print_frame(Hello), "exec cat > /dev/null"], Config), "unknown_version,99").

refused(Config) ->
    assert_fails(boot([print_frame({refused, unknown_version, <<"only 2">>}), "exec cat > /dev/null"], Config),
               "refused,unknown_version,<<\"only 2\">>").

%% The fd socket that hello names belongs to a process other than the carrier.
wrong_process_at_the_fd_socket(Config) ->
    Name = "handover_carrier_SUITE." ++ os:getpid(),
    {ok, Listener} = socket:open(local, seqpacket, default),
    ok = socket:bind(Listener, #{family => local, path => [0 | Name]}),
    ok = socket:listen(Listener),
    Hello = {hello, 1, #{fd_socket => list_to_binary(Name), program => <<"x">>}},
    try assert_fails(boot([print_frame(Hello), "exec cat > /dev/null"], Config), "not_the_carrier," ++ os:getpid())
    after
        socket:close(Listener)
    end.

%% A carrier that sends garbage after the node is up is replaced, and the link stays up. The script is the garbage
%% sender when it runs for the first time, and a plain carrier from then on.
garbage_after_start(Config) ->
    Real = handover_ct:program("handover"),
    Started = filename:join(?config(priv_dir, Config), "started"),
    Go = Started ++ "/go",
    Script = ["if mkdir ", Started, " 2>/dev/null; then (i=0; while [ $i -lt 600 ] && ! [ -e ", Go, " ]; "
              "do i=$((i+1)); sleep 0.1; done; printf '\\000\\000\\000\\001x') & fi; exec ", Real, " port"],
    Ebin = copy_with_carrier(Script, 8#755, Config),
    with_cluster(handover, [{a, #{args => ["-pa", Ebin]}}, b], handover_ct:free_port(),
      fun(A, B) ->
              Reports = handover_ct:record_reports(A),
              Node = handover_ct:connect(A, B),
              Link = handover_ct:dist_port(A, Node),
              ok = file:write_file(Go, ""),
              handover_ct:until(fun() -> maps:get(restarts, call(A, handover, info, [])) >= 1 end),
              handover_ct:await_registered(A),
              ?assertEqual(Link, handover_ct:dist_port(A, Node)),
              ?assertMatch(#{}, handover_ct:await_report(Reports, bad_message))
      end).

%% net_kernel:stop has one second. A carrier that does not react to anything does not delay it, and does not keep the
%% name of the node registered.
stop_with_a_stopped_carrier(Config) ->
    Real = handover_ct:program("handover"),
    Ebin = copy_with_carrier(["exec ", Real, " port"], 8#755, Config),
    with_cluster(handover, [{a, #{undistributed => true, args => ["-pa", Ebin]}}], handover_ct:free_port(),
      fun(A) ->
              ok = call(A, handover_ct_work, start_net_kernel, ['a@127.0.0.1']),
              Carrier = handover_ct:carrier_os_pid(A),
              handover_ct:signal(Carrier, "STOP"),
              ?assertEqual(ok, call(A, net_kernel, stop, [])),
              handover_ct:until(fun() -> not handover_ct:is_running(Carrier) end),
              ok = call(A, handover_ct_work, start_net_kernel, ['a@127.0.0.1'])
      end).
