"""Reads coding problems from files, the hub, or the small data set that comes with the package."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolrl import TaskError
from toolrl.rewards import UngradableTest, grade_code
from toolrl_envs.code_tests.formats import read_problem
from toolrl_envs.code_tests.problem import Problem
from toolrl_envs.common import Split, read_split

_OWN = Path(__file__).parent / "data" / "{split}.jsonl"
_log = logging.getLogger(__name__)


def load_problems(
    data: str | Path | None, split: Split, size: int, seed: int, *, hub_split: str = "", verify: bool = False
) -> list[Problem]:
    """Read problems and draw at most `size` of them; see `toolrl_envs.common.read_split`.

    Args:
        data: None for the small data set that comes with the package.
        split: "train" or "test".
        size: Maximum number of problems.
        seed: Fixes which are drawn, and their order.
        hub_split: The only split of a data set on the hub.
        verify: Run the reference solutions, and skip problems whose own solution fails.

    Raises:
        TaskError: The file does not exist, or none of its rows can be used.
        ConfigError: The data set cannot be loaded, or the split is empty.
    """
    source = _OWN if data is None else data
    problems = read_split(
        source,
        lambda row, key: read_problem(row),
        split,
        size=size,
        seed=seed,
        hub_split=hub_split,
        skip_broken=True,
    )
    return _verified(problems, str(source)) if verify else problems


def _verified(problems: list[Problem], name: str) -> list[Problem]:
    """The problems whose solution passes, and those that come without one."""

    def fault(problem: Problem) -> str:
        try:
            grading = grade_code(problem.solution, problem.suite) if problem.solution else None
        except UngradableTest as error:
            return str(error)
        failed = [test.reason for test in (*grading.visible, *grading.hidden) if not test.passed] if grading else []
        return f"its own solution fails {len(failed)} tests, the first: {failed[0]}" if failed else ""

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        faults = list(pool.map(fault, problems))
    refused = [f"task {problem.id}: {why}" for problem, why in zip(problems, faults, strict=True) if why]
    if len(refused) == len(problems):
        raise TaskError(f"no problem of data={name!r} passes with its own solution; the first: {refused[0]}")
    if refused:
        _log.warning("skipped %d problems of %s: %s", len(refused), name, "; ".join(refused[:20]))
    return [problem for problem, why in zip(problems, faults, strict=True) if not why]
