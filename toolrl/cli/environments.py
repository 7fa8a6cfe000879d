"""`toolrl envs`, `check` and `audit`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from toolrl.cli.common import App, AsJson, EnvironmentIds, EnvSettings, Tasks
from toolrl.errors import EnvironmentNotFound

if TYPE_CHECKING:
    from toolrl.audit.report import Report

app = App()


@app.command()
def envs(
    pattern: Annotated[str, typer.Argument(help="Part of the names to list; by default all.")] = "",
    module: Annotated[
        list[str] | None, typer.Option(help="A module that registers more of them; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the installed environments, whoever made them: name, package, and what they are."""
    import difflib

    from toolrl.gym.registry import environment_ids, import_module_of, introduced

    for name in module or []:
        import_module_of(f"{name}:")
    ids = environment_ids()
    found = [introduced(env_id) for env_id in ids if pattern.casefold() in env_id.casefold()]
    if not found:
        near = difflib.get_close_matches(pattern, ids, n=3, cutoff=0.3) or ids
        raise EnvironmentNotFound(f"no installed environment has {pattern!r} in its name; there are {', '.join(near)}")
    if as_json:
        typer.echo(json.dumps([one._asdict() for one in found], indent=1))
        return
    widths = [max(len(one[column]) for one in found) for column in (0, 1)]
    for one in found:
        typer.echo(f"{one.env_id:{widths[0]}}  {one.package:{widths[1]}}  {one.about}".rstrip())


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
    from toolrl.support.json_settings import parse_env_settings
    from toolrl.support.progress import progress

    settings = parse_env_settings(env_settings, ids)
    failed = False
    for env_id in ids:
        with progress(f"{env_id}, {units}") as show:
            report = examine(env_id, tasks=tasks, settings=settings.get(env_id, {}), on_progress=show)
        typer.echo(json.dumps(report.to_dict(), indent=1) if as_json else str(report))
        failed = failed or not report.passed
    if failed:
        raise typer.Exit(1)
