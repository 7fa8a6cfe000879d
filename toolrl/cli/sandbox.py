"""`toolrl doctor` and `sandbox serve`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from toolrl.cli.common import App, AsJson, Host, Port, catch_signals

app = App()


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Report how well this machine isolates the model's code; exit with status 1 if not at all."""
    from toolrl.sandbox.local.doctor import as_text, examine

    diagnosis = examine()
    typer.echo(json.dumps(dataclasses.asdict(diagnosis), indent=1) if as_json else as_text(diagnosis))
    if not diagnosis.usable:
        raise typer.Exit(1)


sandbox_app = App(no_args_is_help=True, help="Sandboxes for code.")


@sandbox_app.command()
def serve(
    host: Host = "127.0.0.1",
    port: Port = 49999,
    api_key: Annotated[
        str, typer.Option(envvar="TOOLRL_SANDBOX_API_KEY", help="Key that clients must send; needed beyond loopback.")
    ] = "",
    packages: Annotated[bool, typer.Option(help="Let the code import this Python's packages.")] = False,
    max_sandboxes: Annotated[int, typer.Option(min=1, help="Sandboxes open together.")] = 20,
    memory_mb: Annotated[int, typer.Option(min=64, help="Address space of each process, in MB.")] = 1024,
    run_seconds: Annotated[
        float, typer.Option(min=0.1, help="Time limit of a run, unless the client sets one.")
    ] = 3600.0,
) -> None:
    """Serve local sandboxes to E2B's SDK, through its protocol, until Ctrl-C or SIGTERM."""
    from toolrl.sandbox.server import HostSettings, SandboxServer

    wait = catch_signals()
    limits = dataclasses.replace(HostSettings().limits, seconds=run_seconds, memory_mb=memory_mb)
    settings = HostSettings(limits, packages, max_sandboxes, api_key=api_key or None)
    with SandboxServer(settings, host=host, port=port) as server:
        typer.echo(f"export E2B_API_URL={server.url} E2B_SANDBOX_URL={server.url} E2B_API_KEY={api_key or 'any'}")
        wait()
