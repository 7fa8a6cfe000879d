"""Where problems come from: files, the Hugging Face hub, and the small set that comes with the package."""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolrl import ConfigError, TaskError, is_file_name, of_split, read_rows
from toolrl.rewards import UngradableTest, grade_code
from toolrl_envs.code_tests.formats import read_problem
from toolrl_envs.code_tests.problem import Problem
from toolrl_envs.common import Split, lot

_OWN = Path(__file__).parent / "data" / "{split}.jsonl"
_log = logging.getLogger(__name__)


def load_problems(
    data: str | Path | None, split: Split, size: int, seed: int, *, hub_split: str = "", verify: bool = False
) -> list[Problem]:
    """Read problems, and draw at most `size` of them, in an order that `seed` fixes.

    Args:
        data: What `toolrl.read_rows` reads, or None for our own.
            "{split}" in a file's name stands for the split; else every fifth problem is held out, by what it asks.
        split: "train" or "test".
        size: At most so many.
        seed: Fixes their choice and order.
        hub_split: The one split of a set on the hub that has no other; it is then divided as a file is. Empty: `split`.
        verify: Run their reference solutions, and leave out those whose own fails.

    Raises:
        TaskError: There is no such file, or no row of it can be read.
        ConfigError: The set cannot be loaded from the hub, or nothing is left for the split.
    """
    name = str(_OWN if data is None else data)
    shared = bool(hub_split) or (is_file_name(name) and "{split}" not in name)
    rows = read_rows(name.replace("{split}", split), split=hub_split or split)
    problems, refused = [], []
    for place, row in rows:
        try:
            problems.append(read_problem(row))
        except TaskError as error:
            refused.append(f"{place}: {error}")
    if refused and not problems:
        raise TaskError(f"no problem of data={name!r} can be read; the first: {refused[0]}")
    if refused:
        _log.warning("%d problems of %s are left out; the first: %s", len(refused), name, refused[0])
    if shared:
        problems = list(of_split(problems, lambda problem: problem.text, split))
    if not problems:
        raise ConfigError(f"data={name!r} has no problem for split={split!r}")
    chosen = sorted(problems, key=lambda problem: lot(problem.id, split, seed))[:size]
    return _verified(chosen, name) if verify else chosen


def _verified(problems: list[Problem], name: str) -> list[Problem]:
    """Those that can be solved, or have no solution to tell that by."""

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
        raise TaskError(f"no problem of data={name!r} can be solved; the first: {refused[0]}")
    if refused:
        _log.warning("%d problems of %s are left out: %s", len(refused), name, "; ".join(refused[:20]))
    return [problem for problem, why in zip(problems, faults, strict=True) if not why]
