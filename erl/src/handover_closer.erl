%% @doc Closes the numbers of descriptors, one after another: the dirty schedulers that this takes may be busy, and closing on all
%% of them at once slows everything else down. Nobody waits for it: the connection has been shut down before.
%%
%% It also watches the processes that keep the descriptors of links, and starts another keeper if one is killed. Whoever needs
%% this process starts it, and starts it again if it has died.
-module(handover_closer).

-export([start/0, watch/3, close/2]).
-export([init/1, loop/1]).

-type fd() :: non_neg_integer().
-type connection() :: handover_proto:connection() | #{}.    % #{}: of no carrier
-type watched() :: #{Keeper :: pid() => {Monitor :: reference(), Socket :: port(), fd(), connection()}}.

%% It runs new code after an upgrade, since it sleeps in none.
-define(IDLE_MS, 1000).

%% @doc Starts it, unless it runs. The guard does so early: a node at its limit of processes could not. Several may start one at
%% once: the first gets the name.
-spec start() -> ok.
start() ->
    {Pid, Monitor} = spawn_opt(?MODULE, init, [self()], [monitor]),
    receive
        {Pid, ready} -> demonitor(Monitor, [flush]), ok;
        {'DOWN', Monitor, process, Pid, _} -> ok
    end.

%% @doc Watches the calling process, which keeps Fd until the end of Socket. If it ends before it has called {@link close/2},
%% {@link handover_link:inherit/3} starts another keeper.
-spec watch(port(), fd(), connection()) -> ok.
watch(Socket, Fd, Connection) ->
    tell({watch, self(), Socket, Fd, Connection}).

%% @doc Closes Fd and tells the carrier that Connection came from. The caller is watched no more.
-spec close(fd(), connection()) -> ok.
close(Fd, Connection) ->
    tell({close, self(), Fd}),
    case Connection of
        #{carrier := Carrier, kind := Kind, id := Id} -> handover_port:closed(Carrier, Kind, Id);
        #{} -> ok
    end.

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
        true -> Starter ! {self(), ready}, loop(#{})
    catch
        error:badarg -> exit(normal)
    end.

%% @private
-spec loop(watched()) -> no_return().
loop(Watched) ->
    receive
        {watch, Keeper, Socket, Fd, Connection} ->
            ?MODULE:loop(Watched#{Keeper => {monitor(process, Keeper), Socket, Fd, Connection}});
        {close, Keeper, Fd} ->
            Rest = unwatch(Keeper, Watched),
            handover_fd:close(Fd),
            ?MODULE:loop(Rest);
        {'DOWN', _, process, Keeper, _} ->
            ?MODULE:loop(keeper_died(maps:take(Keeper, Watched), Watched));
        _ ->
            ?MODULE:loop(Watched)
    after ?IDLE_MS ->
            erlang:hibernate(?MODULE, loop, [Watched])
    end.

unwatch(Keeper, Watched) ->
    case maps:take(Keeper, Watched) of
        {{Monitor, _, _, _}, Rest} -> demonitor(Monitor, [flush]), Rest;
        error -> Watched
    end.

keeper_died({{_, Socket, Fd, Connection}, Rest}, _) ->
    handover_link:inherit(Socket, Fd, Connection),
    Rest;
keeper_died(error, Watched) ->
    Watched.
