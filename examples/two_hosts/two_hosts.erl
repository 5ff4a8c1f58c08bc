%% What the nodes n1 and s1 of demo.sh do: connect to the nodes that are given as arguments, and print how. If a step does not
%% give the expected result, the node ends with status 1.
-module(two_hosts).

-export([main/1, stock/1, digest/1]).

-define(MIB, 1048576).

%% With handover. `-run two_hosts main NODE ...' passes strings.
main(Names) ->
    Nodes = [list_to_atom(Name) || Name <- Names],
    Each = fun(Node) -> ping(Node), call(Node) end,
    run(fun() -> lists:foreach(Each, Nodes), send(hd(Nodes), 64) end).

%% Without handover: EPMD answers, but the port that it names cannot be reached.
stock([Node]) ->
    run(fun() ->
        [Name, Host] = string:split(Node, "@"),
        {port, Port, _} = erl_epmd:port_please(Name, Host),
        say("EPMD on ~s answers: ~s is at port ~b", [Host, Name, Port]),
        pang = net_adm:ping(list_to_atom(Node)),
        say("net_adm:ping('~s') -> pang", [Node])
    end).

digest(Term) ->
    crypto:hash(sha256, term_to_binary(Term)).

%% internal

run(Steps) ->
    try Steps(), halt(0)
    catch Class:Reason:Stack ->
        io:format("  FAILED: ~0tp~n", [{Class, Reason, Stack}]),
        halt(1)
    end.

ping(Node) ->
    {Took, pong} = timer:tc(net_adm, ping, [Node]),
    {Address, Port} = peer(Node),
    say("net_adm:ping('~s') -> pong, in ~.1f ms, through ~s port ~b", [Node, Took / 1000, inet:ntoa(Address), Port]).

%% The far end of the link to Node, which is an ordinary socket of the BEAM.
peer(Node) ->
    {Node, Socket} = lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)),
    {ok, Peer} = inet:peername(Socket),
    Peer.

call(Node) ->
    Node = erpc:call(Node, erlang, node, [], 10000),
    say("erpc:call('~s', erlang, node, []) -> '~s'", [Node, Node]).

send(Node, Size) ->
    Term = {parts, [rand:bytes(?MIB) || _ <- lists:seq(1, Size)]},
    Digest = digest(Term),
    {Took, Digest} = timer:tc(erpc, call, [Node, ?MODULE, digest, [Term], 60000]),
    say("~b MiB sent to '~s' in ~.1f s; SHA-256 matches, ~s...",
        [Size, Node, Took / 1000000, string:lowercase(binary:encode_hex(binary:part(Digest, 0, 8)))]).

say(Format, Args) ->
    io:format("  " ++ Format ++ "~n", Args).
