%% @doc Brings connections to net_kernel: a loop over the ordinary listen port, and the word to handover_sup that
%% connections handed over may come now.
-module(handover_acceptor).

-export([start/1]).
-export([init/2, idle/0]).

%% @doc Starts the acceptor that net_kernel is linked to; it starts another when this one ends.
-spec start(handover_dist:listen()) -> pid().
start(Listen) ->
    spawn_opt(?MODULE, init, [self(), Listen], [link, {priority, max}]).

%% @private
-spec init(pid(), handover_dist:listen()) -> no_return().
init(Kernel, Listen) ->
    ok = handover_sup:accept(Kernel),
    case handover_dist:listener(Listen) of
        {_Driver, none} -> idle();
        {Driver, Socket} -> loop(Kernel, Driver, Socket)
    end.

-spec loop(pid(), module(), port()) -> no_return().
loop(Kernel, Driver, Listener) ->
    case Driver:accept(Listener) of
        {ok, Socket} ->
            Kernel ! {accept, self(), Socket, Driver:family(), handover_dist:protocol()},
            controller(Kernel, Driver, Socket),
            loop(Kernel, Driver, Listener);
        {error, Reason} ->
            exit({accept, Reason})
    end.

%% Asleep it is in no code, so an upgrade of this module does not end it. One that waits in accept is ended by an upgrade,
%% and net_kernel starts another; the connections meanwhile wait in the listen queue.
%% @private
-spec idle() -> no_return().
idle() ->
    receive
        _ -> idle()
    after 0 -> erlang:hibernate(?MODULE, idle, [])
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
