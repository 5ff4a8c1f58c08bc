defmodule Greeter do
  @moduledoc "Remembers on each node who was greeted."
  use Agent

  def start_link(_), do: Agent.start_link(fn -> [] end, name: __MODULE__)

  @doc "How many were greeted by the greeter of `node`, this one included."
  def greet(node, who) do
    Agent.get_and_update({__MODULE__, node}, __MODULE__, :add, [who])
  end

  @doc false
  def add(greeted, who), do: {length(greeted) + 1, [who | greeted]}
end
