%% @doc From a Unix socket to an fd, from an fd to a distribution socket, and the end of the fd.
%%
%% Who closes: {@link recv/1} gives the fd to its caller, who closes it, or makes it a socket with {@link adopt/3}, waits for the
%% end of the port ({@link await_port_end/2}), ends the connection ({@link shutdown/1}) and closes the fd then. Only
%% handover_closer calls {@link close/1}.
-module(handover_fd).

-export([connect/2, lifeline/1, recv/1, send/3, adopt/3, await_port_end/2, shutdown/1, shutdown_and_end/1, close/1]).

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
-define(LAST_PAUSE_MS, 40).
-define(STALL_MS, 15000).

%% @doc Connects to the carrier's fd socket and makes sure that the process behind it is the one this node started.
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

%% @doc A connection of inet's to the carrier, by which it sees a halt of this node at once: that closes all ports.
-spec lifeline(binary()) -> {ok, port()} | {error, term()}.
lifeline(Name) ->
    gen_tcp:connect({local, <<0, Name/binary>>}, 0, [{active, false}], ?SEND_MS).

%% @doc The next message, if one is there, with its fd. Several fds are none of the carrier's, and the caller's to close. After `select' a message `{'$socket', Socket, select, _}' says when to come back.
-spec recv(socket:socket()) -> {ok, Header :: binary(), fd()} | {no_fd, Header :: binary()}
          | {fds, Header :: binary(), [fd()]} | select | {error, closed | term()}.
recv(Socket) ->
    case socket:recvmsg(Socket, ?MESSAGE_SIZE, ?CONTROL_SIZE, [cmsg_cloexec], nowait) of
        {ok, #{iov := [<<>>], ctrl := []}} -> {error, closed};
        {ok, #{iov := Iov, ctrl := Control}} -> one_fd(iolist_to_binary(Iov), fds(Control));
        {select, _} -> select;
        {error, _} = Error -> Error
    end.

one_fd(Header, [Fd]) ->
    {ok, Header, Fd};
one_fd(Header, []) ->
    {no_fd, Header};                 % this node has too many files open: the kernel dropped it
one_fd(Header, Fds) ->
    {fds, Header, Fds}.

fds(Control) ->
    [Fd || #{level := socket, type := rights, data := Data} <- Control, <<Fd:32/native>> <= Data].

%% @doc Sends Header and a copy of Fd to the carrier.
-spec send(socket:socket(), binary(), fd()) -> ok | {error, term()}.
send(Socket, Header, Fd) ->
    Rights = #{level => socket, type => rights, data => <<Fd:32/native>>},
    case socket:sendmsg(Socket, #{iov => [Header], ctrl => [Rights]}, [], ?SEND_MS) of
        ok -> ok;
        {error, _} = Error -> Error;
        {ok, Rest} -> {error, {unsent, Rest}}
    end.

%% @doc Makes a distribution socket of Fd, owned by the caller. On failure the fd is still the caller's to close.
%%
%% HANDOVER_REQ and the name, HANDOVER_RESP and the status are small writes with no answer between them: without nodelay
%% the second would wait for the far end's delayed ACK, 40 ms. dist_util sets what `dist_nodelay' says when the link is up.
-spec adopt(module(), fd(), [term()]) -> {ok, port()} | {error, term()}.
adopt(Driver, Fd, Options) ->
    case Driver:fdopen(Fd, [{active, false}]) of
        {ok, Socket} ->
            lists:foreach(fun(Option) -> set(Socket, Option) end, [{nodelay, true} | Options]),
            {ok, Socket};
        {error, _} = Error ->
            Error
    end.

%% One at a time, so that one option that a standing connection refuses does not cost the others.
set(Socket, Option) ->
    case inet:setopts(Socket, [Option]) of
        ok -> ok;
        {error, Reason} -> handover_event:emit(warning, unsupported_option, #{option => Option, reason => Reason})
    end.

%% @doc Waits until Socket is really gone, output queue included.
%%
%% inet_drv never closes an fd that it was given, so somebody has to, but not before: a monitor's DOWN comes when the port
%% begins to close, while it may still hold data to send, and the number could be another socket's by then. No event
%% tells the end, so this looks. A peer that takes nothing for 15 s is given up: the connection is shut down under the port,
%% which OTP would leave to TCP's own timeout.
-spec await_port_end(port(), fd()) -> ok.
await_port_end(Socket, Fd) ->
    await_port_end(Socket, Fd, 0, undefined, now_ms() + ?STALL_MS).

await_port_end(Socket, Fd, Pause, Acked, GiveUp) ->
    case erlang:port_info(Socket, name) of
        undefined -> ok;
        _ -> await_port_end_later(Socket, Fd, Pause, Acked, GiveUp)
    end.

%% Without output to flush the port is gone in microseconds, and the peer waits for the FIN.
await_port_end_later(Socket, Fd, Pause, Acked, GiveUp) when Pause < ?LAST_PAUSE_MS ->
    pause(Pause div 4),
    await_port_end(Socket, Fd, Pause + 1, Acked, GiveUp);
await_port_end_later(Socket, Fd, Pause, Acked, GiveUp) ->
    pause(Pause),
    Now = now_ms(),
    case bytes_acked(Fd) of
        Acked when Now > GiveUp -> shutdown(Fd), await_port_end(Socket, Fd, Pause, Acked, Now + ?STALL_MS);
        Acked -> await_port_end(Socket, Fd, Pause, Acked, GiveUp);
        More -> await_port_end(Socket, Fd, Pause, More, Now + ?STALL_MS)
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

%% @doc Ends the connection: the far end sees it at once, whoever else has copies of the descriptor and whatever the dirty
%% schedulers are busy with. The number stays open.
-spec shutdown(fd()) -> ok.
shutdown(Fd) ->
    _ = with_dup(Fd, fun(Dup) -> socket:shutdown(Dup, read_write) end),
    ok.

%% @doc As {@link shutdown/1}, for a process that ends then. It is faster: until the end a duplicate of Fd stays open.
-spec shutdown_and_end(fd()) -> ok.
shutdown_and_end(Fd) ->
    _ = with_own_dup(Fd, fun(Dup) -> socket:shutdown(Dup, read_write) end),
    ok.

%% socket:close waits for a dirty scheduler. A socket whose owner ends is closed without one, so a process of its own owns it.
with_dup(Fd, Fun) ->
    {Caller, Result} = {self(), make_ref()},
    try spawn_opt(fun() -> Caller ! {Result, with_own_dup(Fd, Fun)} end, [monitor, {priority, max}]) of
        {_, Monitor} ->
            receive
                {'DOWN', Monitor, process, _, Reason} ->
                    receive {Result, Value} -> Value after 0 -> {error, Reason} end
            end
    catch
        error:system_limit -> with_own_dup(Fd, Fun)     % closed when the caller ends
    end.

with_own_dup(Fd, Fun) ->
    case socket:open(Fd, #{dup => true, use_registry => false}) of
        {ok, Dup} -> Fun(Dup);
        {error, _} = Error -> Error
    end.

%% @doc Closes a number. The file driver is the one part of OTP that closes a number it is given. That is a job for a dirty
%% scheduler, which may take as long as a hung file system, so handover_closer alone calls this.
-spec close(fd()) -> ok.
close(Fd) ->
    {ok, File} = prim_file:file_desc_to_ref(Fd, [read]),
    _ = prim_file:close(File),
    ok.
