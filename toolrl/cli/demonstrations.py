"""`toolrl demonstrations` and `sft`: from successful episodes to a fine-tuned policy."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.common import App, EnvSettings, Overwrite, Tasks, opened_environments
from toolrl.errors import ConfigError

app = App()


@app.command()
def demonstrations(
    out: Annotated[Path, typer.Option(help="The data set to write, a new .jsonl file.")],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN|FILE]...", help="Run folders, and files of trajectories (toolrl eval --out)."),
    ] = None,
    env: Annotated[list[str] | None, typer.Option(help="Also play this environment's tasks; may be repeated.")] = None,
    policy: Annotated[
        str, typer.Option(help="Plays --env: 'oracle', each task's own solution. For models: toolrl eval --out.")
    ] = "oracle",
    tasks: Tasks = 1000,
    env_settings: EnvSettings = "{}",
    per_task: Annotated[int, typer.Option(min=1, help="The most demonstrations per task, all different.")] = 1,
    min_reward: Annotated[float | None, typer.Option(help="The lowest reward accepted; default: any success.")] = None,
    overwrite: Overwrite = False,
    held_out: Annotated[
        bool, typer.Option("--held_out", help="Include held-out tasks, which makes evaluations on them worthless.")
    ] = False,
) -> None:
    """Select successful episodes, and write them as a data set for supervised fine-tuning (toolrl sft, or TRL)."""
    from toolrl.evaluation import evaluate, progress
    from toolrl.support.outputs import refuse_existing, writing
    from toolrl.training.demonstrations import HELD_OUT, select_demonstrations, write_demonstrations
    from toolrl.trajectory import Trajectory, read_trajectories

    if not paths and not env:
        raise ConfigError("nothing to select from; name a run folder or a file of trajectories, or pass --env ID")
    if policy != "oracle":
        raise ConfigError(
            f"--policy must be 'oracle', got {policy!r}; to use a model's episodes, play them with "
            "'toolrl eval ENV --model ... --split train --out FILE' and name the file"
        )
    refuse_existing(out, overwrite=overwrite)
    played: list[Trajectory] = []
    with opened_environments(env_settings) as environment:
        oracles = {env_id: environment(env_id, "train") for env_id in env or []}
        info = {"mode": "demonstrations", "split": "train", "model": "oracle"}
        with progress("episodes") as show:
            evaluate(oracles, None, None, tasks=tasks, on_trajectory=played.append, on_progress=show, info=info)
        order = [(env_id, task.id) for env_id, env in oracles.items() for task in env.tasks.take(tasks)]
        places = {task: place for place, task in enumerate(order)}
        played.sort(key=lambda trajectory: places[trajectory.env_id, trajectory.task_id])  # they finish in any order
        files = (path / "trajectories.jsonl" if path.is_dir() else path for path in paths or [])
        recorded = (trajectory for file in files for trajectory in read_trajectories(file))
        selection = select_demonstrations(
            chain(recorded, played), per_task=per_task, min_reward=min_reward, held_out=held_out
        )
        if not selection.chosen:
            hint = "; play the training split (toolrl eval --split train)" if selection.left_out[HELD_OUT] else ""
            raise ConfigError(f"{selection.summary()}{hint}")
        tools = {t.env_id: environment(t.env_id, "train").toolbox.schemas for t in selection.chosen}
    with writing(out):
        write_demonstrations(out, selection.chosen, tools)
    typer.echo(f"{selection.summary()}\nwritten to {out}")


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Fine-tune on demonstrations with TRL's SFTTrainer. Takes the flags of TRL and toolrl; see --help.",
)
def sft(context: typer.Context) -> None:
    """Fine-tune a policy."""
    from toolrl.training import fine_tune, parse_sft_arguments

    fine_tune(*parse_sft_arguments(context.args))
