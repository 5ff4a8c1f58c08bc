%% @doc Passes descriptors over the fd socket, makes distribution sockets from them, and closes them. A distribution
%% socket is a TCP socket of the inet driver (an Erlang port) on which dist_util can run the handshake.
%%
%% The caller of {@link recv/1} owns the fd. It must either close it, or make a socket from it with {@link adopt/3}. In
%% the second case it must wait for the end of the port ({@link await_port_end/2}), shut the connection down ({@link
%% shutdown/1}) and then close the fd. Only handover_closer calls {@link close/1}; other processes close an fd with
%% handover_closer:close/2.
-module(handover_fd).

-export([connect/2, lifeline/1, recv/1, send/3, adopt/3, await_port_end/2, shutdown/1, shutdown_before_exit/1,
         close/1]).

-type fd() :: non_neg_integer().

%% SOL_SOCKET, SO_PEERCRED; struct ucred is pid, uid, gid.
-define(SO_PEERCRED, {1, 17}).
-define(UCRED_SIZE, 12).
%% IPPROTO_TCP, TCP_INFO; tcpi_bytes_acked is a native u64 at this offset (linux/tcp.h).
-define(TCP_INFO, {6, 11}).
-define(TCP_INFO_SIZE, 192).
-define(BYTES_ACKED, 120).

-define(MESSAGE_SIZE, 64).
-define(CONTROL_SIZE, 64).
-define(SEND_MS, 1000).
-define(SHORT_POLLS, 40).           % polls for the end of a port with a pause of 0 to 9 ms
-define(MAX_PAUSE_MS, 40).          % the pause before each later poll
-define(STALL_MS, 15000).           % without an acknowledgement, then the connection is shut down

%% @doc Connects to the carrier's fd socket. Returns `{error, {not_the_carrier, Pid}}' if another OS process than OsPid
%% listens there. The caller must close the socket.
-spec connect(binary(), pos_integer()) -> {ok, socket:socket()} | {error, term()}.
connect(Name, OsPid) ->
    {ok, Socket} = socket:open(local, seqpacket, default),
    case connect_checked(Socket, Name, OsPid) of
        ok -> {ok, Socket};
        {error, _} = Error -> _ = socket:close(Socket), Error
    end.

%% A path that begins with a NUL is a name in the abstract namespace.
connect_checked(Socket, Name, OsPid) ->
    case socket:connect(Socket, #{family => local, path => <<0, Name/binary>>}) of
        ok ->
            case socket:getopt_native(Socket, ?SO_PEERCRED, ?UCRED_SIZE) of
                {ok, <<OsPid:32/native-signed, _:64>>} -> ok;
                {ok, <<Other:32/native-signed, _:64>>} -> {error, {not_the_carrier, Other}};
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

%% @doc Opens a lifeline to the carrier: a connection that is an Erlang port. A BEAM that halts closes its ports at
%% once, so the carrier notices the halt. Waits up to 1 s.
-spec lifeline(binary()) -> {ok, port()} | {error, term()}.
lifeline(Name) ->
    gen_tcp:connect({local, <<0, Name/binary>>}, 0, [{active, false}], ?SEND_MS).

%% @doc Receives the next message and its fd without waiting. The caller must close the fd. `fds': the message has more
%% than one fd, which is against the protocol; the caller must close all of them. `no_fd': the kernel dropped the fd
%% because this node has too many open files. `select': no message is available; the caller receives `{'$socket',
%% Socket, select, _}' when it should call this again.
-spec recv(socket:socket()) -> {ok, Header :: binary(), fd()} | {no_fd, Header :: binary()}
          | {fds, Header :: binary(), [fd()]} | select | {error, closed | term()}.
recv(Socket) ->
    case socket:recvmsg(Socket, ?MESSAGE_SIZE, ?CONTROL_SIZE, [cmsg_cloexec], nowait) of
        {ok, #{iov := [<<>>], ctrl := []}} -> {error, closed};
        {ok, #{iov := Iov, ctrl := Control}} -> recv_result(iolist_to_binary(Iov), fds(Control));
        {select, _} -> select;
        {error, _} = Error -> Error
    end.

recv_result(Header, [Fd]) ->
    {ok, Header, Fd};
recv_result(Header, []) ->
    {no_fd, Header};
recv_result(Header, Fds) ->
    {fds, Header, Fds}.

fds(Control) ->
    [Fd || #{level := socket, type := rights, data := Data} <- Control, <<Fd:32/native>> <= Data].

%% @doc Sends Header and a copy of Fd to the carrier. Waits up to 1 s. The caller still owns Fd.
-spec send(socket:socket(), binary(), fd()) -> ok | {error, term()}.
send(Socket, Header, Fd) ->
    Rights = #{level => socket, type => rights, data => <<Fd:32/native>>},
    case socket:sendmsg(Socket, #{iov => [Header], ctrl => [Rights]}, [], ?SEND_MS) of
        ok -> ok;
        {error, _} = Error -> Error;
        {ok, Rest} -> {error, {unsent, Rest}}
    end.

%% @doc Makes a distribution socket from Fd, owned by the caller. The caller must close Fd after the end of the socket's
%% port, or at once if this fails. An option that cannot be set is logged.
%%
%% nodelay is set because the handshake has small writes without an answer between them (HANDOVER_REQ and the name,
%% HANDOVER_RESP and the status): the second would wait 40 ms for the far end's delayed ACK. When the link is up, the
%% option `dist_nodelay' decides.
-spec adopt(module(), fd(), [term()]) -> {ok, port()} | {error, term()}.
adopt(Driver, Fd, Options) ->
    case Driver:fdopen(Fd, [{active, false}]) of
        {ok, Socket} ->
            lists:foreach(fun(Option) -> set_option(Socket, Option) end, [{nodelay, true} | Options]),
            {ok, Socket};
        {error, _} = Error ->
            Error
    end.

%% Options are set one at a time, so that an option that fails does not prevent the others.
set_option(Socket, Option) ->
    case inet:setopts(Socket, [Option]) of
        ok -> ok;
        {error, Reason} -> handover_event:emit(warning, unsupported_option, #{option => Option, reason => Reason})
    end.

%% @doc Waits until the port Socket has ended and its output queue is flushed. The caller must not close Fd before that.
%%
%% inet_drv never closes an fd that was passed to fdopen, so the caller has to. A monitor's DOWN comes too early: the
%% port may still have data to send, and after a close the fd's number could belong to another socket. There is no event
%% for the real end, so this function polls. If the peer acknowledges no data for 15 s, the connection is shut down; OTP
%% would wait for TCP's own timeout.
-spec await_port_end(port(), fd()) -> ok.
await_port_end(Socket, Fd) ->
    await_port_end(Socket, Fd, 0, undefined, now_ms() + ?STALL_MS).

await_port_end(Socket, Fd, Polls, LastAcked, Deadline) ->
    case erlang:port_info(Socket, name) of
        undefined -> ok;
        _ -> poll_port_end(Socket, Fd, Polls, LastAcked, Deadline)
    end.

%% The first polls have no or short pauses: without output to flush the port ends within microseconds, and the peer
%% waits for the FIN. They are counted; all later ones have the longest pause and check whether the peer acknowledges
%% data.
poll_port_end(Socket, Fd, Polls, LastAcked, Deadline) when Polls < ?SHORT_POLLS ->
    pause(Polls div 4),
    await_port_end(Socket, Fd, Polls + 1, LastAcked, Deadline);
poll_port_end(Socket, Fd, Polls, LastAcked, Deadline) ->
    pause(?MAX_PAUSE_MS),
    Now = now_ms(),
    case bytes_acked(Fd) of
        LastAcked when Now > Deadline -> shutdown(Fd), await_port_end(Socket, Fd, Polls, LastAcked, Now + ?STALL_MS);
        LastAcked -> await_port_end(Socket, Fd, Polls, LastAcked, Deadline);
        More -> await_port_end(Socket, Fd, Polls, More, Now + ?STALL_MS)
    end.

pause(0) -> erlang:yield();
pause(Ms) -> receive after Ms -> ok end.

now_ms() ->
    erlang:monotonic_time(millisecond).

bytes_acked(Fd) ->
    with_dup(Fd, fun(Dup) ->
                         case socket:getopt_native(Dup, ?TCP_INFO, ?TCP_INFO_SIZE) of
                             {ok, <<_:?BYTES_ACKED/binary, Bytes:64/native, _/binary>>} -> Bytes;
                             _ -> unknown
                         end
                 end).

%% @doc Shuts the connection down. The far end sees this at once, even if other processes have copies of the descriptor
%% or all dirty schedulers are busy. Fd stays open.
-spec shutdown(fd()) -> ok.
shutdown(Fd) ->
    _ = with_dup(Fd, fun(Dup) -> socket:shutdown(Dup, read_write) end),
    ok.

%% @doc Like {@link shutdown/1}, but faster, because it starts no process. The caller must exit soon afterwards: until
%% then a duplicate of Fd stays open.
-spec shutdown_before_exit(fd()) -> ok.
shutdown_before_exit(Fd) ->
    _ = with_dup_here(Fd, fun(Dup) -> socket:shutdown(Dup, read_write) end),
    ok.

%% Calls Fun with a duplicate of Fd in a new process. socket:close would wait for a dirty scheduler. When the process
%% ends, the duplicate is closed on an ordinary scheduler.
with_dup(Fd, Fun) ->
    {Caller, Result} = {self(), make_ref()},
    try spawn_opt(fun() -> Caller ! {Result, with_dup_here(Fd, Fun)} end, [monitor, {priority, max}]) of
        {_, Monitor} ->
            receive
                {'DOWN', Monitor, process, _, Reason} ->
                    receive {Result, Value} -> Value after 0 -> {error, Reason} end
            end
    catch
        error:system_limit -> with_dup_here(Fd, Fun)     % the duplicate is closed when the caller ends
    end.

with_dup_here(Fd, Fun) ->
    case socket:open(Fd, #{dup => true, use_registry => false}) of
        {ok, Dup} -> Fun(Dup);
        {error, _} = Error -> Error
    end.

%% @doc Closes Fd. prim_file is the only part of OTP that can close a descriptor it did not open. The close needs a
%% dirty scheduler, so it may block as long as another process blocks all of them (a hung file system). Only
%% handover_closer may call this.
-spec close(fd()) -> ok.
close(Fd) ->
    {ok, File} = prim_file:file_desc_to_ref(Fd, [read]),
    _ = prim_file:close(File),
    ok.
