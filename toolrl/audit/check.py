"""`check_environment`: does an environment keep the promises that every environment makes?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from toolrl.audit.checks.contract import (
    check_contract,
    check_determinism,
    check_prompts,
    check_schemas,
    check_splits,
    check_tasks,
)
from toolrl.audit.checks.episodes import (
    check_broken_calls,
    check_group_reward,
    check_oracle,
    check_resources,
    check_worthless_answers,
)
from toolrl.audit.report import CheckReport, CheckResult, Finding
from toolrl.audit.subject import Environment, Subject, options_of, sample_tasks
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, EnvironmentNotFound, InfrastructureError, MissingExtra
from toolrl.types import Task

Check = Callable[[Subject, ToolEnv, Sequence[Task]], Iterator[Finding]]

CHECKS: Mapping[str, Check] = {
    "contract": check_contract,
    "determinism": check_determinism,
    "tasks": check_tasks,
    "splits": check_splits,
    "prompts": check_prompts,
    "schemas": check_schemas,
    "oracle": check_oracle,
    "worthless": check_worthless_answers,
    "group_reward": check_group_reward,
    "broken_calls": check_broken_calls,
    "resources": check_resources,
}


def check_environment(
    environment: Environment,
    *,
    tasks: int = 20,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    only: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Check an environment; `report.assert_passed()` raises if it fails.

    Args:
        environment: An id, a class or function that makes one, or an instance. An instance stays open, and checks that
            need a second one (splits, closing) are skipped.
        tasks: How many tasks are played.
        seed: Selects the tasks.
        settings: For making the environment.
        only: Names of checks (keys of `CHECKS`); all by default.
        on_progress: Called with the number of checks done and the total; see `toolrl.evaluation.progress`.

    Raises:
        EnvironmentNotFound: No environment has this id.
        ConfigError: The environment does not take these settings, or no check has this name.
        InfrastructureError: A service that the environment needs is down.
    """
    if unknown := set(only or ()) - set(CHECKS):
        raise ConfigError(f"no check is named {min(unknown)!r}; the checks are {', '.join(CHECKS)}")
    subject = Subject(environment, settings)
    results = []
    try:
        with subject.open() as env:
            chosen = sample_tasks(env, tasks, seed)
            wanted = [name for name in CHECKS if only is None or name in only]
            for done, name in enumerate(wanted):
                if on_progress is not None:
                    on_progress(done, len(wanted))
                results.append(_run(name, CHECKS[name], subject, env, chosen))
    except (ConfigError, EnvironmentNotFound, InfrastructureError, MissingExtra):
        raise
    except Exception as error:  # noqa: BLE001 - an author's bug is a finding
        finding = Finding("construction", f"{type(error).__name__}: {error}", "fix the code that makes the environment")
        results.append(CheckResult("construction", "It can be made and closed.", (finding,)))
        chosen = []
    return CheckReport(subject.name, len(chosen), tuple(results))


def _run(name: str, check: Check, subject: Subject, env: ToolEnv, tasks: Sequence[Task]) -> CheckResult:
    promise = (check.__doc__ or name).splitlines()[0]
    if reason := options_of(env).excused.get(name):
        return CheckResult(name, promise, skipped=f"excused: {reason}")
    if name == "splits" and not subject.has_splits:
        return CheckResult(name, promise, skipped="it takes no split=")
    try:
        return CheckResult(name, promise, tuple(check(subject, env, tasks)))
    except InfrastructureError:
        raise
    except Exception as error:  # noqa: BLE001 - an author's bug is a finding
        finding = Finding(name, f"raised {type(error).__name__}: {error}", "fix the environment's code")
        return CheckResult(name, promise, (finding,))
