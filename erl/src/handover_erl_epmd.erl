%% @doc Prevents OTP's process erl_epmd from registering the node a second time.
%%
%% The carrier registers the node, so erl_epmd has no registration. If an application calls erl_epmd:register_node/2
%% (RabbitMQ does every minute), erl_epmd would register the node again: EPMD would log a refusal, or erl_epmd would
%% take the name while the carrier restarts. This module changes the state of erl_epmd to that of a registered node, so
%% that it answers `{error, already_registered}'.
%%
%% That state is private to OTP. It is changed only if it has the form of OTP 25 to 29. erl_epmd ends with net_sup, so
%% the next start of the distribution has a new process.
-module(handover_erl_epmd).

-export([mark/3, unmark/0]).

-define(ANSWER_MS, 5000).

%% #state{socket, port_no, name, family} of erl_epmd. The socket is -1 while the node is not registered.
-define(UNREGISTERED, {state, -1, _, _, _}).

%% @doc Makes erl_epmd treat the node as registered. Reports whether it does. Waits up to 5 s; must not be called by
%% erl_epmd itself.
-spec mark(Name :: atom(), inet:port_number(), inet | inet6) -> boolean().
mark(Name, Port, Family) ->
    Closed = closed_port(),
    replace(fun(?UNREGISTERED) -> {state, Closed, Port, Name, Family};
               (Other) -> Other
            end) =:= {state, Closed, Port, Name, Family}.

%% @doc Undoes mark/3. Does not change a registration that erl_epmd made itself.
-spec unmark() -> true.
unmark() ->
    _ = replace(fun({state, Port, _, _, _} = State) when is_port(Port) ->
                        case erlang:port_info(Port, id) of
                            undefined -> {state, -1, -1, "", undefined};
                            _ -> State
                        end;
                   (Other) -> Other
                end),
    true.

%% internal

%% erl_epmd does not run with -no_epmd, or if the module of -epmd_module does not start it.
replace(Fun) ->
    try sys:replace_state(erl_epmd, Fun, ?ANSWER_MS) catch exit:_ -> none end.

%% A closed port sends no messages, and erl_epmd can close it again when it ends.
closed_port() ->
    Port = open_port({spawn_driver, "tcp_inet"}, [binary]),
    true = unlink(Port),
    true = port_close(Port),
    Port.
