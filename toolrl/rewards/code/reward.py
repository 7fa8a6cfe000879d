"""Code as an answer: found in the final message, graded by hidden tests that it never sees."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from toolrl.errors import ConfigError, SandboxFault
from toolrl.rewards.code.grading import (
    LIMITS,
    TEST_SECONDS,
    TOTAL_SECONDS,
    Grading,
    LiveObjectsNeeded,
    TestOutcome,
    grade,
)
from toolrl.rewards.code.hacks import find_hacks
from toolrl.rewards.code.suite import CodeSuite, StdioTest
from toolrl.rewards.economy import FLOOR, check_call_cost, with_call_cost
from toolrl.rewards.fences import fenced_blocks
from toolrl.sandbox import SandboxFactory, SandboxLimits
from toolrl.types import Episode, Score, Task

_OPENING, _CLOSING = "<answer>", "</answer>"
_PYTHON = ("python", "python3", "py", "py3", "ipython")
_ATTEMPTS = 2  # of grading, where a sandbox fails


def extract_code(text: str | None) -> str | None:
    """The one program of the final message: a block fenced as Python, or what stands in `<answer>...</answer>`.

    A block without a label is a program only if none is labelled as Python: else it is taken for sample output.

    Returns:
        None if there is none, or more than one: a list of guesses is not an answer.
    """
    text = text or ""
    blocks = fenced_blocks(text)
    answers, position = [], 0
    while (start := text.find(_OPENING, position)) >= 0 and (end := text.find(_CLOSING, start)) >= 0:
        position = end + len(_CLOSING)
        if not any(block.start < start < block.end for block in blocks):  # a tag that a program writes
            answers.append((start, end))
    if len(answers) > 1:
        return None
    content = ""
    for start, end in answers:
        content = text[start + len(_OPENING) : end]
        text = f"{text[:start]}\n{text[end + len(_CLOSING) :]}"
    outside, inside = _programs(text), _programs(content)
    if len(answers) + len(outside) != 1 or len(inside) > 1:
        return None
    return [*outside, *inside, content.strip("\n")][0]


def _programs(text: str) -> list[str]:
    blocks = fenced_blocks(text)
    labelled = [block.content for block in blocks if block.label in _PYTHON]
    return labelled or [block.content for block in blocks if not block.label]


def suite_of(task: Task) -> CodeSuite:
    """The tests of a task: `metadata["tests"]`, as `CodeSuite.to_dict` writes them.

    Raises:
        TaskError: They are broken.
        KeyError: There are none.
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
    """Make a reward: 1 for a program that passes all tests, less a cost per tool call; 0 for anything else.

    The program's process gets inputs only. What it prints, raises or exits with is no verdict, and what it returns is
    compared here. `parts` has `correct`, `answered`, the shares of `visible` and `hidden` tests passed, their
    difference `gap`, and `hack`: whether the program, or how it ran, shows a trick (see `find_hacks`), which does not
    change the value. A sandbox that fails leaves the episode unscored.

    Args:
        tests: Finds the tests of a task.
        partial: Whether a program that fails some hidden tests earns the share that it passes, halved, so that a right
            one always earns more; visible tests earn nothing.
        call_cost: Taken off a right answer for each tool call; see `with_call_cost`.
        test_seconds: Wall-clock time of one test.
        total_seconds: Of all tests of an answer; those that come too late have failed.
        limits: Of the program, but for its time.
        sandbox: Name of a registered backend, or a factory called with the limits.

    Raises:
        ConfigError: `call_cost` is negative, or a time not positive.
    """
    check_call_cost(call_cost)
    for name, seconds in (("test_seconds", test_seconds), ("total_seconds", total_seconds)):
        if not (seconds > 0 and math.isfinite(seconds)):
            raise ConfigError(f"{name} must be positive and finite, got {seconds!r}")

    def attempt(code: str, suite: CodeSuite) -> Grading:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return grade(
                    code, suite, sandbox=sandbox, limits=limits, test_seconds=test_seconds, total_seconds=total_seconds
                )
            except SandboxFault:
                if not left:
                    raise
        raise AssertionError("unreachable")

    def reward(task: Task, episode: Episode) -> Score:
        suite, code = tests(task), extract_code(episode.answer)
        if code is None:
            reason = "no final message" if episode.answer is None else "no single block of Python in it"
            return Score(0.0, {**_parts((), ()), "answered": 0.0}, None, reason)
        try:
            grading = attempt(code, suite)
        except (SandboxFault, LiveObjectsNeeded) as error:
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


def _what_failed(grading: Grading) -> str:
    failed = [outcome.reason for outcome in (*grading.visible, *grading.hidden) if not outcome.passed]
    count = sum(not outcome.passed for outcome in grading.hidden)
    return f"{count} of {len(grading.hidden)} hidden tests failed, first: {failed[0]}"
