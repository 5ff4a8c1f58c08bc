%% @doc Closes the descriptors of links, passes copies of them to each new carrier, replaces keepers that were killed,
%% and holds the lifeline to the carrier. One process per node.
%%
%% It closes one descriptor after another: a close needs a dirty scheduler, and closing on all of them at once slows
%% down everything else. No process waits for the close, because the connection was shut down before.
%%
%% The process is started on demand. If it is killed, the keepers and handover_carrier see that by their monitors, start
%% it again and repeat their watch/4 and attach_carrier/3.
-module(handover_closer).

-export([start/0, hold/3, watch/4, attach_carrier/3, close/2]).
-export([init/1, loop/1]).

-type fd() :: non_neg_integer().
%% Describes the connection of a descriptor. It says which handover_carrier's program has a copy; #{}: none has.
-type connection() :: handover_proto:connection() | #{}.
-type start_keeper() :: fun((Socket :: port(), fd(), connection()) -> ok).
%% Without a socket and a function, Keeper has not called watch/4 yet.
-type watched() :: #{Keeper :: pid() => {Monitor :: reference(), Socket :: port() | none, fd(), connection(),
                                         start_keeper() | none}}.

-record(st, {watched = #{} :: watched(),
             carrier = none :: none | {pid(), FdSocket :: socket:socket()},
             lifeline = none :: none | port()}).

%% After this time without a message the process hibernates, so that it holds no old code.
-define(IDLE_MS, 1000).
%% Pause before a held descriptor is closed, and before a replacement is tried again.
-define(LATER_MS, 1000).
%% Pause after a start that failed because of the process limit.
-define(RETRY_MS, 20).

%% @doc Starts the process, unless it is running; returns when it is ready. The guard does this when it starts, because
%% it might be impossible later, at the process limit. Several processes may call this at once: the first one to
%% register the name wins.
-spec start() -> ok.
start() ->
    try spawn_opt(?MODULE, init, [self()], [monitor]) of
        {Pid, Monitor} ->
            receive
                {Pid, ready} -> demonitor(Monitor, [flush]), ok;
                {'DOWN', Monitor, process, Pid, _} -> ok
            end
    catch
        error:system_limit -> receive after ?RETRY_MS -> ok end      % the caller tries again
    end.

%% @doc Watches the calling process, the keeper of Fd and Socket. If the keeper ends before it has called {@link
%% close/2}, StartKeeper must start another keeper. The keeper receives `{copied, Fd, Connection}' when a carrier has
%% got a copy of Fd, and must use that Connection from then on. Returns a monitor of handover_closer: on its 'DOWN'
%% the keeper must call this again.
-spec watch(port(), fd(), connection(), start_keeper()) -> reference().
watch(Socket, Fd, Connection, StartKeeper) ->
    send_to_closer({watch, self(), Socket, Fd, Connection, StartKeeper}),
    monitor(process, ?MODULE).

%% @doc Passes copies of all watched descriptors, and of later ones, to the program of Carrier (a handover_carrier)
%% through the fd socket FdSocket, and opens a lifeline to the fd socket's Name. handover_closer owns the lifeline,
%% because Carrier may end while the node lives. Carrier receives a cast `{closed, Kind, Id}' for each copy that the
%% program must close. Returns a monitor of handover_closer: on its 'DOWN' Carrier must call this again.
-spec attach_carrier(pid(), socket:socket(), Name :: binary()) -> reference().
attach_carrier(Carrier, FdSocket, Name) ->
    send_to_closer({attach_carrier, Carrier, FdSocket, Name}),
    monitor(process, ?MODULE).

%% @doc Closes Fd if Keeper ends before it has called watch/4 or close/2. Must be called before Keeper can call them.
-spec hold(pid(), fd(), connection()) -> ok.
hold(Keeper, Fd, Connection) ->
    send_to_closer({hold, Keeper, Fd, Connection}).

%% @doc Closes Fd, and has the carrier that Connection names close its copy. Stops watching the caller if that is the
%% keeper of Fd. Returns at once.
-spec close(fd(), connection()) -> ok.
close(Fd, Connection) ->
    send_to_closer({close, self(), Fd, Connection}).

%% internal

send_to_closer(Message) ->
    try ?MODULE ! Message of
        _ -> ok
    catch
        error:badarg -> start(), send_to_closer(Message)
    end.

%% @private
-spec init(pid()) -> no_return().
init(Starter) ->
    try register(?MODULE, self()) of
        true -> Starter ! {self(), ready}, loop(#st{})
    catch
        error:badarg -> exit(normal)
    end.

%% @private
-spec loop(#st{}) -> no_return().
loop(#st{watched = Watched} = S) ->
    receive
        {hold, Keeper, Fd, Connection} ->
            ?MODULE:loop(S#st{watched = Watched#{Keeper => {monitor(process, Keeper), none, Fd, Connection, none}}});
        {watch, Keeper, Socket, Fd, Connection, StartKeeper} ->
            {_, Others} = unwatch(Keeper, Fd, Connection, Watched),
            Entry = {monitor(process, Keeper), Socket, Fd, Connection, StartKeeper},
            ?MODULE:loop(copy_to_carrier(Keeper, S#st{watched = Others#{Keeper => Entry}}));
        {attach_carrier, Carrier, FdSocket, Name} ->
            Attached = open_lifeline(Name, S#st{carrier = {Carrier, FdSocket}}),
            ?MODULE:loop(lists:foldl(fun copy_to_carrier/2, Attached, maps:keys(Watched)));
        {close, Keeper, Fd, Connection} ->
            {Latest, Rest} = unwatch(Keeper, Fd, Connection, Watched),
            close_now(Fd, Latest),
            ?MODULE:loop(S#st{watched = Rest});
        {'DOWN', _, process, Keeper, _} ->
            ?MODULE:loop(S#st{watched = keeper_died(Keeper, Watched)});
        _ ->
            ?MODULE:loop(S)
    after ?IDLE_MS ->
            erlang:hibernate(?MODULE, loop, [S])
    end.

%% Without a lifeline the carrier notices a halt of this node later.
open_lifeline(Name, #st{lifeline = Old} = S) ->
    _ = Old =:= none orelse gen_tcp:close(Old),
    case handover_fd:lifeline(Name) of
        {ok, New} -> S#st{lifeline = New};
        {error, _} -> S#st{lifeline = none}
    end.

%% Passes the descriptor to the current carrier, unless that has a copy. If this fails (the carrier has ended or has too
%% many open files), no further copies are passed to this carrier: the far ends then notice a halt of this node later.
copy_to_carrier(Keeper, #st{watched = Watched, carrier = {Carrier, FdSocket}} = S) ->
    case Watched of
        #{Keeper := {_, _, _, #{carrier := Carrier}, _}} ->
            S;
        #{Keeper := {Monitor, Socket, Fd, Connection, StartKeeper}} ->
            Id = erlang:unique_integer([positive]),
            case handover_fd:send(FdSocket, handover_proto:keep_header(Id), Fd) of
                ok ->
                    Copied = Connection#{carrier => Carrier, kind => kept, id => Id},
                    Keeper ! {copied, Fd, Copied},
                    S#st{watched = Watched#{Keeper := {Monitor, Socket, Fd, Copied, StartKeeper}}};
                {error, _} ->
                    S#st{carrier = none}
            end
    end;
copy_to_carrier(_, S) ->
    S.

unwatch(Keeper, Fd, Connection, Watched) ->
    case maps:take(Keeper, Watched) of
        {{Monitor, _, Fd, Latest, _}, Rest} -> demonitor(Monitor, [flush]), {Latest, Rest};
        _ -> {Connection, Watched}
    end.

close_now(Fd, Connection) ->
    case Connection of
        #{carrier := Carrier, kind := Kind, id := Id} -> gen_server:cast(Carrier, {closed, Kind, Id});
        #{} -> ok
    end,
    handover_fd:close(Fd).

%% At the process limit, tries again later. A held descriptor is closed after a pause: by then a port that the
%% dead keeper had opened with it has ended too.
keeper_died(Keeper, Watched) ->
    case maps:take(Keeper, Watched) of
        {{_, none, Fd, Connection, none}, Rest} ->
            _ = erlang:send_after(?LATER_MS, self(), {close, Keeper, Fd, Connection}),
            Rest;
        {{_, Socket, Fd, Connection, StartKeeper}, Rest} ->
            try StartKeeper(Socket, Fd, Connection) of
                ok -> Rest
            catch
                error:system_limit ->
                    _ = erlang:send_after(?LATER_MS, self(), {'DOWN', none, process, Keeper, system_limit}),
                    Watched
            end;
        error ->
            Watched
    end.
