%% handover_config: keys, defaults, values, and the page that documents them.
-module(handover_config_SUITE).

-include_lib("common_test/include/ct.hrl").
-include_lib("stdlib/include/assert.hrl").

-compile([export_all, nowarn_export_all]).

all() -> [defaults, environment_takes_precedence, values, unknown_key, bad_values, documented, examples].

init_per_testcase(_, Config) ->
    ok = reset(),
    Config.

end_per_testcase(_, _) -> reset().

%% Removes all settings. lisen is the unknown key that unknown_key sets.
reset() ->
    _ = application:load(handover),
    [begin application:unset_env(handover, Key), os:unsetenv(variable(Key)) end
     || Key <- [lisen | [K || {K, _, _} <- handover_config:keys()]]],
    ok.

variable(Key) -> "HANDOVER_" ++ string:uppercase(atom_to_list(Key)).

defaults(_) ->
    ?assertEqual(ok, handover_config:check()),
    [?assertEqual(Default, handover_config:get(Key)) || {Key, Default, _} <- handover_config:keys()].

environment_takes_precedence(_) ->
    application:set_env(handover, listen, true),
    os:putenv("HANDOVER_LISTEN", "false"),
    ?assertEqual(false, handover_config:get(listen)).

values(_) ->
    [begin
         application:set_env(handover, Key, Given),
         ?assertEqual({Key, ok, Value}, {Key, handover_config:check(), handover_config:get(Key)})
     end || {Key, Given, Value} <- [{listen, false, false}, {fallback, "false", false}, {log_level, debug, debug},
                                    {log_level, "error", error}]].

unknown_key(_) ->
    application:set_env(handover, lisen, true),
    {error, {handover_config, Text}} = handover_config:check(),
    ?assertMatch({match, _}, re:run(Text, "unknown key lisen; known are listen")).

bad_values(_) ->
    [begin
         application:set_env(handover, Key, Value),
         {error, {handover_config, Text}} = handover_config:check(),
         ?assertMatch({_, {match, _}}, {Key, re:run(Text, [atom_to_list(Key), " is .* it must be "])}),
         application:unset_env(handover, Key)
     end || {Key, Value} <- [{listen, 'maybe'}, {listen, "yes"}, {fallback, 1}, {log_level, loud}, {start_epmd, "no"}]].

%% docs/CONFIGURATION.md lists each key with its default.
documented(_) ->
    {ok, Page} = file:read_file(filename:join([handover_ct:root(), "docs", "CONFIGURATION.md"])),
    Row = fun(Key, Default) -> ["\\| `", atom_to_list(Key), "` \\| `\\Q", Default, "\\E` \\|"] end,
    [?assertMatch({Key, {match, _}}, {Key, re:run(Page, Row(Key, text(Default, Type)), [unicode])})
     || {Key, Default, Type} <- handover_config:keys()].

%% The page shows three ways to write each key. All three are accepted, give the same value, and differ from the
%% default.
examples(_) ->
    {ok, Page} = file:read_file(filename:join([handover_ct:root(), "docs", "CONFIGURATION.md"])),
    {match, Rows} = re:run(Page, "^\\| `(\\w+)` \\| `-handover (\\w+) (.*)` \\| `({.*})` \\| `(HANDOVER_\\w+)=(.*)` \\|$",
                           [multiline, global, {capture, all_but_first, list}]),
    ?assertEqual([atom_to_list(K) || {K, _, _} <- handover_config:keys()], [hd(Row) || Row <- Rows]),
    [begin
         Key = list_to_existing_atom(Name),
         ?assertEqual({Name, variable(Key)}, {Flag, Variable}),
         Values = [with_env(Key, term(string:trim(Value, both, "'"))),
                   with_env(Key, element(2, term(Config))),
                   with_variable(Variable, Key, Text)],
         ?assertMatch({Name, [{ok, _}]}, {Name, lists:usort(Values)}),
         ?assertNotEqual({Name, {ok, Default}}, {Name, hd(Values)})
     end || [Name, Flag, Value, Config, Variable, Text] <- Rows,
            {K, Default, _} <- handover_config:keys(), atom_to_list(K) =:= Name].

term(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text ++ "."),
    {ok, Term} = erl_parse:parse_term(Tokens),
    Term.

with_env(Key, Value) ->
    application:set_env(handover, Key, Value),
    Checked = {handover_config:check(), handover_config:get(Key)},
    application:unset_env(handover, Key),
    Checked.

with_variable(Variable, Key, Text) ->
    os:putenv(Variable, Text),
    Checked = {handover_config:check(), handover_config:get(Key)},
    os:unsetenv(Variable),
    Checked.

text("", path) -> "\"\"";
text(Default, _) -> io_lib:format("~p", [Default]).
