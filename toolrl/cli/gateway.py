"""`toolrl gateway`: a model behind an address, for an agent that is tried by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.common import App, Host, Overwrite, Port, catch_signals
from toolrl.errors import ConfigError

app = App()


@app.command()
def gateway(
    model: Annotated[str, typer.Option(help="'tiny', 'smollm2', a folder (a run's model/), a hub id.")] = "tiny",
    host: Host = "127.0.0.1",
    port: Port = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Sampled tokens per turn.")] = 512,
    out: Annotated[
        Path | None, typer.Option(help="Write the conversations to this JSONL file at the end, for `toolrl view`.")
    ] = None,
    overwrite: Overwrite = False,
    dialect: Annotated[str, typer.Option(help="How the model calls tools; default: as its chat template does.")] = "",
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' ...; default: a GPU if there is one.")] = "",
    sampler: Annotated[
        str,
        typer.Option(help="What generates: 'transformers', 'vllm', or addresses of vLLM servers, separated by commas."),
    ] = "transformers",
) -> None:
    """Serve a model to an agent's SDK (OpenAI's or Anthropic's), keep every token, and show what it did."""
    from toolrl.chat import Renderer
    from toolrl.gateway import Gateway, GatewayLimits
    from toolrl.gateway.server import GatewayServer
    from toolrl.policy import ChatPolicy, PolicySettings, open_policy
    from toolrl.policy.models import load_tokenizer
    from toolrl.support.outputs import new_file
    from toolrl.trajectory import Trajectory, TrajectoryWriter
    from toolrl.types import SamplingParams, Score, StopReason

    settings = PolicySettings(model=model, sampler=sampler, device=device)
    if settings.is_chat:
        raise ConfigError(
            f"--model {model}: a model behind an API has no tokens to keep; name one that is sampled here"
        )
    file = new_file(out, overwrite=overwrite) if out else None
    wait = catch_signals()
    renderer = Renderer(load_tokenizer(model), dialect=dialect or None)
    policy = open_policy(settings, renderer)
    assert not isinstance(policy, ChatPolicy)
    try:
        with policy.generating():
            served = Gateway(policy, renderer, model=model)
            client = served.open(SamplingParams(temperature, max_turn_tokens), GatewayLimits(calls=1_000_000))
            with GatewayServer(served, host=host, port=port) as server:
                typer.echo(
                    f"export OPENAI_BASE_URL={server.url}/v1 OPENAI_API_KEY={client.key}\n"
                    f"export ANTHROPIC_BASE_URL={server.url} ANTHROPIC_API_KEY={client.key}"
                )
                wait()
    finally:
        policy.close()
    branches = client.conversations.branches()
    calls, tokens = len(client.conversations.nodes), sum(len(n.sample.token_ids) for n in client.conversations.nodes)
    typer.echo(f"{calls} turns in {len(branches)} conversations, {tokens} tokens sampled", err=True)
    if file is not None:
        with TrajectoryWriter(file) as writer:
            for number, branch in enumerate(branches):
                score = Score(None, reason="nobody graded it")
                about = {"mode": "gateway", "model": model}
                writer.write(
                    Trajectory(
                        f"gateway/{number}", "gateway", f"conversation {number}", branch.prompt, branch.prompt_ids,
                        tuple(branch.turns), score, StopReason.ANSWER, info=about,
                    )
                )  # fmt: skip
