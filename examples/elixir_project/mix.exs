defmodule Greeter.MixProject do
  use Mix.Project

  def project do
    [app: :greeter, version: "0.1.0", elixir: "~> 1.14", start_permanent: Mix.env() == :prod, deps: deps()]
  end

  def application do
    [mod: {Greeter.Application, []}, extra_applications: [:logger]]
  end

  # Put the address of your copy of handover here.
  defp deps do
    [{:handover, git: "https://example.org/handover.git", branch: "main"}]
  end
end
