defmodule Greeter do
  @moduledoc "Remembers on each node who was greeted."
  use Agent

  def start_link(_), do: Agent.start_link(fn -> [] end, name: __MODULE__)

  @doc "Greets `who` on `node`, and returns how many were greeted there so far."
  def greet(node, who) do
    Agent.get_and_update({__MODULE__, node}, __MODULE__, :add, [who])
  end

  @doc false
  def add(greeted, who), do: {length(greeted) + 1, [who | greeted]}
end
