"""`toolrl init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.common import App

app = App()


@app.command()
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The package's name, such as 'my-shop'.")],
    kind: Annotated[
        str,
        typer.Option(help="What to start from: 'tools', 'search', 'code', 'game', 'mcp', 'terminal', 'conversation'."),
    ] = "tools",
    out: Annotated[Path | None, typer.Option(help="The folder to write, new or empty; default: NAME, here.")] = None,
) -> None:
    """Start a package with an environment of your own: tasks, tools, a reward, an oracle and tests, ready to change."""
    from toolrl.scaffold import make_package

    names, written = make_package(name, kind, out)
    home = Path(names.distribution) if out is None else out
    for path in written:
        typer.echo(path)
    typer.echo(
        f"\n{names.env_id} is ready. Begin with {home / 'src' / names.module / 'env.py'}; "
        f"{home / 'README.md'} has more commands.\n\n"
        f"  cd {home}\n  pip install -e '.[dev,train]'\n  toolrl check {names.env_id}\n  toolrl audit {names.env_id}\n"
        f"  toolrl train --config train.yaml --max_steps 2"
    )
