"""`toolrl serve`: environments for trainers and agents of others."""

from __future__ import annotations

from typing import Annotated

import typer

from toolrl.cli.common import App, EnvironmentIds, EnvSettings, Host, Port, catch_signals, opened_environments

app = App()


@app.command()
def serve(
    environments: EnvironmentIds,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Annotated[
        str, typer.Option(envvar="TOOLRL_SERVE_API_KEY", help="Key that clients must send; needed beyond loopback.")
    ] = "",
    sessions: Annotated[int, typer.Option(min=1, help="Sessions open at once.")] = 64,
    idle_seconds: Annotated[float, typer.Option(min=0.1, help="A session not used for this long is closed.")] = 900.0,
    env_settings: EnvSettings = "{}",
) -> None:
    """Serve environments to OpenEnv's clients and by plain HTTP; answers and grading stay here."""
    from toolrl.interop.serve import EnvironmentServer, ServeLimits

    wait = catch_signals()
    with opened_environments(env_settings, environments) as environment:
        for name in environments:
            environment(name, "train")
        limits = ServeLimits(sessions, idle_seconds)
        with EnvironmentServer(
            environments, environment, host=host, port=port, api_key=api_key or None, limits=limits
        ) as server:
            for address, name in server.names.items():
                typer.echo(f"serving {name} at {server.url}/openenv/{address}")
            typer.echo(f"plain HTTP at {server.url}/v1, described at {server.url}/docs")
            wait()
