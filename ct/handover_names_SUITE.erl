%% The names in EPMD: a killed node frees its name at once, and no name is lost when EPMD is restarted or upgraded. Also
%% EPMD and nodes of different users.
-module(handover_names_SUITE).

-include_lib("stdlib/include/assert.hrl").

-import(handover_ct, [call/4]).

-export([all/0, init_per_testcase/2, end_per_testcase/2]).
-export([killed_node_frees_its_name/1, stopped_carrier_frees_the_name/1, nodes_register_again/1,
         nodes_do_not_notice_upgrade/1, nodes_of_different_users/1]).

-define(EPMD_UID, 64501).

all() ->
    [killed_node_frees_its_name, stopped_carrier_frees_the_name, nodes_register_again, nodes_do_not_notice_upgrade,
     nodes_of_different_users].

init_per_testcase(nodes_of_different_users, Config) ->
    case os:cmd("id -u") of
        "0\n" -> add_port(Config);
        _ -> {skip, "needs root, to run EPMD and nodes as other users"}
    end;
init_per_testcase(_Case, Config) ->
    add_port(Config).

add_port(Config) ->
    [{epmd_port, handover_ct:free_port()} | Config].

end_per_testcase(_Case, _Config) ->
    ok.

%% After SIGKILL to a node, with or without handover, another node with the same name starts at once.
killed_node_frees_its_name(Config) ->
    Port = port(Config),
    handover_ct:with_cluster(handover, [], Port,
      fun() -> [killed_node_frees_its_name(Port, Proto) || Proto <- ["handover_tcp", "inet_tcp"]] end).

killed_node_frees_its_name(Port, Proto) ->
    First = start_node("n", Port, Proto),
    Creation = call(First, erlang, system_info, [creation]),
    handover_ct:signal(handover_ct:beam_os_pid(First), "KILL"),
    handover_ct:until(fun() -> handover_ct:registered_names(Port) =:= [] end),
    Again = start_node("n", Port, Proto),
    ?assertEqual(["n"], handover_ct:registered_names(Port)),
    ?assertNotEqual(Creation, call(Again, erlang, system_info, [creation])),
    handover_ct:stop_node(First),
    handover_ct:stop_node(Again),
    handover_ct:until(fun() -> handover_ct:registered_names(Port) =:= [] end).

%% The carrier is stopped when its BEAM is killed. It is continued, and ends.
stopped_carrier_frees_the_name(Config) ->
    Port = port(Config),
    handover_ct:with_cluster(handover, [], Port,
      fun() ->
              Node = start_node("n", Port, "handover_tcp"),
              Beam = handover_ct:beam_os_pid(Node),
              handover_ct:signal(handover_ct:carrier_os_pid(Node), "STOP"),
              handover_ct:signal(Beam, "KILL"),
              handover_ct:until(fun() -> handover_ct:registered_names(Port) =:= [] end),
              handover_ct:stop_node(Node)
      end).

%% After a restart of EPMD all nodes register again. The log has the times: up to one second with handover, two without.
nodes_register_again(Config) ->
    Port = port(Config),
    First = handover_ct:start_epmd(handover, Port),
    Specs = [{N, #{proto => P}} || {N, P} <- [{h1, "handover_tcp"}, {h2, "handover_tcp"}, {h3, "handover_tcp"},
                                              {s1, "inet_tcp"}, {s2, "inet_tcp"}]],
    handover_ct:with_nodes(Specs, Port,
      fun(_, _, _, _, _) ->
              handover_ct:signal(handover_ct:epmd_os_pid(First), "KILL"),
              handover_ct:until(fun() -> erlang:port_info(First) =:= undefined end),
              Second = handover_ct:start_epmd(handover, Port),
              try
                  Start = erlang:monotonic_time(millisecond),
                  [begin
                       handover_ct:until(fun() -> Wanted -- handover_ct:registered_names(Port) =:= [] end),
                       ct:pal("~s nodes are back after ~b ms", [Kind, erlang:monotonic_time(millisecond) - Start])
                   end || {Kind, Wanted} <- [{handover, ["h1", "h2", "h3"]}, {stock, ["s1", "s2"]}]]
              after
                  handover_ct:stop_epmd(Second)
              end
      end).

%% After several upgrades EPMD has the same names in the same order. No node logs an event, links stay up, and new ones
%% work.
nodes_do_not_notice_upgrade(Config) ->
    Port = port(Config),
    handover_ct:with_cluster(handover, [h1, {s1, #{proto => "inet_tcp"}}, h2], Port,
      fun(A, S, B) ->
              Node = handover_ct:connect(A, B),
              Link = handover_ct:dist_port(A, Node),
              Names = handover_ct:registered_names(Port),
              Reports = handover_ct:record_reports(A),
              Before = epmd_state(A, S),
              [begin
                   ?assertEqual("Upgraded\n", epmd(Port, "-upgrade")),
                   ?assertEqual(Names, handover_ct:registered_names(Port)),
                   _ = call(B, erlang, disconnect_node, [handover_ct:name(S)]),
                   _ = handover_ct:connect(B, S),
                   ?assertEqual(Link, handover_ct:dist_port(A, Node))
               end || _ <- lists:seq(1, 3)],
              ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
              ?assertEqual(Node, handover_ct:connect(A, B)),
              ?assertEqual(Before, epmd_state(A, S)),
              ?assertEqual([], [E || #{event := Event} = E <- Reports(), lists:member(Event, [epmd_down, epmd_up])])
      end).

%% What changes if one of the nodes loses its EPMD.
epmd_state(Handover, Stock) ->
    {maps:remove(counters, call(Handover, handover, info, [])), call(Stock, sys, get_state, [erl_epmd])}.

%% EPMD runs as one user, and the two nodes as two others: they connect by handover in both directions.
nodes_of_different_users(Config) ->
    Port = port(Config),
    Dir = copy_for_all_users(),
    Command = [filename:join([Dir, "handover", "priv", "epmd"]), "-port", integer_to_list(Port)],
    Epmd = open_port({spawn_executable, os:find_executable("setpriv")},
                     [{args, setpriv(?EPMD_UID) ++ Command}, exit_status, stderr_to_stdout]),
    try
        handover_ct:until(fun() -> epmd(Port, "-names") =/= "epmd: Cannot connect to local epmd\n" end),
        handover_ct:with_nodes([as_user(app1, 64502, Dir), as_user(app2, 64503, Dir)], Port,
          fun(A, B) ->
                  ?assertEqual(["64502\n", "64503\n"], [call(N, os, cmd, ["id -u"]) || N <- [A, B]]),
                  Node = handover_ct:connect(A, B),
                  ?assertEqual(true, call(A, erlang, disconnect_node, [Node])),
                  handover_ct:await_no_nodes(B),
                  _ = handover_ct:connect(B, A)
          end)
    after
        handover_ct:stop_epmd(Epmd),
        ok = file:del_dir_r(Dir)
    end.

%% Copies the application to a directory that all users can read.
copy_for_all_users() ->
    Dir = string:trim(os:cmd("mktemp -d /tmp/handover-ct-XXXXXX")),
    App = filename:dirname(handover_ct:ebin()),
    "" = os:cmd(lists:flatten(["mkdir ", Dir, "/handover && cp -rL ", App, "/ebin ", App, "/priv ", Dir, "/handover"
                               " && chmod -R a+rX ", Dir])),
    Dir.

%% A node of the user Uid. Without the fallback it connects by handover or not at all.
as_user(Name, Uid, Dir) ->
    Erl = os:find_executable("erl"),
    {Name, #{exec => {os:find_executable("setpriv"), setpriv(Uid) ++ [Erl]},
             args => ["-pa", filename:join([Dir, "handover", "ebin"]), "-handover", "fallback", "false"],
             env => [{"HOME", "/tmp"}]}}.

setpriv(Uid) ->
    Id = integer_to_list(Uid),
    ["--reuid", Id, "--regid", Id, "--clear-groups"].

start_node(Name, Port, Proto) ->
    handover_ct:start_node(Name, #{epmd_port => Port, proto => Proto}).


epmd(Port, Command) ->
    os:cmd(lists:flatten([handover_ct:program("epmd"), " -port ", integer_to_list(Port), " ", Command])).

port(Config) -> proplists:get_value(epmd_port, Config).
