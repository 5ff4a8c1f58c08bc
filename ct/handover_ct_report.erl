%% Common Test's event handler that writes what happened to the file named by HANDOVER_CT_REPORT, a line each:
%%   ok Suite:Case    skip Suite:Case Reason    FAIL Suite:Case Reason    done
%% `done` is the last: a report without it is from a run that broke off. Does nothing where the variable is not set.
%% rebar.config's ct_opts name it; ct/run.sh reads the file.
-module(handover_ct_report).
-behaviour(gen_event).

-include_lib("common_test/include/ct_event.hrl").

-export([init/1, handle_event/2, handle_call/2, handle_info/2, terminate/2]).

init(_Args) ->
    case os:getenv("HANDOVER_CT_REPORT") of
        false -> {ok, none};
        Path -> file:open(Path, [append, {encoding, utf8}])
    end.

handle_event(_Event, none) ->
    {ok, none};
handle_event(#event{name = tc_done, data = {Suite, Case, Result}}, File) ->
    tc_done(File, Suite, Case, Result),
    {ok, File};
handle_event(#event{name = Name, data = {Suite, Case, Reason}}, File)
  when Name =:= tc_auto_skip; Name =:= tc_user_skip ->
    is_config(Case) orelse line(File, "skip", Suite, Case, Reason),
    {ok, File};
handle_event(#event{name = test_done}, File) ->
    ok = io:format(File, "done~n", []),
    {ok, File};
handle_event(_Event, File) ->
    {ok, File}.

handle_call(_Request, File) ->
    {ok, ok, File}.

handle_info(_Message, File) ->
    {ok, File}.

terminate(_Reason, none) ->
    ok;
terminate(_Reason, File) ->
    file:close(File).

%% A configuration function counts when it fails, and only then.
tc_done(File, Suite, Case, ok) ->
    is_config(Case) orelse line(File, "ok", Suite, Case, "");
tc_done(File, Suite, Case, {skipped, Reason}) ->
    is_config(Case) orelse line(File, "skip", Suite, Case, Reason);
tc_done(_File, _Suite, _Case, {auto_skipped, _Reason}) ->
    ok; % tc_auto_skip tells the same
tc_done(File, Suite, Case, {failed, Reason}) ->
    line(File, "FAIL", Suite, Case, Reason).

is_config({Function, _Group, _Properties}) -> is_config(Function);
is_config({Function, _Group}) -> is_config(Function);
is_config(Function) ->
    lists:member(Function, [init_per_suite, end_per_suite, init_per_group, end_per_group]).

line(File, Verdict, Suite, Case, Reason) ->
    Text = io_lib:format("~s ~ts:~ts ~ts", [Verdict, Suite, name(Case), text(Reason)]),
    OneLine = re:replace(Text, "\\s+", " ", [global, unicode, {return, list}]),
    ok = io:format(File, "~ts~n", [string:trim(OneLine)]).

name({Case, Group, _Properties}) -> io_lib:format("~ts(~ts)", [Case, Group]);
name({Case, Group}) -> io_lib:format("~ts(~ts)", [Case, Group]);
name(Case) -> atom_to_list(Case).

text(Reason) ->
    case io_lib:printable_unicode_list(Reason) of
        true -> Reason;
        false -> string:slice(io_lib:format("~0tp", [Reason]), 0, 400)
    end.
