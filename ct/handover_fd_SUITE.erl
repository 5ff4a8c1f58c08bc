%% Fds in and out of the BEAM, without the Go programs.
-module(handover_fd_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() -> [exactly_one_fd, adopt_and_close, output_is_flushed_before_the_fd_closes, bad_option, bad_fd, connect_refuses_another_process].

%% A connected pair: an fd that came as all do, in a message, and the socket at the other end.
pair() ->
    {ok, Listener} = gen_tcp:listen(0, [binary, {active, false}, {ip, {127, 0, 0, 1}}]),
    {ok, Port} = inet:port(Listener),
    {ok, Raw} = socket:open(inet, stream, tcp),
    ok = socket:connect(Raw, #{family => inet, addr => {127, 0, 0, 1}, port => Port}),
    {ok, Peer} = gen_tcp:accept(Listener),
    ok = gen_tcp:close(Listener),
    {ok, Number} = socket:getopt(Raw, otp, fd),
    {ok, <<"header">>, Fd} = passed(<<"header">>, [Number]),
    ok = socket:close(Raw),
    {Fd, Peer}.

%% What recv/1 gives for a message with these fds.
passed(Bytes, Fds) ->
    {Name, Listener} = listener(),
    try
        {ok, Receiver} = handover_fd:connect(Name, list_to_integer(os:getpid())),
        {ok, Sender} = socket:accept(Listener),
        Control = [#{level => socket, type => rights, data => << <<Fd:32/native>> || Fd <- Fds >>} || Fds =/= []],
        ok = socket:sendmsg(Sender, #{iov => [Bytes], ctrl => Control}),
        ok = socket:close(Sender),
        Result = handover_fd:recv(Receiver),
        ok = socket:close(Receiver),
        Result
    after
        socket:close(Listener)
    end.

%% A socket in the abstract namespace, and its name.
listener() ->
    Name = list_to_binary("handover_fd_SUITE." ++ os:getpid()),
    {ok, Listener} = socket:open(local, seqpacket, default),
    ok = socket:bind(Listener, #{family => local, path => <<0, Name/binary>>}),
    ok = socket:listen(Listener),
    {Name, Listener}.

fds() -> handover_ct_work:own_fds().

%% A message with none or several says so, and leaves the fds to the caller.
exactly_one_fd(_) ->
    {ok, Socket} = socket:open(inet, dgram, udp),
    {ok, Number} = socket:getopt(Socket, otp, fd),
    Before = fds(),
    ?assertEqual({no_fd, <<"none">>}, passed(<<"none">>, [])),
    {fds, <<"two">>, [_, _] = Two} = passed(<<"two">>, [Number, Number]),
    {fds, <<"many">>, [_, _, _, _, _, _, _, _, _] = Many} = passed(<<"many">>, lists:duplicate(9, Number)),
    lists:foreach(fun handover_fd:close/1, Two ++ Many),
    handover_ct:until(fun() -> fds() -- Before =:= [] end),
    ok = socket:close(Socket).

adopt_and_close(_) ->
    Before = fds(),
    {Fd, Peer} = pair(),
    {ok, Socket} = handover_fd:adopt(inet_tcp, Fd, [{active, false}, {packet, 2}]),
    ok = gen_tcp:send(Peer, <<5:16, "hello">>),
    ?assertEqual({ok, "hello"}, inet_tcp:recv(Socket, 0, 60000)),
    Monitor = erlang:monitor(port, Socket),
    ok = inet_tcp:close(Socket),
    receive {'DOWN', Monitor, port, Socket, _} -> ok end,
    ?assertEqual({error, timeout}, gen_tcp:recv(Peer, 0, 50)),       % the fd is open still: trap 1 is real
    ok = handover_fd:await_port_end(Socket, Fd),
    ok = handover_fd:shutdown(Fd),
    ?assertEqual({error, closed}, gen_tcp:recv(Peer, 0, 60000)),
    ok = handover_closer:close(Fd, #{}),
    ok = gen_tcp:close(Peer),
    handover_ct:until(fun() -> fds() -- Before =:= [] end).

output_is_flushed_before_the_fd_closes(_) ->
    {Fd, Peer} = pair(),
    {ok, Socket} = handover_fd:adopt(inet_tcp, Fd, []),
    Size = 8 bsl 20,
    Self = self(),
    Owner = spawn(fun() ->
                      receive go -> ok end,
                      ok = prim_inet:send(Socket, binary:copy(<<1>>, Size), [nosuspend]),
                      Self ! sent
              end),
    ok = inet_tcp:controlling_process(Socket, Owner),
    Monitor = erlang:monitor(port, Socket),
    Owner ! go,
    receive {'DOWN', Monitor, port, Socket, _} -> ok after 60000 -> error(port_lives) end,
    Closer = spawn_monitor(fun() -> ok = handover_fd:await_port_end(Socket, Fd) end),
    ?assertEqual(Size, byte_size(element(2, gen_tcp:recv(Peer, Size, 60000)))),
    receive {'DOWN', _, process, Pid, Reason} when Pid =:= element(1, Closer) -> ?assertEqual(normal, Reason) end,
    ok = handover_fd:close(Fd),
    ok = gen_tcp:close(Peer).

%% One option that can't be set does not cost the others.
bad_option(_) ->
    {Fd, Peer} = pair(),
    {ok, Socket} = handover_fd:adopt(inet_tcp, Fd, [{no_such_option, 1}, {nodelay, true}]),
    ?assertEqual({ok, [{nodelay, true}]}, inet:getopts(Socket, [nodelay])),
    [ok, ok] = [inet_tcp:close(Socket), gen_tcp:close(Peer)],
    ok = handover_fd:await_port_end(Socket, Fd),
    ok = handover_fd:close(Fd).

bad_fd(_) ->
    ?assertMatch({error, _}, handover_fd:adopt(inet_tcp, 9999, [])).

connect_refuses_another_process(Config) ->
    {Name, Listener} = listener(),
    Me = list_to_integer(os:getpid()),
    try
        ?assertEqual({error, {not_the_carrier, Me}}, handover_fd:connect(Name, Me + 1)),
        {ok, Socket} = handover_fd:connect(Name, Me),
        ?assertEqual(select, handover_fd:recv(Socket)),
        {ok, Accepted} = accept_last(Listener),
        ok = socket:close(Accepted),
        receive {'$socket', Socket, select, _} -> ok after 60000 -> error(no_select) end,
        ?assertEqual({error, closed}, handover_fd:recv(Socket)),
        socket:close(Socket)
    after
        socket:close(Listener)
    end,
    Config.

%% The first connection in the backlog is the refused one.
accept_last(Listener) ->
    {ok, Refused} = socket:accept(Listener),
    ok = socket:close(Refused),
    socket:accept(Listener).
