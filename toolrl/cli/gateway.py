"""`toolrl gateway`: a model behind an address, for an agent that is tried by hand."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolrl.cli.common import App, Host, Overwrite, Port, catch_signals
from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.gateway import Conversations

app = App()

_KEEPING_SECONDS = 1.0


@app.command()
def gateway(
    model: Annotated[str, typer.Option(help="'tiny', 'smollm2', a folder (a run's model/), a hub id.")] = "tiny",
    host: Host = "127.0.0.1",
    port: Port = 0,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Sampled tokens per turn.")] = 512,
    out: Annotated[
        Path | None, typer.Option(help="Keep the conversations in this JSONL file, for `toolrl view`.")
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
    from toolrl.types import SamplingParams

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
                kept, pause = 0, _KEEPING_SECONDS
                while not wait(pause):
                    if file is not None and kept != (kept := len(client.conversations.nodes)):
                        start = time.monotonic()
                        _keep(client.conversations, file, model)
                        pause = max(_KEEPING_SECONDS, 20 * (time.monotonic() - start))
        if file is not None:
            _keep(client.conversations, file, model)
    finally:
        policy.close()
    nodes = client.conversations.nodes
    tokens = sum(len(node.sample.token_ids) for node in nodes)
    found = len(client.conversations.branches())
    typer.echo(f"{len(nodes)} turns in {found} conversations, {tokens} tokens sampled", err=True)


def _keep(conversations: Conversations, file: Path, model: str) -> None:
    """Write the conversations as they are now; the file is whole at any time.

    Raises:
        ConfigError: It cannot be written.
    """
    from toolrl.support.outputs import writing
    from toolrl.trajectory import Trajectory, TrajectoryWriter
    from toolrl.types import Score, StopReason

    partial = file.with_name(f".{file.name}.{os.getpid()}")
    score, about = Score(None, reason="nobody graded it"), {"mode": "gateway", "model": model}
    try:
        with writing(file), TrajectoryWriter(partial) as writer:
            for number, branch in enumerate(conversations.branches()):
                writer.write(
                    Trajectory(
                        f"gateway/{number}", "gateway", f"conversation {number}", branch.prompt, branch.prompt_ids,
                        tuple(branch.turns), score, StopReason.ANSWER, info=about,
                    )
                )  # fmt: skip
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
