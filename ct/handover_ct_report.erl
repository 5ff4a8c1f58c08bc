%% An event handler of Common Test that writes one line for each result to the file that HANDOVER_CT_REPORT names:
%%
%%   ok Suite:Case
%%   skip Suite:Case Reason
%%   FAIL Suite:Case Reason
%%   done
%%
%% A case in a group is Suite:Group.Case. `done' is the last line: without it the run was aborted. The handler is a
%% no-op if the variable is not set. rebar.config's ct_opts name this module, and ct/run.sh reads the file.
-module(handover_ct_report).
-behaviour(gen_event).

-include_lib("common_test/include/ct_event.hrl").

-export([init/1, handle_event/2, handle_call/2, handle_info/2, terminate/2]).

-record(state, {file :: none | file:io_device(),
                groups = [] :: [atom()]}). % those that are running, the innermost first

init(_Args) ->
    case os:getenv("HANDOVER_CT_REPORT") of
        false -> {ok, #state{file = none}};
        Path ->
            {ok, File} = file:open(Path, [append, {encoding, utf8}]),
            {ok, #state{file = File}}
    end.

handle_event(_Event, #state{file = none} = State) ->
    {ok, State};
handle_event(#event{name = tc_done, data = {Suite, Case, Result}}, State) ->
    tc_done(State, Suite, Case, Result),
    {ok, State#state{groups = groups(Case, Result, State#state.groups)}};
handle_event(#event{name = Name, data = {Suite, Case, Reason}}, State)
  when Name =:= tc_auto_skip; Name =:= tc_user_skip ->
    is_config(Case) orelse write_line(State, "skip", Suite, Case, Reason),
    {ok, State};
handle_event(#event{name = test_done}, State) ->
    ok = io:format(State#state.file, "done~n", []),
    {ok, State};
handle_event(_Event, State) ->
    {ok, State}.

handle_call(_Request, State) ->
    {ok, ok, State}.

handle_info(_Message, State) ->
    {ok, State}.

terminate(_Reason, #state{file = none}) ->
    ok;
terminate(_Reason, #state{file = File}) ->
    file:close(File).

groups({init_per_group, Group, _Properties}, ok, Groups) -> [Group | Groups];
groups({end_per_group, _Group, _Properties}, _Result, [_ | Groups]) -> Groups;
groups(_Case, _Result, Groups) -> Groups.

%% A configuration function is reported only if it fails.
tc_done(State, Suite, Case, ok) ->
    is_config(Case) orelse write_line(State, "ok", Suite, Case, "");
tc_done(State, Suite, Case, {skipped, Reason}) ->
    is_config(Case) orelse write_line(State, "skip", Suite, Case, Reason);
tc_done(_State, _Suite, _Case, {auto_skipped, _Reason}) ->
    ok; % the event tc_auto_skip has reported it
tc_done(State, Suite, Case, {failed, Reason}) ->
    write_line(State, "FAIL", Suite, Case, Reason).

is_config(Case) ->
    lists:member(function(Case), [init_per_suite, end_per_suite, init_per_group, end_per_group]).

%% A skipped case comes with its group. A group's configuration functions come with its properties too.
function({Function, _Group, _Properties}) -> Function;
function({Function, _Group}) -> Function;
function(Function) -> Function.

path({Case, Group}, [Group | _] = Groups) -> path(Case, Groups);
path({Case, Group}, Groups) -> path(Case, [Group | Groups]);
path(Case, Groups) -> lists:join(".", [atom_to_list(Name) || Name <- lists:reverse(Groups, [function(Case)])]).

write_line(#state{file = File, groups = Groups}, Verdict, Suite, Case, Reason) ->
    Text = io_lib:format("~s ~ts:~ts ~ts", [Verdict, Suite, path(Case, Groups), text(Reason)]),
    OneLine = re:replace(Text, "\\s+", " ", [global, unicode, {return, list}]),
    ok = io:format(File, "~ts~n", [string:trim(OneLine)]).

text(Reason) ->
    case io_lib:printable_unicode_list(Reason) of
        true -> Reason;
        false -> string:slice(io_lib:format("~0tp", [Reason]), 0, 400)
    end.
