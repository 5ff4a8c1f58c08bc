%% @doc Owns the descriptors of the links: it closes them, has each carrier keep a copy of them, and starts another keeper if one is
%% killed.
%%
%% It closes one number after another: the dirty schedulers that this takes may be busy, and closing on all of them at once slows
%% everything else down. Nobody waits for it: the connection has been shut down before. Whoever needs this process starts it; if it
%% is killed, the keepers and handover_carrier start it again and tell it what they had told the last one.
-module(handover_closer).

-export([start/0, watch/4, carrier/3, close/2]).
-export([init/1, loop/1]).

-type fd() :: non_neg_integer().
-type connection() :: handover_proto:connection() | #{}.    % #{}: of no carrier
-type inherit() :: fun((Socket :: port(), fd(), connection()) -> ok).
-type watched() :: #{Keeper :: pid() => {Monitor :: reference(), Socket :: port(), fd(), connection(), inherit()}}.

-record(st, {watched = #{} :: watched(),
             carrier = none :: none | {pid(), FdSocket :: socket:socket()},
             lifeline = none :: none | port()}).

%% It runs new code after an upgrade, since it sleeps in none.
-define(IDLE_MS, 1000).
-define(LIMIT_MS, 20).

%% @doc Starts it, unless it runs. The guard does so early: a node at its limit of processes could not. Several may start one at
%% once: the first gets the name.
-spec start() -> ok.
start() ->
    try spawn_opt(?MODULE, init, [self()], [monitor]) of
        {Pid, Monitor} ->
            receive
                {Pid, ready} -> demonitor(Monitor, [flush]), ok;
                {'DOWN', Monitor, process, Pid, _} -> ok
            end
    catch
        error:system_limit -> receive after ?LIMIT_MS -> ok end      % whoever needs it tries again
    end.

%% @doc Watches the calling process, a keeper, which keeps Fd until the end of Socket. If the keeper ends before it has called
%% {@link close/2}, Inherit starts another. `{copied, Fd, Connection}' tells the keeper what Connection is from then on. The
%% monitor that is returned tells the keeper to call this again.
-spec watch(port(), fd(), connection(), inherit()) -> reference().
watch(Socket, Fd, Connection, Inherit) ->
    tell({watch, self(), Socket, Fd, Connection, Inherit}),
    monitor(process, ?MODULE).

%% @doc From now on Worker's program, with which Fds is connected, keeps copies of what is watched, and has a lifeline to this process:
%% not to Worker, which may end while this node goes on. Worker is cast `{closed, Kind, Id}' for each copy that the program is
%% to close. The monitor that is returned tells Worker to call this again.
-spec carrier(pid(), socket:socket(), Name :: binary()) -> reference().
carrier(Worker, Fds, Name) ->
    tell({carrier, Worker, Fds, Name}),
    monitor(process, ?MODULE).

%% @doc Closes Fd and tells the carrier that has a copy of it. The caller is watched no more.
-spec close(fd(), connection()) -> ok.
close(Fd, Connection) ->
    tell({close, self(), Fd, Connection}).

%% internal

tell(Message) ->
    try ?MODULE ! Message of
        _ -> ok
    catch
        error:badarg -> start(), tell(Message)
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
        {watch, Keeper, Socket, Fd, Connection, Inherit} ->
            Entry = {monitor(process, Keeper), Socket, Fd, Connection, Inherit},
            ?MODULE:loop(copy(Keeper, S#st{watched = Watched#{Keeper => Entry}}));
        {carrier, Worker, Fds, Name} ->
            ?MODULE:loop(lists:foldl(fun copy/2, lifeline(Name, S#st{carrier = {Worker, Fds}}), maps:keys(Watched)));
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

%% Without one the carrier sees a halt when the kernel does.
lifeline(Name, #st{lifeline = Old} = S) ->
    _ = Old =:= none orelse gen_tcp:close(Old),
    case handover_fd:lifeline(Name) of
        {ok, New} -> S#st{lifeline = New};
        {error, _} -> S#st{lifeline = none}
    end.

%% A connection that today's carrier has no copy of is passed to it. If that fails (the carrier has ended, or has too many files
%% open) the connections go without: the far end then sees a halt of this node later.
copy(Keeper, #st{watched = Watched, carrier = {Worker, Fds}} = S) ->
    case Watched of
        #{Keeper := {_, _, _, #{carrier := Worker}, _}} ->
            S;
        #{Keeper := {Monitor, Socket, Fd, Connection, Inherit}} ->
            Id = erlang:unique_integer([positive]),
            case handover_fd:send(Fds, handover_proto:keep(Id), Fd) of
                ok ->
                    Copied = Connection#{carrier => Worker, kind => kept, id => Id},
                    Keeper ! {copied, Fd, Copied},
                    S#st{watched = Watched#{Keeper := {Monitor, Socket, Fd, Copied, Inherit}}};
                {error, _} ->
                    S#st{carrier = none}
            end
    end;
copy(_, S) ->
    S.

unwatch(Keeper, Fd, Connection, Watched) ->
    case maps:take(Keeper, Watched) of
        {{Monitor, _, Fd, Latest, _}, Rest} -> demonitor(Monitor, [flush]), {Latest, Rest};
        _ -> {Connection, Watched}
    end.

close_now(Fd, Connection) ->
    case Connection of
        #{carrier := Worker, kind := Kind, id := Id} -> gen_server:cast(Worker, {closed, Kind, Id});
        #{} -> ok
    end,
    handover_fd:close(Fd).

%% A node at its limit of processes may have room later.
keeper_died(Keeper, Watched) ->
    case maps:take(Keeper, Watched) of
        {{_, Socket, Fd, Connection, Inherit}, Rest} ->
            try Inherit(Socket, Fd, Connection) of
                ok -> Rest
            catch
                error:system_limit ->
                    _ = erlang:send_after(?IDLE_MS, self(), {'DOWN', none, process, Keeper, system_limit}),
                    Watched
            end;
        error ->
            Watched
    end.
