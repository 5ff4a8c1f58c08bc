%% @doc Starts a program, in the directory /, so that it keeps no other one busy.
-module(handover_program).

-export([open/2]).

%% @doc As open_port({spawn_executable, Path}, Options), also where this node's working directory has been removed. OTP starts no
%% program there. No relative path leads anywhere from such a directory, so the node leaves it for /.
-spec open(file:name_all(), [term()]) -> port().
open(Path, Options) ->
    try spawn_port(Path, Options)
    catch
        error:enoent -> open_elsewhere(prim_file:get_cwd(), Path, Options)
    end.

open_elsewhere({error, enoent}, Path, Options) ->
    ok = prim_file:set_cwd("/"),
    handover_event:emit(warning, directory_gone, #{}),
    spawn_port(Path, Options);
open_elsewhere(_, _, _) ->
    error(enoent).                       % it is the program that is missing

spawn_port(Path, Options) ->
    open_port({spawn_executable, Path}, [{cd, "/"} | Options]).
