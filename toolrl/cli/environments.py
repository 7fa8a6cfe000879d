"""`toolrl envs`, `check` and `audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.audit.findings import Report

app = typer.Typer()


@app.command()
def envs() -> None:
    """List the environments that are installed."""
    import gymnasium

    from toolrl.env import load_plugins

    load_plugins()
    for env_id, spec in sorted(gymnasium.registry.items()):
        if env_id.startswith("toolrl/"):
            typer.echo(f"{env_id}  {spec.entry_point}")


SETTINGS = typer.Option("--settings", help='JSON: {"setting": value}.')


@app.command()
def check(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that are played.")] = 20,
    settings: Annotated[str, SETTINGS] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that environments keep their promises; status 1 if one does not."""
    from toolrl.audit import check_environment

    _report(check_environment, environments, tasks, settings, as_json)


@app.command()
def audit(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that each exploit is tried on.")] = 8,
    settings: Annotated[str, SETTINGS] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    tokens: Annotated[
        str, typer.Option(metavar="MODEL", help="Sample the exploits' turns as this model's tokens as well.")
    ] = "",
) -> None:
    """Try to earn reward without solving the task; status 1 if that works somewhere."""
    from toolrl.audit import audit_environment

    renderer = None
    if tokens:
        from toolrl.chat.renderer import Renderer
        from toolrl.models import load_tokenizer

        renderer = Renderer(load_tokenizer(tokens))
    _report(partial(audit_environment, renderer=renderer), environments, tasks, settings, as_json)


def _report(examine: Callable[..., Report], ids: list[str], tasks: int, settings: str, as_json: bool) -> None:
    chosen = _parse_settings(settings)
    failed = False
    for env_id in ids:
        report = examine(env_id, tasks=tasks, settings=chosen)
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else str(report))
        failed = failed or not report.passed
    if failed:
        raise typer.Exit(1)


def _parse_settings(text: str) -> dict[str, Any]:
    from toolrl.secret_values import expand

    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--settings must be a JSON object: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--settings must be a JSON object, got a {type(settings).__name__}")
    return dict(expand(settings))
