"""Problems for `python_math`: a generator, and a reader for GSM8K- and MATH-style data sets.

A generated problem is a kind, operands and a wording. The splits share no problem, but the same operands may occur in
both, worded differently.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolrl import ConfigError, Task, TaskError, TaskSet, is_held_out
from toolrl_envs.common import Split, check_split, task_id


@dataclass(frozen=True)
class Kind:
    """A family of problems.

    Attributes:
        name: The name, for metrics.
        needs_tool: Whether it is too hard without a computer.
        wordings: Templates of the prompt, with `{a}` and `{b}`.
        draw: Draws the operands.
        code: A Python expression for the answer, with `{a}` and `{b}`.
    """

    name: str
    needs_tool: bool
    wordings: tuple[str, ...]
    draw: Callable[[random.Random], tuple[int, int]]
    code: str


def _pair(low_a: int, high_a: int, low_b: int, high_b: int) -> Callable[[random.Random], tuple[int, int]]:
    return lambda rng: (rng.randint(low_a, high_a), rng.randint(low_b, high_b))


def _descending(low: int, high: int) -> Callable[[random.Random], tuple[int, int]]:
    def draw(rng: random.Random) -> tuple[int, int]:
        a, b = rng.randint(low, high), rng.randint(low, high)
        return max(a, b), min(a, b)

    return draw


# Easy and hard sums, differences and products share their wordings: only the numbers tell them apart.
_SUM = (
    "What is {a} + {b}?",
    "Compute {a} + {b}.",
    "Add {a} and {b}.",
    "What is {a} plus {b}?",
    "Sum of {a} and {b}?",
    "Calculate {a} + {b}.",
    "What do {a} and {b} add up to?",
    "How much is {a} + {b}?",
)
_DIFFERENCE = (
    "What is {a} - {b}?",
    "Compute {a} - {b}.",
    "Take {b} from {a}.",
    "What is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "Calculate {a} - {b}.",
    "How much is {a} - {b}?",
)
_PRODUCT = (
    "What is {a} * {b}?",
    "Compute {a} * {b}.",
    "Multiply {a} by {b}.",
    "What is {a} times {b}?",
    "Product of {a} and {b}?",
    "Calculate {a} * {b}.",
    "How much is {a} * {b}?",
)

EASY = (
    Kind("add", False, _SUM, _pair(0, 9, 0, 9), "{a}+{b}"),
    Kind("subtract", False, _DIFFERENCE, _descending(0, 9), "{a}-{b}"),
    Kind("multiply", False, _PRODUCT, _pair(0, 9, 0, 9), "{a}*{b}"),
    Kind(
        "larger",
        False,
        ("Which is larger, {a} or {b}?", "Maximum of {a} and {b}?", "Name the larger of {a} and {b}."),
        _pair(0, 9, 0, 9),
        "max({a},{b})",
    ),
    Kind(
        "smaller",
        False,
        ("Which is smaller, {a} or {b}?", "Minimum of {a} and {b}?", "Name the smaller of {a} and {b}."),
        _pair(0, 9, 0, 9),
        "min({a},{b})",
    ),
    Kind("plus_zero", False, _SUM, _pair(100, 9999, 0, 0), "{a}+{b}"),
    Kind("times_one", False, _PRODUCT, _pair(100, 9999, 1, 1), "{a}*{b}"),
)

HARD = (
    Kind("long_sum", True, _SUM, _pair(100, 9999, 100, 9999), "{a}+{b}"),
    Kind("long_difference", True, _DIFFERENCE, _descending(100, 9999), "{a}-{b}"),
    Kind("product", True, _PRODUCT, _pair(100, 9999, 100, 9999), "{a}*{b}"),
    Kind(
        "remainder",
        True,
        ("What is {a} % {b}?", "What is the remainder of {a} divided by {b}?", "Compute {a} modulo {b}."),
        _pair(10_000, 999_999, 11, 999),
        "{a}%{b}",
    ),
    Kind(
        "power",
        True,
        ("What is {a} ** {b}?", "Compute {a} to the power of {b}.", "Raise {a} to the power of {b}."),
        _pair(12, 99, 3, 5),
        "{a}**{b}",
    ),
    Kind(
        "range_sum",
        True,
        ("Sum the integers from {a} to {b}.", "What is the sum of all integers from {a} to {b}?"),
        _pair(11, 99, 1000, 9999),
        "sum(range({a},{b}+1))",
    ),
    Kind(
        "gcd",
        True,
        ("What is the greatest common divisor of {a} and {b}?", "Compute the gcd of {a} and {b}."),
        lambda rng: (lambda g: (g * rng.randint(12, 99), g * rng.randint(12, 99)))(rng.randint(12, 99)),
        "__import__('math').gcd({a},{b})",
    ),
    Kind(
        "digit_sum",
        True,
        ("What is the digit sum of {a} * {b}?", "Compute the sum of the digits of {a} * {b}."),
        _pair(100, 9999, 100, 9999),
        "sum(map(int,str({a}*{b})))",
    ),
)


def make_tasks(split: Split, size: int, seed: int, easy_share: float) -> TaskSet:
    """Draw `size` distinct problems.

    Args:
        split: "train" or "test".
        size: Number of tasks; the result has fewer if there are not enough easy ones.
        seed: Fixes the draw.
        easy_share: Fraction of problems that need no tool.

    Raises:
        ConfigError: A setting is out of range.
    """
    check_split(split, size)
    if not 0 <= easy_share <= 1:
        raise ConfigError(f"easy_share must be from 0 to 1, got {easy_share!r}")
    rng = random.Random(f"{split}/{seed}")
    easy: dict[str, Task] = {}
    hard: dict[str, Task] = {}
    wanted_easy = round(size * easy_share)
    for pool, kinds, wanted in ((easy, EASY, wanted_easy), (hard, HARD, size - wanted_easy)):
        # The number of easy problems is limited: give up after many draws.
        for _ in range(200 * wanted):
            if len(pool) == wanted:
                break
            kind = rng.choice(kinds)
            a, b = kind.draw(rng)
            prompt = rng.choice(kind.wordings).format(a=a, b=b)
            if is_held_out(prompt) == (split == "test") and prompt not in pool:
                pool[prompt] = _task(kind, a, b, prompt)
    tasks = [*easy.values(), *hard.values()]
    rng.shuffle(tasks)
    return TaskSet(tasks)


def _task(kind: Kind, a: int, b: int, prompt: str) -> Task:
    code = kind.code.format(a=a, b=b)
    answer = eval(code, {"math": math})  # safe: our own template with numbers
    return Task(
        task_id(kind.name, prompt), prompt, str(answer), {"code": code}, kind=kind.name, needs_tool=kind.needs_tool
    )


def read_task(row: dict[str, Any], key: str) -> Task:
    """Read a row of a GSM8K-style (`question`, `answer` with `####`) or MATH-style data set (`problem`, `solution`).

    Plain rows with `prompt` (or `question`, `problem`) and `answer` work too. A null field counts as missing.

    Raises:
        KeyError: The problem is missing, or both the answer and the solution are.
        TaskError: The solution marks no answer.
    """
    prompt = row[next((name for name in ("problem", "prompt") if row.get(name) is not None), "question")]
    has_answer = row.get("answer") is not None
    text = str(row["answer"] if has_answer else row["solution"])
    if "####" in text:
        answer = text.rsplit("####", 1)[1].strip().replace(",", "")
    elif (boxed := last_boxed(text)) is not None:
        answer = boxed
    elif has_answer:
        answer = text.strip()
    else:
        raise TaskError(f"the solution has neither '####' nor \\boxed{{}}: {text[-80:]!r}")
    return Task(key if row.get("id") is None else str(row["id"]), prompt, answer, kind="read", needs_tool=True)


def last_boxed(text: str) -> str | None:
    r"""The content of the last `\boxed{...}`, with balanced braces; None without one."""
    starts = [match.end() for match in re.finditer(r"\\boxed\s*\{", text)]
    if not starts:
        return None
    depth = 1
    for position in range(starts[-1], len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return text[starts[-1] : position].strip()
    return None
