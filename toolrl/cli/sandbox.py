"""`toolrl doctor` and `sandbox serve`."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from toolrl.cli.ending import expect_end

app = typer.Typer()


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Say how well the model's code is walled in on this machine; status 1 if too little."""
    from toolrl.sandbox.local.doctor import as_text, examine

    diagnosis = examine()
    typer.echo(json.dumps(dataclasses.asdict(diagnosis), indent=1) if as_json else as_text(diagnosis))
    if not diagnosis.usable:
        raise typer.Exit(1)


sandbox_app = typer.Typer(no_args_is_help=True, help="Sandboxes for code.")


@sandbox_app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback an API key must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 49999,
    api_key: Annotated[str, typer.Option(envvar="TOOLRL_SANDBOX_API_KEY", help="What clients must know.")] = "",
    packages: Annotated[bool, typer.Option(help="Let the code import the packages of this Python.")] = False,
    max_sandboxes: Annotated[int, typer.Option(min=1, help="At a time.")] = 20,
    memory_mb: Annotated[int, typer.Option(min=64, help="Address space of each process.")] = 1024,
    run_seconds: Annotated[float, typer.Option(min=0.1, help="Time of a run that nobody else limits.")] = 3600.0,
) -> None:
    """Serve local sandboxes through E2B's protocol, for E2B's own SDK, until Ctrl-C or SIGTERM."""
    from toolrl.sandbox.server import HostSettings, SandboxServer

    wait_for_end = expect_end()
    limits = dataclasses.replace(HostSettings().limits, seconds=run_seconds, memory_mb=memory_mb)
    settings = HostSettings(limits, packages, max_sandboxes, api_key=api_key or None)
    with SandboxServer(settings, host=host, port=port) as server:
        typer.echo(f"export E2B_API_URL={server.url} E2B_SANDBOX_URL={server.url} E2B_API_KEY={api_key or 'any'}")
        wait_for_end()
