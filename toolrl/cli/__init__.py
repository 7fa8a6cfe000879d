"""The command line. Each module of this package has the commands of one subject; see `toolrl --help`."""

from __future__ import annotations

import os
import sys
import traceback
from typing import NoReturn

import typer
from rich.console import Console

from toolrl.cli import demonstrations, environments, episodes, sandbox, search, training, viewing
from toolrl.errors import InfrastructureError, UserError
from toolrl.support.secret_values import hide

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL for tool-using language models.",
)
app.add_typer(training.app)
app.add_typer(demonstrations.app)
app.add_typer(environments.app)
app.add_typer(sandbox.app)
app.add_typer(sandbox.sandbox_app, name="sandbox")
app.add_typer(search.app, name="search")
app.add_typer(viewing.app)
app.add_typer(episodes.app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Wrong input prints what is wrong and exits with status 2, a fault of a service with 1."""
    # As with `python -m toolrl`, my_envs.py is found here (`my_envs:mine/Shopping-v0`); last, so that it hides nothing.
    sys.path.append(os.getcwd())
    sys.excepthook = lambda kind, error, trace: print(
        hide("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr
    )
    try:
        app(args=arguments)
    except (UserError, InfrastructureError) as error:
        lines = [f"error: {error}", *getattr(error, "__notes__", ())]  # notes say where it was raised
        Console(stderr=True).print(hide("\n".join(lines)), style="red", markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)
