"""`toolrl view`, `show`, `export`, `import` and `regrade`: what to do with a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.common import (
    App,
    EnvSettings,
    Limit,
    Overwrite,
    Port,
    Run,
    Seed,
    Where,
    catch_signals,
    find_episodes,
    opened_environments,
)
from toolrl.errors import ConfigError

app = App()


@app.command()
def view(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or one that holds them.")],
    port: Port = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Show runs on a local page: curves, episodes, tokens, groups, comparisons. Ctrl-C ends it."""
    import webbrowser

    from toolrl.view.server import PageServer

    server = PageServer(runs, port)
    wait = catch_signals()
    server.start()
    try:
        typer.echo(f"{server.url}\nThe address holds a secret; it answers on this machine alone. Ctrl-C ends it.")
        if browser:
            webbrowser.open(server.url)
        wait()
    finally:
        server.close()


@app.command()
def show(
    run: Run,
    where: Where = "",
    id: Annotated[str, typer.Option(help="The episode with this id.")] = "",
    limit: Limit = 1,
    seed: Seed = 0,
    tokens: Annotated[str, typer.Option(metavar="MODEL", help="Show tokens too, with this model's tokenizer.")] = "",
) -> None:
    """Print episodes of a run."""
    from toolrl.evaluation import terminal
    from toolrl.view.terminal import print_trajectory

    found, _ = find_episodes(run, "" if id else where)
    if id:
        try:
            chosen = [found.get(id)]
        except KeyError:
            raise ConfigError(f"no episode of {str(run)!r} has the id {id!r}") from None
    else:
        chosen = list(found.sample(limit, seed))
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
        console.print(f"{len(chosen):,} of {len(found):,} episodes; --limit shows more", style="dim")


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option(help="The HTML file to write: one self-contained page.")],
    where: Where = "",
    limit: Limit = 200,
    seed: Seed = 0,
) -> None:
    """Write episodes to a single HTML page to share."""
    from toolrl.view.html import write_page

    found, total = find_episodes(run, where)
    chosen = found.sample(limit, seed) if len(found) > limit else found
    about = f"{len(chosen):,} of {total:,} episodes" + (f", where {where}" if where else "")
    try:
        size = write_page(chosen, out, run.resolve().name, about)
    except OSError as error:
        raise ConfigError(f"cannot write {str(out)!r}: {error.strerror}") from None
    typer.echo(f"{out}: {len(chosen):,} episodes, {size / 1e6:.1f} MB")


@app.command("import")
def import_log(
    logs: Annotated[list[Path], typer.Argument(metavar="LOG...", help="Logs that another program wrote.")],
    out: Annotated[Path, typer.Option(help="The file of trajectories to write, a new .jsonl file.")],
    format: Annotated[
        str, typer.Option(help="chat, trl, inspect, verifiers or atif; by default what each file looks like.")
    ] = "",
    overwrite: Overwrite = False,
) -> None:
    """Read logs of other programs as trajectories, to view, query, report on and compare them.

    Message lists of chat APIs, TRL's logged completions, Inspect's logs, verifiers' traces, ATIF. What a log does not
    say stays absent.
    """
    from toolrl.evaluation import progress
    from toolrl.interop.logs import read_log
    from toolrl.support.outputs import refuse_existing, writing
    from toolrl.trajectory import TrajectoryWriter

    refuse_existing(out, overwrite=overwrite)
    partial = out.with_name(f"{out.name}.partial")
    count = scored = 0
    try:
        with writing(out), TrajectoryWriter(partial) as writer, progress("logs") as show:
            partial.write_bytes(b"")
            for number, log in enumerate(logs, 1):
                for episode in read_log(log, format):
                    writer.write(episode)
                    count, scored = count + 1, scored + (episode.score.value is not None)
                show(number, len(logs))
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)
    typer.echo(f"{out}: {count:,} episodes, {scored:,} of them with a reward")


@app.command()
def regrade(
    run: Run,
    where: Where = "",
    env_settings: EnvSettings = "{}",
    out: Annotated[Path | None, typer.Option(help="Write the episodes with their new scores to this file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Score saved episodes with the current reward, without generating, and show what changes."""
    from rich.table import Table

    from toolrl.evaluation import progress, terminal
    from toolrl.evaluation.regrade import Regraded, regrade as grade_again, summary
    from toolrl.evaluation.tables import number
    from toolrl.support.outputs import new_file, refuse_existing
    from toolrl.training.demonstrations import is_held_out
    from toolrl.trajectory import TrajectoryWriter
    from toolrl.view import load

    episodes = load(run).where(where) if where else load(run)
    if out is not None:
        refuse_existing(out, overwrite=overwrite)
    console, results = terminal(), list[Regraded]()
    with opened_environments(env_settings) as environment, progress("episodes") as show:
        for result in grade_again(episodes, lambda t: environment(t.env_id, "test" if is_held_out(t) else "train")):
            results.append(result)
            show(len(results), len(episodes))
    if out is not None:
        with TrajectoryWriter(new_file(out, overwrite=overwrite)) as writer:
            for result in results:
                writer.write(result.trajectory)
    table = Table(title="rewards before and now")
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
