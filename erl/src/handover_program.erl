%% @doc Starts an external program as a port. Its working directory is /, so that it does not prevent an unmount of
%% another directory.
-module(handover_program).

-export([open/2]).

%% @doc Like open_port({spawn_executable, Path}, Options), but also works if this node's working directory was removed.
%% OTP cannot start programs in a removed directory, so this function changes the node's working directory to / and
%% emits the event directory_gone. No relative path works in a removed directory, so nothing is lost. Raises the errors
%% of open_port.
-spec open(file:name_all(), [term()]) -> port().
open(Path, Options) ->
    try spawn_port(Path, Options)
    catch
        error:enoent -> open_from_root(prim_file:get_cwd(), Path, Options)
    end.

open_from_root({error, enoent}, Path, Options) ->
    ok = prim_file:set_cwd("/"),
    handover_event:emit(warning, directory_gone, #{}),
    spawn_port(Path, Options);
open_from_root(_, _, _) ->
    error(enoent).                       % the program is missing

spawn_port(Path, Options) ->
    open_port({spawn_executable, Path}, [{cd, "/"} | Options]).
