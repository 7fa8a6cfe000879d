"""`toolrl envs`, `check` and `audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from toolrl.cli.common import AsJson, EnvironmentIds, EnvSettings, Tasks

if TYPE_CHECKING:
    from toolrl.audit.report import Report

app = typer.Typer()


@app.command()
def envs(
    modules: Annotated[
        list[str] | None, typer.Argument(metavar="[MODULE]...", help="Modules that register more environments.")
    ] = None,
) -> None:
    """List the installed environments."""
    import gymnasium

    from toolrl.gym.registry import entry_point_name, environment_ids, import_module_of

    for module in modules or []:
        import_module_of(f"{module}:")
    for env_id in environment_ids():
        typer.echo(f"{env_id}  {entry_point_name(gymnasium.registry[env_id])}")


@app.command()
def check(
    environments: EnvironmentIds, tasks: Tasks = 20, env_settings: EnvSettings = "{}", as_json: AsJson = False
) -> None:
    """Check that environments keep their promises; exit with status 1 if one does not."""
    from toolrl.audit import check_environment

    _report("checks", check_environment, environments, tasks, env_settings, as_json)


@app.command()
def audit(
    environments: EnvironmentIds,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks on which each exploit is tried.")] = 8,
    env_settings: EnvSettings = "{}",
    as_json: AsJson = False,
    tokens: Annotated[
        str, typer.Option(metavar="MODEL", help="Also sample the exploits' turns as tokens of this model.")
    ] = "",
) -> None:
    """Try to earn reward without solving the task; exit with status 1 if an exploit works."""
    from toolrl.audit import audit_environment

    renderer = None
    if tokens:
        from toolrl.chat import Renderer
        from toolrl.policy.models import load_tokenizer

        renderer = Renderer(load_tokenizer(tokens))
    _report("episodes", partial(audit_environment, renderer=renderer), environments, tasks, env_settings, as_json)


def _report(
    units: str, examine: Callable[..., Report], ids: list[str], tasks: int, env_settings: str, as_json: bool
) -> None:
    from toolrl.evaluation import progress
    from toolrl.training.arguments import parse_env_settings

    settings = parse_env_settings(env_settings, ids)
    failed = False
    for env_id in ids:
        with progress(f"{env_id}, {units}") as show:
            report = examine(env_id, tasks=tasks, settings=settings.get(env_id, {}), on_progress=show)
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else str(report))
        failed = failed or not report.passed
    if failed:
        raise typer.Exit(1)
