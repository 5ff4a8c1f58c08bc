%% `rebar3 ct --name ct@127.0.0.1' runs this suite. Handover connects the node of the test and its peer.
-module(greeter_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([all/0, greets_across_nodes/1]).

all() ->
    [greets_across_nodes].

greets_across_nodes(_Config) ->
    {ok, Epmd} = init:get_argument(epmd_port),
    Args = ["-setcookie", atom_to_list(erlang:get_cookie()), "-pa" | code:get_path()],
    {ok, Peer, Node} = peer:start_link(#{name => peer:random_name(), host => "127.0.0.1", longnames => true, args => Args}),
    {ok, _} = erpc:call(Node, application, ensure_all_started, [greeter]),
    ?assertEqual(1, greeter:greet(Node, self())),
    ?assertEqual(2, greeter:greet(Node, self())),
    ?assertMatch(#{carrier := up, epmd := handover}, erpc:call(Node, handover, info, [])),
    %% one end of the link is EPMD's port; which one depends on who connected
    Link = proplists:get_value(Node, erlang:system_info(dist_ctrl)),
    {{ok, {_, Here}}, {ok, {_, There}}} = {inet:sockname(Link), inet:peername(Link)},
    ?assert(lists:member(list_to_integer(hd(hd(Epmd))), [Here, There])),
    peer:stop(Peer).
