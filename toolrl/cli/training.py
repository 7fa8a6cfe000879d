"""`toolrl train` and `eval`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from toolrl.errors import ConfigError

app = typer.Typer()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train a policy with TRL's GRPOTrainer. Takes TRL's own flags and toolrl's; see `toolrl train --help`.",
)
def train(context: typer.Context) -> None:
    """Train a policy."""
    from toolrl.training.run import parse_arguments, train as run_training

    run_training(*parse_arguments(context.args))


@app.command(name="eval")
def evaluate_command(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    model: Annotated[str, typer.Option(help="'tiny', a folder (a run's model/), or a hub id.")] = "tiny",
    policy: Annotated[str, typer.Option(help="'model', or 'oracle' to replay each task's solution.")] = "model",
    n: Annotated[int, typer.Option("--n", min=1, help="Tasks per environment.")] = 100,
    k: Annotated[int, typer.Option("--k", min=1, help="Episodes per task; pass@1 ... pass@k are reported.")] = 1,
    split: Annotated[str, typer.Option(help="'train' or 'test'.")] = "test",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Sampled tokens per turn.")] = 512,
    dialect: Annotated[
        str, typer.Option(help="How the model calls tools: 'hermes', 'tags' ...; default: as its chat template does.")
    ] = "",
    env_settings: Annotated[str, typer.Option(help='JSON: {"ID": {"setting": value}}.')] = "{}",
    out: Annotated[Path | None, typer.Option(help="Append the trajectories to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' ...; default: a GPU if there is one.")] = "",
) -> None:
    """Play tasks and report success with intervals, pass@k and tool use."""
    from toolrl.chat import Renderer
    from toolrl.env import make
    from toolrl.evaluation import evaluate, report_table, terminal
    from toolrl.models import load_for_generation, load_tokenizer
    from toolrl.policy import TransformersPolicy
    from toolrl.training.arguments import parse_env_settings
    from toolrl.trajectory import TrajectoryWriter
    from toolrl.types import Sampling

    if policy not in ("model", "oracle"):
        raise ConfigError(f"--policy must be 'model' or 'oracle', got {policy!r}")
    settings = parse_env_settings(env_settings)
    made = {env_id: make(env_id, **{"split": split, **settings.get(env_id, {})}) for env_id in environments}
    renderer = Renderer(load_tokenizer(model), dialect=dialect or None)
    player = None
    if policy == "model":
        weights = load_for_generation(model, device)
        player = TransformersPolicy(weights, stop_token_ids=renderer.stop_token_ids)
    writer = TrajectoryWriter(out) if out else None
    try:
        reports = evaluate(
            made,
            player,
            renderer,
            tasks=n,
            samples=k,
            sampling=Sampling(temperature, max_turn_tokens),
            on_trajectory=writer.write if writer else None,
            info={"mode": "eval", "model": model if policy == "model" else "oracle"},
        )
    finally:
        if player is not None:
            player.close()
        if writer is not None:
            writer.close()
        for env in made.values():
            env.close()
    if as_json:
        typer.echo(json.dumps({env_id: dataclasses.asdict(report) for env_id, report in reports.items()}, indent=1))
    else:
        terminal().print(report_table(reports))
