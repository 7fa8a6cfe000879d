"""`toolrl show` and `regrade`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from toolrl.errors import ConfigError

app = typer.Typer()

RUN = typer.Argument(metavar="RUN", help="A run's folder, or a file of trajectories.")
WHERE = typer.Option(help="A query, such as \"success == 0 and calls('python') > 2\".")


@app.command()
def show(
    run: Annotated[Path, RUN],
    where: Annotated[str, WHERE] = "",
    id: Annotated[str, typer.Option(help="The episode with this id.")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="At most so many episodes, drawn at random.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    tokens: Annotated[str, typer.Option(help="Show tokens too, as the tokenizer of this model has them.")] = "",
) -> None:
    """Print episodes of a run."""
    from toolrl.evaluation import terminal
    from toolrl.view import load
    from toolrl.view.terminal import print_trajectory

    episodes = load(run)
    if id:
        try:
            chosen = [episodes.get(id)]
        except KeyError:
            raise ConfigError(f"no episode of {str(run)!r} has the id {id!r}") from None
    else:
        found = episodes.where(where) if where else episodes
        if not len(found):
            raise ConfigError(
                f"no episode of {str(run)!r} fits {where!r}" if where else f"{str(run)!r} has no episodes"
            )
        chosen = list(found.sample(n, seed))
    decode: Callable[[list[int]], str] | None = None
    if tokens:
        from toolrl.policy.models import load_tokenizer

        tokenizer = load_tokenizer(tokens)

        def decode(ids: list[int]) -> str:
            return str(tokenizer.decode(ids))

    console = terminal()
    for trajectory in chosen:
        print_trajectory(console, trajectory, decode=decode)
    if not id and len(found) > len(chosen):
        console.print(f"{len(chosen):,} of {len(found):,} episodes; --n shows more", style="dim")


@app.command()
def regrade(
    run: Annotated[Path, RUN],
    where: Annotated[str, WHERE] = "",
    env_settings: Annotated[str, typer.Option(help='JSON: {"ID": {"setting": value}}.')] = "{}",
    out: Annotated[Path | None, typer.Option(help="Write the episodes with their new scores to this file.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists.")] = False,
) -> None:
    """Score saved episodes with today's reward, without generating, and show what changes."""
    from rich.table import Table

    from toolrl.env import ToolEnv, make
    from toolrl.evaluation import progress, terminal
    from toolrl.evaluation.regrade import Regraded, regrade as grade_again, summary
    from toolrl.evaluation.tables import number
    from toolrl.support.outputs import new_file, refuse_existing
    from toolrl.training.arguments import parse_env_settings
    from toolrl.training.demonstrations import is_held_out
    from toolrl.trajectory import Trajectory, TrajectoryWriter
    from toolrl.view import load

    episodes = load(run).where(where) if where else load(run)
    settings = parse_env_settings(env_settings)
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    made: dict[tuple[str, str], ToolEnv] = {}

    def environment_of(trajectory: Trajectory) -> ToolEnv:
        env_id, split = trajectory.env_id, "test" if is_held_out(trajectory) else "train"
        if (env_id, split) not in made:
            made[env_id, split] = make(env_id, **{"split": split, **settings.get(env_id, {})})
        return made[env_id, split]

    console, results = terminal(), list[Regraded]()
    try:
        with progress("episodes") as show:
            for result in grade_again(episodes, environment_of):
                results.append(result)
                show(len(results), len(episodes))
    finally:
        for env in made.values():
            env.close()
    if out is not None:
        with TrajectoryWriter(new_file(out, overwrite=overwrite)) as writer:
            for result in results:
                writer.write(result.trajectory)
    table = Table(title="rewards, as they were and as they are now")
    for column in ("environment", "episodes", "before", "now", "up", "down", "no new score"):
        table.add_column(column)
    for row in summary(results):
        table.add_row(
            row["env"], str(row["episodes"]), number(row["before"]), number(row["after"]), str(row["up"]),
            str(row["down"]), str(row["without"]),
        )  # fmt: skip
    console.print(table)
    changed = [result for result in results if result.changed]
    for result in changed[:20]:
        now = result.trajectory.score
        console.print(f"{result.trajectory.id}: {result.before.value} -> {now.value} ({now.reason})", markup=False)
    if len(changed) > 20:
        console.print(f"... and {len(changed) - 20} more", style="dim")
    for problem in sorted({result.problem for result in results if result.problem})[:5]:
        console.print(f"no new score: {problem}", style="dim", markup=False)
