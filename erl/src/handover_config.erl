%% @doc Reads and checks the configuration. Works while the distribution starts, before applications and the file server
%% run.
%%
%% The environment variable `HANDOVER_<KEY>' comes first, then the application environment: vm.args or the command line
%% (`-handover listen false'), sys.config, `-config'. docs/CONFIGURATION.md lists the keys.
-module(handover_config).

-export([check/0, get/1, keys/0, epmd_port/0, program/1]).

-export_type([key/0, type/0]).

-type key() :: listen | fallback | start_epmd | log_level | dial_map | dial_module | dial_srv | telemetry.
-type type() :: boolean | level | dial_map | module.

%% Key, environment variable, default, type.
-define(KEYS, [{listen, "HANDOVER_LISTEN", true, boolean},
               {fallback, "HANDOVER_FALLBACK", true, boolean},
               {start_epmd, "HANDOVER_START_EPMD", true, boolean},
               {log_level, "HANDOVER_LOG_LEVEL", info, level},
               {dial_map, "HANDOVER_DIAL_MAP", [], dial_map},
               {dial_module, "HANDOVER_DIAL_MODULE", none, module},
               {dial_srv, "HANDOVER_DIAL_SRV", false, boolean},
               {telemetry, "HANDOVER_TELEMETRY", none, module}]).

-define(LEVELS, [debug, info, warning, error]).

%% @doc Lists the keys.
-spec keys() -> [{key(), Default :: term(), type()}].
keys() -> [{Key, Default, Type} || {Key, _, Default, Type} <- ?KEYS].

%% @doc Checks all keys. The error is text for people: net_kernel prints it, and the node does not start.
-spec check() -> ok | {error, {handover_config, Text :: string()}}.
check() ->
    ensure_loaded(),
    Unknown = [Key || {Key, _} <- application:get_all_env(handover),
                      not lists:keymember(Key, 1, ?KEYS), Key =/= included_applications],
    Bad = [{Key, Value, Type} || {Key, Variable, Default, Type} <- ?KEYS,
                                 {bad, Value} <- [read_key(Key, Variable, Default, Type)]],
    first_error(Unknown, Bad).

%% @doc Returns the value of Key. If the configured value is invalid, which {@link check/0} reports, returns the
%% default. `start_epmd' is always false with -no_epmd.
-spec get(key()) -> boolean() | string() | atom() | [handover_dial_map:entry()].
get(start_epmd) -> value_or_default(start_epmd) andalso init:get_argument(no_epmd) =:= error;
get(Key) -> value_or_default(Key).

value_or_default(Key) ->
    ensure_loaded(),
    {Key, Variable, Default, Type} = lists:keyfind(Key, 1, ?KEYS),
    case read_key(Key, Variable, Default, Type) of
        {ok, Value} -> Value;
        {bad, _} -> Default
    end.

%% @doc Returns the port on which each EPMD of this cluster listens. OTP passes ERL_EPMD_PORT in the argument epmd_port.
-spec epmd_port() -> inet:port_number().
epmd_port() ->
    case init:get_argument(epmd_port) of
        {ok, [[Port | _] | _]} -> list_to_integer(Port);
        error -> 4369
    end.

%% @doc Returns the absolute path of one of the Go programs, in the application's priv directory. The file may be
%% missing.
-spec program(string()) -> string().
program(Name) ->
    Priv = case code:priv_dir(handover) of
               {error, bad_name} -> filename:join([filename:dirname(code:which(?MODULE)), "..", "priv"]);
               Dir -> Dir
           end,
    filename:join(absolute(Priv), Name).

%% internal

%% The result is stored, because the working directory may have been removed when the program is restarted. prim_file,
%% because the file server may not run yet.
absolute("/" ++ _ = Path) ->
    Path;
absolute(Path) ->
    case persistent_term:get({?MODULE, Path}, none) of
        none ->
            {ok, Cwd} = prim_file:get_cwd(),
            Absolute = filename:join(Cwd, Path),
            persistent_term:put({?MODULE, Path}, Absolute),
            Absolute;
        Absolute ->
            Absolute
    end.

%% The check avoids a call to the application controller for each key.
ensure_loaded() ->
    application:get_key(handover, vsn) =:= undefined andalso application:load(handover),
    ok.

first_error([], []) ->
    ok;
first_error([Key | _], _) ->
    Text = io_lib:format("unknown key ~tp; known are ~ts", [Key, join_names([K || {K, _, _, _} <- ?KEYS])]),
    {error, {handover_config, lists:flatten(Text)}};
first_error([], [{Key, Value, Type} | _]) ->
    Text = io_lib:format("~ts is ~tp; it must be ~ts", [Key, Value, expected(Type)]),
    {error, {handover_config, lists:flatten(Text)}}.

join_names(Atoms) ->
    lists:join(", ", [atom_to_list(A) || A <- Atoms]).

expected(boolean) -> "true or false";
expected(level) -> join_names(?LEVELS);
expected(module) -> "the name of a module";
expected(dial_map) -> handover_dial_map:expected().

read_key(Key, Variable, Default, Type) ->
    case os:getenv(Variable) of
        false ->
            case application:get_env(handover, Key) of
                undefined -> {ok, Default};
                {ok, Value} -> convert(Type, Value)
            end;
        Text ->
            convert(Type, Text)
    end.

%% A value is a term (sys.config) or a text (environment variable).
convert(boolean, Value) when is_boolean(Value) -> {ok, Value};
convert(boolean, "true") -> {ok, true};
convert(boolean, "false") -> {ok, false};
convert(dial_map, Value) -> handover_dial_map:parse(Value);
convert(module, Module) when is_atom(Module) -> {ok, Module};
convert(module, [_ | _] = Text) -> {ok, list_to_atom(Text)};
convert(level, Value) ->
    case [Level || Level <- ?LEVELS, Level =:= Value orelse atom_to_list(Level) =:= Value] of
        [Level] -> {ok, Level};
        [] -> {bad, Value}
    end;
convert(_, Value) -> {bad, Value}.
