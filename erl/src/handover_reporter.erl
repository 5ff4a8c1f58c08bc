%% @doc Reports how an attempt to connect ended, as an event, and stores the reason of a failure in the guard. One
%% process for each outgoing setup and each incoming handshake; it ends when the link is up or the attempt has failed.
%%
%% It is a separate process because the setup timer may kill the process of the attempt, and because that process must
%% not wait for a logger.
-module(handover_reporter).

-export([start_outgoing/1, set_step/2, failed/3, connected/3]).
-export([start_incoming/2, accepted/2]).
-export([init_outgoing/3, init_incoming/4]).

-record(outgoing, {pid :: pid(),                        % the process of the setup
                   monitor :: reference(),
                   node :: node(),
                   since :: integer(),
                   step = started :: atom()}).

-define(CONNECTED_POLL_MS, 20).
-define(CONNECTED_POLLS, 15).

%% @doc Starts a reporter for the calling process, which sets up a connection to Node.
-spec start_outgoing(node()) -> pid().
start_outgoing(Node) ->
    spawn_opt(?MODULE, init_outgoing, [self(), Node, erlang:monotonic_time()], [{priority, max}]).

%% @doc Tells the reporter what the setup does now. The report of a timeout names the step.
-spec set_step(pid(), atom()) -> ok.
set_step(Reporter, Step) -> Reporter ! {step, Step}, ok.

%% @doc Tells the reporter that the setup has failed.
-spec failed(pid(), atom(), Detail :: term()) -> ok.
failed(Reporter, Reason, Detail) -> Reporter ! {failed, Reason, Detail}, ok.

%% @doc Tells the reporter that the outgoing link is up.
-spec connected(pid(), port(), handover | direct) -> ok.
connected(Reporter, Socket, Via) -> Reporter ! {connected, Socket, Via}, ok.

%% @doc Starts a reporter for the calling process, which runs the handshake with a node that connected to this node.
-spec start_incoming(port(), handover | direct) -> pid().
start_incoming(Socket, Via) ->
    spawn(?MODULE, init_incoming, [self(), Socket, Via, erlang:monotonic_time()]).

%% @doc Tells the reporter that the incoming link is up; Node connected to this node.
-spec accepted(pid(), node()) -> ok.
accepted(Reporter, Node) -> Reporter ! {accepted, Node}, ok.

%% outgoing

%% @private
-spec init_outgoing(pid(), node(), integer()) -> ok.
init_outgoing(Pid, Node, Since) ->
    outgoing(#outgoing{pid = Pid, monitor = monitor(process, Pid), node = Node, since = Since}).

outgoing(#outgoing{pid = Pid, monitor = Monitor, node = Node, since = Since} = S) ->
    receive
        {step, Step} ->
            outgoing(S#outgoing{step = Step});
        {connected, Socket, Via} ->
            handover_event:emit(info, connected, #{node => Node, via => Via, peer => handover_socket:peer(Socket),
                                                   duration => duration(Since)});
        {failed, Reason, Detail} ->
            report_failure(Reason, Detail, S);
        {'DOWN', Monitor, process, Pid, Reason} ->
            report_exit(Reason, S)
    end.

report_failure(Reason, Detail, #outgoing{node = Node, since = Since}) ->
    handover_guard:store_failure(Node, Reason, Detail),
    Fields = #{node => Node, duration => duration(Since)},
    case {Reason, Detail} of
        {other_name, {Name, Peer}} -> handover_event:emit(warning, other_name, Fields#{name => Name, peer => Peer});
        _ -> handover_event:emit(warning, setup_failed, Fields#{reason => Reason, detail => handover_log:text(Detail)})
    end.

%% Not every exit is a failure. If both nodes connect at the same time, net_kernel ends one of the two setups, with
%% `remarked'. A link that is disconnected as soon as it is up ends with `disconnect'.
%%
%% `shutdown' is dist_util's reason if the other node closed the connection or this node rejected it, and also if this
%% setup lost against the other node's, whose link is then up soon. `noproc' means that the setup ended before this
%% process monitored it. So for these two reasons this waits up to 300 ms for a link, and reports a failure if there is
%% none.
report_exit(Reason, _) when Reason =:= remarked; Reason =:= disconnect ->
    ok;
report_exit(Reason, #outgoing{node = Node} = S) when Reason =:= shutdown; Reason =:= noproc ->
    case is_connected_soon(Node, ?CONNECTED_POLLS) of
        true -> ok;
        false -> report_failure(handshake, "closed by the other node, or rejected by this one", S)
    end;
report_exit(setup_timer_timeout, #outgoing{step = Step} = S) ->
    report_failure(timeout, io_lib:format("in step ~ts", [Step]), S);
report_exit(Reason, #outgoing{step = Step} = S) ->
    report_failure(handshake, io_lib:format("~ts: ~0tp", [Step, Reason]), S).

is_connected_soon(Node, Polls) ->
    case lists:member(Node, nodes(connected)) of
        true -> true;
        false when Polls =:= 0 -> false;
        false -> receive after ?CONNECTED_POLL_MS -> is_connected_soon(Node, Polls - 1) end
    end.

%% incoming

%% @private
-spec init_incoming(pid(), port(), handover | direct, integer()) -> ok.
init_incoming(Pid, Socket, Via, Since) ->
    Monitor = monitor(process, Pid),
    Fields = #{via => Via, peer => handover_socket:peer(Socket)},
    receive
        {accepted, Node} ->
            handover_event:emit(info, accepted, Fields#{node => Node, duration => duration(Since)});
        {'DOWN', Monitor, process, Pid, Reason} ->
            handover_event:emit(info, acceptance_failed,
                                Fields#{reason => exit_reason(Reason), duration => duration(Since)})
    end.

%% dist_util exits with `shutdown' if the far end closed the connection, if this node keeps another connection to the
%% same node, or if this node rejects the far end's name, flags or address.
exit_reason(shutdown) -> closed_or_superseded;
exit_reason(Reason) -> Reason.

%% internal

duration(Since) -> erlang:monotonic_time() - Since.
