%% handover_proto decodes and encodes the examples of docs/PROTOCOL.md.
-module(handover_proto_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() ->
    [examples_of_commands, examples_of_events, examples_of_connections, every_example_is_known, bad_frames,
     bad_connections].

init_per_suite(Config) ->
    [{examples, examples()} | Config].

end_per_suite(_) -> ok.

%% The name and the bytes of each "```hex NAME" block of the page.
examples() ->
    {ok, Page} = file:read_file(filename:join([handover_ct:root(), "docs", "PROTOCOL.md"])),
    {match, Blocks} = re:run(Page, "```hex ([A-Z0-9_]+)\\n([0-9a-f \\n]+)```", [global, {capture, all_but_first, list}]),
    [{list_to_atom(Name), << <<(list_to_integer(Byte, 16))>> || Byte <- string:lexemes(Hex, " \n") >>}
     || [Name, Hex] <- Blocks].

example(Name, Config) ->
    proplists:get_value(Name, ?config(examples, Config)).

%% What the BEAM sends: the examples are messages of the documented form, and encode/1 gives the same terms.
examples_of_commands(Config) ->
    [?assertMatch({Name, true}, {Name, is_command(binary_to_term(example(Name, Config)))})
     || Name <- ['HELLO', 'REGISTER', 'CONNECT', 'CANCEL', 'CLOSED', 'STOP']],
    [begin
         Term = binary_to_term(example(Name, Config)),
         ?assertEqual(Term, binary_to_term(handover_proto:encode(Term)))
     end || Name <- ['HELLO', 'REGISTER', 'CONNECT', 'CANCEL', 'CLOSED', 'STOP']].

is_command({hello, 1, #{os_pid := Pid, epmd := Epmd, log_level := Level}}) ->
    is_integer(Pid) andalso is_binary(Epmd) andalso is_atom(Level);
is_command({register, Id, #{name := Name, port := Port, address := Address, epmd_port := EpmdPort, bind := Bind, highest := H,
                            lowest := L, node_type := T, extra := Extra}}) ->
    lists:all(fun is_integer/1, [Id, Port, EpmdPort, H, L, T]) andalso
        lists:all(fun is_binary/1, [Name, Address, Bind, Extra]);
is_command({connect, Id, #{name := Name, address := Address, epmd_port := EpmdPort, bind := Bind, timeout := Timeout}}) ->
    lists:all(fun is_integer/1, [Id, EpmdPort, Timeout]) andalso lists:all(fun is_binary/1, [Name, Address, Bind]);
is_command({cancel, Id}) -> is_integer(Id);
is_command({closed, Kind, Id}) -> is_integer(Id) andalso lists:member(Kind, [asked, handed_over]);
is_command(stop) -> true;
is_command(_) -> false.

%% What the carrier sends.
examples_of_events(Config) ->
    [begin
         Frame = example(Name, Config),
         ?assertEqual({Name, {ok, binary_to_term(Frame)}}, {Name, handover_proto:decode(Frame)})
     end || Name <- ['HELLO_REPLY', 'REFUSED', 'REGISTERED', 'ERROR', 'EPMD_UP', 'EPMD_DOWN', 'LOG']].

%% What the two send on the fd socket.
examples_of_connections(Config) ->
    ?assertEqual(example('KEEP', Config), iolist_to_binary(handover_proto:keep_header(17))),
    ?assertMatch({ok, #{kind := asked, id := 7, family := inet, peer := {{192,0,2,7}, 4369}}},
                 handover_proto:connection(example('CONNECTION', Config))),
    ?assertMatch({ok, #{kind := handed_over, id := 1, family := inet6, peer := {{16#2001,16#db8,0,0,0,0,0,1}, 4369}}},
                 handover_proto:connection(<<1, $a, 1:64, 6, 4369:16, 16#20010db8:32, 0:80, 1:16>>)).

%% A new example of the page must be added to one of the lists: the Go tests read those of Epmd, this suite those of
%% Ours.
every_example_is_known(Config) ->
    Epmd = ['ALIVE2_REQ', 'ALIVE2_X_RESP', 'ALIVE2_RESP', 'PORT_PLEASE2_REQ', 'PORT2_RESP', 'NAMES_REQ', 'DUMP_REQ', 'KILL_REQ',
            'STOP_REQ', 'STATUS_REQ', 'HANDOVER_REQ', 'HANDOVER_RESP_OK', 'HANDOVER_RESP_NO_SUCH_NODE', 'HANDOVER_ASK',
            'HANDOVER_SOCKET', 'PASS', 'ACK'],
    Ours = ['HELLO', 'REGISTER', 'CONNECT', 'CANCEL', 'CLOSED', 'STOP', 'HELLO_REPLY', 'REFUSED', 'REGISTERED', 'ERROR', 'EPMD_UP',
            'EPMD_DOWN', 'LOG', 'CONNECTION', 'KEEP'],
    Names = [Name || {Name, _} <- ?config(examples, Config)],
    ?assertEqual([], Names -- (Epmd ++ Ours)),
    ?assertEqual([], Ours -- Names).

bad_frames(_) ->
    [?assertMatch({error, {bad_message, _}}, handover_proto:decode(Frame))
     || Frame <- [<<>>, <<131>>, <<0, 1, 2>>, term_to_binary(x), term_to_binary({hello, 1, #{}}),
                  term_to_binary({registered, 1, 2, other}), term_to_binary({log, loud, <<"x">>, []}),
                  term_to_binary({error, <<"1">>, x, <<>>}), <<131, 109, 255, 255, 255, 255>>]].

bad_connections(_) ->
    [?assertEqual({error, {bad_connection, Bytes}}, handover_proto:connection(Bytes))
     || Bytes <- [<<>>, <<1>>, <<2, $c, 7:64, 4, 4369:16, 192, 0, 2, 7>>, <<1, $x, 7:64, 4, 4369:16, 192, 0, 2, 7>>,
                  <<1, $c, 7:64, 4, 4369:16, 192, 0, 2>>, <<1, $c, 7:64, 5, 4369:16, 192, 0, 2, 7>>,
                  <<1, $c, 7:64, 4, 4369:16, 192, 0, 2, 7, 0>>]].
