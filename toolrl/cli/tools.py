"""`toolrl tools serve`."""

from __future__ import annotations

import importlib.util
import signal
from typing import Annotated, NoReturn

import typer

from toolrl.cli.common import App, EnvSettings, catch_signals, opened_environments

app = App(no_args_is_help=True, help="Tools of environments.")


@app.callback()
def tools() -> None:
    """Tools of environments."""


@app.command()
def serve(
    env_id: Annotated[str, typer.Argument(metavar="ENV", help="Environment id.")],
    task: Annotated[str, typer.Option(help="Id of the task; by default the first.")] = "",
    http: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65_535, help="Serve HTTP on this port instead; 0 takes a free one."),
    ] = None,
    env_settings: EnvSettings = "{}",
) -> None:
    """Serve an environment's tools by MCP over stdin and stdout: try them from any MCP client.

    A connection is an episode; its task is in the server's instructions.
    """
    from toolrl.errors import MissingExtra
    from toolrl.support.event_loop import run_sync

    if importlib.util.find_spec("mcp") is None:
        raise MissingExtra("mcp", "mcp")
    from toolrl.interop.mcp import ToolServer, serve_stdio

    with opened_environments(env_settings, [env_id]) as environment:
        env = environment(env_id, "train")
        if task and task not in [each.id for each in env.tasks]:
            env = environment(env_id, "test")
        chosen = env.tasks.by_id(task) if task else env.tasks[0]
        if http is None:
            signal.signal(signal.SIGTERM, _interrupt)
            run_sync(serve_stdio(env, chosen))
            return
        wait = catch_signals()
        with ToolServer(env, chosen, port=http) as server:
            typer.echo(f"serving task {chosen.id} of {env_id} at {server.url}")
            wait()


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt
