%% @doc Configuration that can be read at the moment the distribution starts, before applications and files are there.
%%
%% A key is looked for in the environment variable `HANDOVER_<KEY>' first, then in the application environment: vm.args
%% or the command line (`-handover listen false'), sys.config, `-config'. docs/CONFIGURATION.md lists the keys.
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

-spec keys() -> [{key(), Default :: term(), type()}].
keys() -> [{Key, Default, Type} || {Key, _, Default, Type} <- ?KEYS].

%% @doc Reads every key. The error is for people: net_kernel prints it when the node can't start.
-spec check() -> ok | {error, {handover_config, Text :: string()}}.
check() ->
    load(),
    Unknown = [Key || {Key, _} <- application:get_all_env(handover),
                      not lists:keymember(Key, 1, ?KEYS), Key =/= included_applications],
    Bad = [{Key, Value, Type} || {Key, Variable, Default, Type} <- ?KEYS,
                                 {bad, Value} <- [lookup(Key, Variable, Default, Type)]],
    complaint(Unknown, Bad).

%% @doc The value of Key, or its default if the configured one is not valid, which {@link check/0} has reported by then.
-spec get(key()) -> boolean() | string() | atom() | [handover_dial_map:entry()].
get(start_epmd) -> configured(start_epmd) andalso init:get_argument(no_epmd) =:= error;
get(Key) -> configured(Key).

configured(Key) ->
    load(),
    {Key, Variable, Default, Type} = lists:keyfind(Key, 1, ?KEYS),
    case lookup(Key, Variable, Default, Type) of
        {ok, Value} -> Value;
        {bad, _} -> Default
    end.

%% @doc The port that every EPMD of this cluster listens on: OTP puts ERL_EPMD_PORT into this argument.
-spec epmd_port() -> inet:port_number().
epmd_port() ->
    case init:get_argument(epmd_port) of
        {ok, [[Port | _] | _]} -> list_to_integer(Port);
        error -> 4369
    end.

%% @doc The absolute path of one of the Go programs: priv/ of the application, wherever its ebin was found.
-spec program(string()) -> string().
program(Name) ->
    Priv = case code:priv_dir(handover) of
               {error, bad_name} -> filename:join([filename:dirname(code:which(?MODULE)), "..", "priv"]);
               Dir -> Dir
           end,
    filename:join(absolute(Priv), Name).

%% internal

%% Once, as the working directory may be gone when the program is started again. `file' can't be asked this early.
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

%% To load it again would be harmless, and a question to another process for each key.
load() ->
    application:get_key(handover, vsn) =:= undefined andalso application:load(handover),
    ok.

complaint([], []) ->
    ok;
complaint([Key | _], _) ->
    Text = io_lib:format("unknown key ~tp; known are ~ts", [Key, names([K || {K, _, _, _} <- ?KEYS])]),
    {error, {handover_config, lists:flatten(Text)}};
complaint([], [{Key, Value, Type} | _]) ->
    Text = io_lib:format("~ts is ~tp; it must be ~ts", [Key, Value, expected(Type)]),
    {error, {handover_config, lists:flatten(Text)}}.

names(Atoms) ->
    lists:join(", ", [atom_to_list(A) || A <- Atoms]).

expected(boolean) -> "true or false";
expected(level) -> names(?LEVELS);
expected(module) -> "the name of a module";
expected(dial_map) -> handover_dial_map:expected().

lookup(Key, Variable, Default, Type) ->
    case os:getenv(Variable) of
        false ->
            case application:get_env(handover, Key) of
                undefined -> {ok, Default};
                {ok, Value} -> value(Type, Value)
            end;
        Text ->
            value(Type, Text)
    end.

%% Values come as terms (sys.config) or as text (environment), where `true' is "true".
value(boolean, Value) when is_boolean(Value) -> {ok, Value};
value(boolean, "true") -> {ok, true};
value(boolean, "false") -> {ok, false};
value(dial_map, Value) -> handover_dial_map:parse(Value);
value(module, Module) when is_atom(Module) -> {ok, Module};
value(module, [_ | _] = Text) -> {ok, list_to_atom(Text)};
value(level, Value) ->
    case [Level || Level <- ?LEVELS, Level =:= Value orelse atom_to_list(Level) =:= Value] of
        [Level] -> {ok, Level};
        [] -> {bad, Value}
    end;
value(_, Value) -> {bad, Value}.
