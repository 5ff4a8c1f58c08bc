%% What node n1 of demo.sh does: reaches the nodes given as arguments, and says how. Ends with status 1 where something is
%% not as it should be.
-module(two_hosts).

-export([main/1, stock/1, digest/1]).

-define(MIB, 1048576).

%% `-run two_hosts main NODE ...' gives strings.
main(Names) ->
    Nodes = [list_to_atom(Name) || Name <- Names],
    Each = fun(Node) -> ping(Node), call(Node) end,
    run(fun() -> lists:foreach(Each, Nodes), send(hd(Nodes), 64) end).

%% The same hosts, with the distribution that OTP comes with: EPMD answers, the port that it names can't be reached.
stock([Node]) ->
    run(fun() ->
        [Name, Host] = string:split(Node, "@"),
        {port, Port, _} = erl_epmd:port_please(Name, Host),
        say("EPMD on ~s answers: ~s is at port ~b", [Host, Name, Port]),
        expect(pang, net_adm:ping(list_to_atom(Node)), "net_adm:ping('~s')", [Node])
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
    {Took, Result} = timer:tc(net_adm, ping, [Node]),
    {Address, Port} = peer(Node),
    expect(pong, Result, "net_adm:ping('~s')", [Node]),
    say("in ~.1f ms, through ~s port ~b", [Took / 1000, inet:ntoa(Address), Port]).

%% Where the connection to Node goes: it is a socket of the BEAM's own.
peer(Node) ->
    case lists:keyfind(Node, 1, erlang:system_info(dist_ctrl)) of
        {Node, Socket} -> {ok, Peer} = inet:peername(Socket), Peer;
        false -> error({not_connected, Node})
    end.

call(Node) ->
    expect(Node, erpc:call(Node, erlang, node, [], 10000), "erpc:call('~s', erlang, node, [])", [Node]).

send(Node, Size) ->
    Term = {parts, [rand:bytes(?MIB) || _ <- lists:seq(1, Size)]},
    Digest = digest(Term),
    {Took, There} = timer:tc(erpc, call, [Node, ?MODULE, digest, [Term], 60000]),
    expect(Digest, There, "a term of ~b MiB sent to ~s; SHA-256 there", [Size, Node]),
    say("~s..., the same as here, in ~.1f s", [hex(binary:part(There, 0, 8)), Took / 1000000]).

hex(Bytes) ->
    string:lowercase(binary:encode_hex(Bytes)).

expect(Value, Value, Format, Args) when is_atom(Value) ->
    say(Format ++ " -> ~s", Args ++ [Value]);
expect(Value, Value, Format, Args) ->
    say(Format, Args);
expect(Expected, Other, Format, Args) ->
    error({lists:flatten(io_lib:format(Format, Args)), {expected, Expected}, {got, Other}}).

say(Format, Args) ->
    io:format("  " ++ Format ++ "~n", Args).
