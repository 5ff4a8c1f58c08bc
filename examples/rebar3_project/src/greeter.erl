%% A server on each node that remembers who was greeted.
-module(greeter).

-behaviour(gen_server).

-export([start_link/0, greet/2]).
-export([init/1, handle_call/3, handle_cast/2]).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Greets Who on Node, and returns how many were greeted there so far.
-spec greet(node(), term()) -> pos_integer().
greet(Node, Who) ->
    gen_server:call({?MODULE, Node}, {greet, Who}).

init([]) ->
    {ok, []}.

handle_call({greet, Who}, _From, Greeted) ->
    {reply, length(Greeted) + 1, [Who | Greeted]}.

handle_cast(_, Greeted) ->
    {noreply, Greeted}.
