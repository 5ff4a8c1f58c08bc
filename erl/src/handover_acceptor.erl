%% @doc Brings connections to net_kernel: a loop over the ordinary listen port, and the word to handover_sup that
%% connections handed over may come now.
-module(handover_acceptor).

-export([start/1]).
-export([init/2]).

%% @doc Starts the acceptor that net_kernel is linked to; it starts another when this one ends.
-spec start(handover_dist:listen()) -> pid().
start(Listen) ->
    spawn_opt(?MODULE, init, [self(), Listen], [link, {priority, max}]).

%% @private
-spec init(pid(), handover_dist:listen()) -> no_return().
init(Kernel, Listen) ->
    ok = handover_sup:accept(Kernel),
    {Driver, Socket} = handover_dist:listener(Listen),
    loop(Kernel, Driver, Socket).

loop(_Kernel, _Driver, none) ->
    receive after infinity -> ok end;
loop(Kernel, Driver, Listener) ->
    case Driver:accept(Listener) of
        {ok, Socket} ->
            Kernel ! {accept, self(), Socket, Driver:family(), handover_dist:protocol()},
            controller(Kernel, Driver, Socket),
            loop(Kernel, Driver, Listener);
        {error, Reason} ->
            exit({accept, Reason})
    end.

%% net_kernel answers at once, with the process that does the handshake.
controller(Kernel, Driver, Socket) ->
    receive
        {Kernel, controller, Pid} ->
            _ = Driver:controlling_process(Socket, Pid),
            Pid ! {self(), controller, direct},
            ok;
        {Kernel, unsupported_protocol} ->
            exit(unsupported_protocol)
    end.
