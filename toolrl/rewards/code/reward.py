"""A reward for code: found in the final message, graded by hidden tests that it never sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from toolrl.errors import ConfigError, SandboxFault
from toolrl.rewards.code.grading import (
    LIMITS,
    TEST_SECONDS,
    TOTAL_SECONDS,
    SuiteOutcome,
    TestOutcome,
    UngradableTest,
    grade_code,
)
from toolrl.rewards.code.hacks import find_hacks
from toolrl.rewards.code.suite import CodeSuite, StdioTest
from toolrl.rewards.economy import FLOOR, check_call_cost, with_call_cost
from toolrl.rewards.extraction import find_code
from toolrl.sandbox import SandboxFactory, SandboxLimits
from toolrl.types import Episode, Score, Task

_ATTEMPTS = 2  # at grading, if a sandbox fails


def suite_of(task: Task) -> CodeSuite:
    """The tests of a task: `metadata["tests"]`, as `CodeSuite.to_dict` writes them.

    Raises:
        TaskError: The tests are broken.
        KeyError: The task has no tests.
    """
    return CodeSuite.from_dict(task.metadata["tests"])


def code_reward(
    tests: Callable[[Task], CodeSuite] = suite_of,
    *,
    partial: bool = False,
    call_cost: float = 0.0,
    test_seconds: float = TEST_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
    limits: SandboxLimits = LIMITS,
    sandbox: str | SandboxFactory = "local",
) -> Callable[[Task, Episode], Score]:
    """Make a reward: 1 for a program that passes all tests, minus a cost per tool call; 0 for anything else.

    The program's process receives only inputs, and its return values are compared outside; nothing that it prints,
    raises or exits with is a verdict. `parts` has `correct`, `answered`, the shares of `visible` and `hidden` tests
    passed, their difference `gap`, and `hack`: whether the program or its run shows a sign of reward hacking (see
    `find_hacks`), which does not change the value. A sandbox that fails leaves the episode unscored.

    Args:
        tests: Returns the tests of a task.
        partial: Whether a program that fails hidden tests earns half the share that it passes; a right program always
            earns more. Visible tests earn nothing.
        call_cost: Deducted from a right answer for each tool call; see `with_call_cost`.
        test_seconds: Wall-clock limit of one test.
        total_seconds: Wall-clock limit of all tests of an answer; tests beyond it fail.
        limits: Limits of the program, except its time.
        sandbox: Name of a registered backend, or a factory called with the limits.

    Raises:
        ConfigError: `call_cost` is negative, or a time limit is not positive.
    """
    check_call_cost(call_cost)
    for name, seconds in (("test_seconds", test_seconds), ("total_seconds", total_seconds)):
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ConfigError(f"{name} must be positive and finite, got {seconds!r}")

    def attempt(code: str, suite: CodeSuite) -> SuiteOutcome:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return grade_code(
                    code, suite, sandbox=sandbox, limits=limits, test_seconds=test_seconds, total_seconds=total_seconds
                )
            except SandboxFault:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def reward(task: Task, episode: Episode) -> Score:
        suite, code = tests(task), find_code(episode.answer)
        if code is None:
            reason = "no final message" if episode.answer is None else "no single block of Python in it"
            return Score(0.0, {**_parts((), ()), "answered": 0.0}, None, reason)
        try:
            grading = attempt(code, suite)
        except (SandboxFault, UngradableTest) as error:
            return Score(None, {}, code, f"the grader failed: {error}")
        parts = _parts(grading.visible, grading.hidden)
        is_program = all(isinstance(test, StdioTest) for test in suite.hidden)
        hacks = [str(hack) for hack in find_hacks(code, suite.visible, is_program=is_program)]
        hacks += ["exit: it ended its process"] * any(test.ended for test in (*grading.visible, *grading.hidden))
        parts |= {"correct": float(grading.passed), "answered": 1.0, "hack": float(bool(hacks))}
        value = 1.0 if grading.passed else FLOOR * parts["hidden"] if partial else 0.0
        reason = "; ".join(["right" if grading.passed else _what_failed(grading), *hacks[:3]])
        score = Score(value, parts, code, reason)
        return with_call_cost(score, episode, call_cost) if grading.passed else score

    return reward


def _parts(visible: Sequence[TestOutcome], hidden: Sequence[TestOutcome]) -> dict[str, float]:
    parts = {"correct": 0.0, "hack": 0.0, "hidden": _share(hidden)}
    if visible:
        parts["visible"] = _share(visible)
        parts["gap"] = parts["visible"] - parts["hidden"]
    return parts


def _share(outcomes: Sequence[TestOutcome]) -> float:
    return sum(outcome.passed for outcome in outcomes) / len(outcomes) if outcomes else 0.0


def _what_failed(grading: SuiteOutcome) -> str:
    failed = [outcome.reason for outcome in (*grading.visible, *grading.hidden) if not outcome.passed]
    count = sum(not outcome.passed for outcome in grading.hidden)
    return f"{count} of {len(grading.hidden)} hidden tests failed, first: {failed[0]}"
