%% @doc OTP's own client of EPMD, the process erl_epmd. The carrier registers the node, so that process knows of no registration,
%% and an application that calls erl_epmd:register_node/2 (RabbitMQ does so every minute) would make it register the node a second
%% time: EPMD logs a refusal, or the name is taken from a carrier that is being restarted. So the process is made to think that
%% it has registered the node, and answers `{error, already_registered}'.
%%
%% Its state is private to OTP: it is changed only if it looks as in OTP 25 to 29, and left alone otherwise. It ends with net_sup, so
%% the next start of the distribution finds a new process.
-module(handover_erl_epmd).

-export([mark/3, unmark/0]).

-define(ANSWER_MS, 5000).

%% #state{socket, port_no, name, family} of erl_epmd. The socket is -1 while the node is not registered.
-define(UNREGISTERED, {state, -1, _, _, _}).

%% @doc erl_epmd takes the node for registered. Reports whether it does.
-spec mark(Name :: atom(), inet:port_number(), inet | inet6) -> boolean().
mark(Name, Port, Family) ->
    Closed = closed_port(),
    replace(fun(?UNREGISTERED) -> {state, Closed, Port, Name, Family};
               (Other) -> Other
            end) =:= {state, Closed, Port, Name, Family}.

%% @doc Undoes mark/3.
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

%% erl_epmd is not there with -no_epmd, and if -epmd_module does without it.
replace(Fun) ->
    try sys:replace_state(erl_epmd, Fun, ?ANSWER_MS) catch exit:_ -> none end.

%% A socket that is closed: nothing comes from it, and erl_epmd may close it at its end.
closed_port() ->
    Port = open_port({spawn_driver, "tcp_inet"}, [binary]),
    true = unlink(Port),
    true = port_close(Port),
    Port.
