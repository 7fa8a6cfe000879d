"""`toolrl view` and `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrl.errors import ConfigError

app = typer.Typer()


@app.command()
def view(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or one that holds them.")],
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Look at runs on a local page: curves, episodes, tokens, groups, comparisons. Ctrl-C ends it."""
    import webbrowser

    from toolrl.cli.ending import expect_end
    from toolrl.view.server import PageServer

    server = PageServer(runs, port)
    wait = expect_end()
    server.start()
    try:
        typer.echo(f"{server.url}\nThe address holds a secret; it answers on this machine alone. Ctrl-C ends it.")
        if browser:
            webbrowser.open(server.url)
        wait()
    finally:
        server.stop()


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a file of trajectories.")],
    html: Annotated[Path, typer.Option(help="The file to write: one page, with all that it needs.")],
    where: Annotated[str, typer.Option(help="A query, such as \"success == 0 and calls('python') > 2\".")] = "",
    n: Annotated[int, typer.Option("--n", min=1, help="At most so many episodes, drawn at random.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Write episodes to a single page to share."""
    from toolrl.view import load
    from toolrl.view.html import write_page

    episodes = load(run)
    found = episodes.where(where) if where else episodes
    if not len(found):
        raise ConfigError(f"no episode of {str(run)!r} fits {where!r}" if where else f"{str(run)!r} has no episodes")
    chosen = found.sample(n, seed) if len(found) > n else found
    about = f"{len(chosen):,} of {len(episodes):,} episodes" + (f", where {where}" if where else "")
    try:
        size = write_page(chosen, html, run.resolve().name, about)
    except OSError as error:
        raise ConfigError(f"cannot write {str(html)!r}: {error.strerror}") from None
    typer.echo(f"{html}: {len(chosen):,} episodes, {size / 1e6:.1f} MB")
