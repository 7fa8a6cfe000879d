"""The command line. Each module has the commands of one subject; see `toolrl --help`."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

from rich.console import Console

from toolrl.cli import (
    comparison,
    demonstrations,
    environments,
    evaluation,
    gateway,
    play,
    runs,
    sandbox,
    scaffold,
    search,
    serve,
    tools,
    training,
)
from toolrl.cli.common import App
from toolrl.errors import InfrastructureError, UserError, naming_extras
from toolrl.support.secret_values import hide

app = App(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL for tool-using language models.",
)
app.add_typer(training.app)
app.add_typer(evaluation.app)
app.add_typer(demonstrations.app)
app.add_typer(environments.app)
app.add_typer(play.app)
app.add_typer(gateway.app)
app.add_typer(serve.app)
app.add_typer(scaffold.app)
app.add_typer(sandbox.app)
app.add_typer(sandbox.sandbox_app, name="sandbox")
app.add_typer(search.app, name="search")
app.add_typer(tools.app, name="tools")
app.add_typer(runs.app)
app.add_typer(comparison.app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. It exits with status 2 and a message for wrong input, with 1 if a service fails."""
    # Find my_envs.py here (`my_envs:mine/Shopping-v0`), as `python -m toolrl` does; last, so that it shadows nothing.
    sys.path.append(os.getcwd())
    sys.excepthook = lambda kind, error, trace: print(
        hide("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr
    )
    try:
        with naming_extras():
            app(args=arguments)
    except (UserError, InfrastructureError) as error:
        lines = [f"error: {error}", *getattr(error, "__notes__", ())]  # notes say where it was raised
        Console(stderr=True).print(hide("\n".join(lines)), style="red", markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
