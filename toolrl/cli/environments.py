"""`toolrl envs`, `check` and `audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.audit.report import Report

app = typer.Typer()


@app.command()
def envs(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Modules that register further ones.")
    ] = None,
) -> None:
    """List the environments that are installed, whoever made them."""
    import gymnasium

    from toolrl.gym.registry import entry_point_name, environment_ids, import_module_of

    for module in modules or []:
        import_module_of(f"{module}:")
    for env_id in environment_ids():
        typer.echo(f"{env_id}  {entry_point_name(gymnasium.registry[env_id])}")


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

    _report("checks", check_environment, environments, tasks, settings, as_json)


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
        from toolrl.policy.models import load_tokenizer

        renderer = Renderer(load_tokenizer(tokens))
    _report("episodes", partial(audit_environment, renderer=renderer), environments, tasks, settings, as_json)


def _report(
    units: str, examine: Callable[..., Report], ids: list[str], tasks: int, settings: str, as_json: bool
) -> None:
    from toolrl.evaluation import progress

    chosen = _parse_settings(settings)
    failed = False
    for env_id in ids:
        with progress(f"{env_id}, {units}") as show:
            report = examine(env_id, tasks=tasks, settings=chosen, on_progress=show)
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else str(report))
        failed = failed or not report.passed
    if failed:
        raise typer.Exit(1)


def _parse_settings(text: str) -> dict[str, Any]:
    from toolrl.support.secret_values import expand

    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--settings must be a JSON object: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--settings must be a JSON object, got a {type(settings).__name__}")
    return dict(expand(settings))
