%% @doc One process beside the handshake of each node that comes to us, until the link is up or has failed: who does the
%% handshake may be killed by its timer, and must not wait for a logger.
-module(handover_watch).

-export([start/2, up/2]).
-export([init/4]).

%% @doc Watches the calling process, which does the handshake on Socket.
-spec start(port(), handover | direct) -> pid().
start(Socket, Via) ->
    spawn(?MODULE, init, [self(), Socket, Via, erlang:monotonic_time()]).

%% @doc The link to Node is up.
-spec up(pid(), node()) -> ok.
up(Watch, Node) ->
    Watch ! {up, self(), Node},
    ok.

%% @private
-spec init(pid(), port(), handover | direct, integer()) -> ok.
init(Pid, Socket, Via, Since) ->
    Monitor = monitor(process, Pid),
    Fields = #{via => Via, peer => handover_handshake:peer(Socket)},
    receive
        {up, Pid, Node} ->
            handover_event:emit(info, accepted, Fields#{node => Node, duration => erlang:monotonic_time() - Since});
        {'DOWN', Monitor, process, Pid, Reason} ->
            handover_event:emit(info, acceptance_failed,
                               Fields#{reason => reason(Reason), duration => erlang:monotonic_time() - Since})
    end.

%% dist_util leaves with shutdown where the far end hung up, or where this node prefers another connection to the same node.
reason(shutdown) -> closed_or_superseded;
reason(Reason) -> Reason.
