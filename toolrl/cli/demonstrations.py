"""`toolrl demos` and `sft`: from episodes that went well to a policy that has learnt from them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from toolrl.errors import ConfigError

app = typer.Typer()


@app.command()
def demos(
    out: Annotated[Path, typer.Option(help="The data set to write, a new .jsonl file.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN|FILE]...", help="Run folders, and files of trajectories (toolrl eval --out)."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="Also play this environment's tasks; may be repeated.")] = None,
    policy: Annotated[
        str, typer.Option(help="Who plays --env: 'oracle', each task's own solution. For models: toolrl eval --out.")
    ] = "oracle",
    n: Annotated[int, typer.Option("--n", min=1, help="Tasks of each --env.")] = 1000,
    env_settings: Annotated[str, typer.Option(help='JSON: {"ID": {"setting": value}}.')] = "{}",
    per_task: Annotated[int, typer.Option(min=1, help="At most so many demonstrations of a task, all different.")] = 1,
    min_reward: Annotated[float | None, typer.Option(help="Of each demonstration; default: any success.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists.")] = False,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Learn from held-out tasks too: they then test nothing any more.")
    ] = False,
) -> None:
    """Choose successful episodes, and write them as a data set for supervised fine-tuning (toolrl sft, or TRL)."""
    from toolrl.env import ToolEnv, make
    from toolrl.evaluation import evaluate, progress
    from toolrl.support.outputs import refuse_existing, writing
    from toolrl.training.arguments import parse_env_settings
    from toolrl.training.demonstrations import HELD_OUT, select, write_demonstrations
    from toolrl.trajectory import Trajectory, read_trajectories

    if not paths and not env:
        raise ConfigError("nothing to choose from; name a run folder or a file of trajectories, or pass --env ID")
    if policy != "oracle":
        raise ConfigError(
            f"--policy must be 'oracle', got {policy!r}; for a model's episodes play them with "
            "'toolrl eval ENV --model ... --split train --out FILE' and name the file"
        )
    settings = parse_env_settings(env_settings)
    refuse_existing(out, overwrite=overwrite)
    made: dict[str, ToolEnv] = {}

    def environment(env_id: str) -> ToolEnv:
        if env_id not in made:
            made[env_id] = make(env_id, **{"split": "train", **settings.get(env_id, {})})
        return made[env_id]

    played: list[Trajectory] = []
    try:
        oracles = {env_id: environment(env_id) for env_id in env or []}
        about = {"mode": "demos", "split": "train", "model": "oracle"}
        with progress("episodes") as show:
            evaluate(oracles, None, None, tasks=n, on_trajectory=played.append, on_progress=show, info=about)
        files = (path / "trajectories.jsonl" if path.is_dir() else path for path in paths or [])
        recorded = (trajectory for file in files for trajectory in read_trajectories(file))
        selection = select(chain(recorded, played), per_task=per_task, min_reward=min_reward, held_out=held_out)
        if not selection.chosen:
            hint = "; play the training split (toolrl eval --split train)" if selection.left_out[HELD_OUT] else ""
            raise ConfigError(f"{selection.summary()}{hint}")
        tools = {t.env_id: environment(t.env_id).toolbox.schemas for t in selection.chosen}
    finally:
        for opened in made.values():
            opened.close()
    with writing(out):
        write_demonstrations(out, selection.chosen, tools)
    typer.echo(f"{selection.summary()}\nwritten to {out}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Fine-tune on demonstrations with TRL's SFTTrainer. Takes TRL's own flags and toolrl's; see --help.",
)
def sft(context: typer.Context) -> None:
    """Fine-tune a policy."""
    from toolrl.training.sft import fine_tune, parse_arguments

    fine_tune(*parse_arguments(context.args))
