%% Names never stick and never get lost: killed nodes, restarted and upgraded EPMDs, users apart. With real BEAMs.
-module(handover_names_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, init_per_testcase/2, end_per_testcase/2]).
-export([killed_node_frees_its_name/1, stopped_carrier_frees_the_name/1, restarted_epmd_has_all_back/1, upgrade_unnoticed/1, users/1]).

-define(EPMD_UID, 64501).

all() ->
    [killed_node_frees_its_name, stopped_carrier_frees_the_name, restarted_epmd_has_all_back, upgrade_unnoticed, users].

init_per_testcase(users, Config) ->
    case os:cmd("id -u") of
        "0\n" -> with_port(Config);
        _ -> {skip, "needs root, to run EPMD and nodes as other users"}
    end;
init_per_testcase(_Case, Config) ->
    with_port(Config).

with_port(Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_Case, _Config) ->
    ok.

%% SIGKILL, a handover node and a stock one: another of the same name starts at once.
killed_node_frees_its_name(Config) ->
    Port = port(Config),
    handover_ct:with(handover, [], Port, fun() -> [killed(Port, Proto) || Proto <- ["handover_tcp", "inet_tcp"]] end).

killed(Port, Proto) ->
    First = start("n", Port, Proto),
    Creation = call(First, erlang, system_info, [creation]),
    handover_ct:kill(list_to_integer(call(First, os, getpid, [])), "KILL"),
    handover_ct:until(fun() -> names(Port) =:= [] end),
    Again = start("n", Port, Proto),
    ?assertEqual(["n"], names(Port)),
    ?assertNotEqual(Creation, call(Again, erlang, system_info, [creation])),
    handover_ct:stop_node(First),
    handover_ct:stop_node(Again),
    handover_ct:until(fun() -> names(Port) =:= [] end).

%% SIGSTOP to the carrier, SIGKILL to the BEAM: the carrier is continued, and sees that it is over.
stopped_carrier_frees_the_name(Config) ->
    Port = port(Config),
    handover_ct:with(handover, [], Port,
      fun() ->
              Node = start("n", Port, "handover_tcp"),
              Beam = list_to_integer(call(Node, os, getpid, [])),
              handover_ct:kill(handover_ct:carrier(Node), "STOP"),
              handover_ct:kill(Beam, "KILL"),
              handover_ct:until(fun() -> names(Port) =:= [] end),
              handover_ct:stop_node(Node)
      end).

%% Handover nodes are back within a second, stock ones within OTP's two: the log has the times.
restarted_epmd_has_all_back(Config) ->
    Port = port(Config),
    First = handover_ct:start_epmd(handover, Port),
    Specs = [{N, #{proto => P}} || {N, P} <- [{h1, "handover_tcp"}, {h2, "handover_tcp"}, {h3, "handover_tcp"},
                                              {s1, "inet_tcp"}, {s2, "inet_tcp"}]],
    handover_ct:with_nodes(Specs, Port,
      fun(_, _, _, _, _) ->
              handover_ct:kill(handover_ct:epmd_os_pid(First), "KILL"),
              handover_ct:until(fun() -> erlang:port_info(First) =:= undefined end),
              Second = handover_ct:start_epmd(handover, Port),
              try
                  Start = erlang:monotonic_time(millisecond),
                  [begin
                       handover_ct:until(fun() -> Wanted -- names(Port) =:= [] end),
                       ct:pal("~s nodes are back after ~b ms", [Kind, erlang:monotonic_time(millisecond) - Start])
                   end || {Kind, Wanted} <- [{handover, ["h1", "h2", "h3"]}, {stock, ["s1", "s2"]}]]
              after
                  handover_ct:stop_epmd(Second)
              end
      end).

%% Upgrades, one after the other: the same names in the same order, no event in any node, links stay, new ones come.
upgrade_unnoticed(Config) ->
    Port = port(Config),
    handover_ct:with(handover, [h1, {s1, #{proto => "inet_tcp"}}, h2], Port,
      fun(A, S, B) ->
              Node = handover_ct:connect(A, B),
              Link = handover_ct:dist_port(A, Node),
              Names = names(Port),
              Logs = handover_ct:logs(A),
              Before = noticed(A, S),
              [begin
                   ?assertEqual("Upgraded\n", epmd(Port, "-upgrade")),
                   ?assertEqual(Names, names(Port)),
                   _ = call(B, erlang, disconnect_node, [handover_ct:name(S)]),
                   _ = handover_ct:connect(B, S),
                   ?assertEqual(Link, handover_ct:dist_port(A, Node))
               end || _ <- lists:seq(1, 3)],
              ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
              ?assertEqual(Node, handover_ct:connect(A, B)),
              ?assertEqual(Before, noticed(A, S)),
              ?assertEqual([], [E || #{event := Event} = E <- Logs(), lists:member(Event, [epmd_down, epmd_up])])
      end).

%% What would change, had a node lost its EPMD.
noticed(Handover, Stock) ->
    {maps:remove(counters, call(Handover, handover, info, [])), call(Stock, sys, get_state, [erl_epmd])}.

%% EPMD as one user, nodes as two more.
users(Config) ->
    Port = port(Config),
    Dir = application_for_all(),
    Epmd = open_port({spawn_executable, os:find_executable("setpriv")},
                     [{args, setpriv(?EPMD_UID) ++ [filename:join([Dir, "handover", "priv", "epmd"]), "-port", integer_to_list(Port)]},
                      exit_status, stderr_to_stdout]),
    try
        handover_ct:until(fun() -> epmd(Port, "-names") =/= "epmd: Cannot connect to local epmd\n" end),
        handover_ct:with_nodes([as_user(app1, 64502, Dir), as_user(app2, 64503, Dir)], Port,
          fun(A, B) ->
                  ?assertEqual(["64502\n", "64503\n"], [call(N, os, cmd, ["id -u"]) || N <- [A, B]]),
                  Node = handover_ct:connect(A, B),
                  ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                  handover_ct:until(fun() -> call(B, erlang, nodes, []) =:= [] end),
                  _ = handover_ct:connect(B, A)
          end)
    after
        handover_ct:stop_epmd(Epmd),
        ok = file:del_dir_r(Dir)
    end.

%% The application where users can read it who are not us.
application_for_all() ->
    Dir = string:trim(os:cmd("mktemp -d /tmp/handover-ct-XXXXXX")),
    App = filename:dirname(handover_ct:ebin()),
    "" = os:cmd(lists:flatten(["mkdir ", Dir, "/handover && cp -rL ", App, "/ebin ", App, "/priv ", Dir, "/handover && chmod -R a+rX ", Dir])),
    Dir.

%% Only ports and no fallback: what comes through came by handover.
as_user(Name, Uid, Dir) ->
    Erl = os:find_executable("erl"),
    {Name, #{exec => {os:find_executable("setpriv"), setpriv(Uid) ++ [Erl]},
             args => ["-pa", filename:join([Dir, "handover", "ebin"]), "-handover", "fallback", "false"],
             env => [{"HOME", "/tmp"}]}}.

setpriv(Uid) ->
    Id = integer_to_list(Uid),
    ["--reuid", Id, "--regid", Id, "--clear-groups"].

start(Name, Port, Proto) ->
    handover_ct:start_node(Name, #{epmd_port => Port, proto => Proto}).

call(Peer, M, F, A) -> handover_ct:call(Peer, M, F, A).

names(Port) -> handover_ct:epmd_names({127, 0, 0, 1}, Port).

epmd(Port, Command) ->
    os:cmd(lists:flatten([handover_ct:program("epmd"), " -port ", integer_to_list(Port), " ", Command])).

port(Config) -> proplists:get_value(epmd_port, Config).
