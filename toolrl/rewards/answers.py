"""Final answers compared with the expected value."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from toolrl.rewards.economy import check_call_cost, with_call_cost
from toolrl.rewards.extraction import tagged_answer
from toolrl.types import Episode, Score, Task

_number = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?", re.ASCII)


def normalise(text: str) -> str:
    """Lower the case, collapse white space, and strip surrounding quotes, backticks and a final period.

    A text that consists of nothing else is kept as it is.
    """
    text = " ".join(text.split())
    bare = text.rstrip(".").strip("`'\"").strip()
    return (bare or text).casefold()  # "..." is an answer, not an empty one


def exact_match(answer: str, expected: Any) -> bool:
    """Whether two texts are equal after `normalise`."""
    return normalise(answer) == normalise(str(expected))


def numbers_equal(answer: str, expected: Any, tolerance: float = 1e-6) -> bool:
    """Whether `answer` is a plain number equal to `expected`.

    Thousands separators are allowed; other text around the number is not. Whole numbers are compared exactly.

    Args:
        answer: The answer as text.
        expected: A number, or a number as text.
        tolerance: Relative; used only if `expected` is not a whole number.
    """
    expected_text = str(expected).strip()
    answer = answer.strip()
    if not (_number.fullmatch(answer) and _number.fullmatch(expected_text)):
        return False
    answer, expected_text = answer.replace(",", ""), expected_text.replace(",", "")
    try:
        given, wanted = Decimal(answer), Decimal(expected_text)
    except InvalidOperation:  # an exponent with many digits
        return False
    if wanted == wanted.to_integral_value():
        return given == wanted
    return math.isclose(given, wanted, rel_tol=tolerance)


def answer_reward(
    equal: Callable[[str, Any], bool] = exact_match,
    *,
    call_cost: float = 0.0,
    find: Callable[[str | None], str | None] = tagged_answer,
) -> Callable[[Task, Episode], Score]:
    """Make a reward: 1 for the right answer, minus a cost per tool call; 0 for anything else.

    Args:
        equal: Compares the extracted answer with `task.answer`.
        call_cost: Deducted from a right answer for each tool call; see `with_call_cost`.
        find: Finds the one answer in the final message, by default the content of `<answer>`. For other forms, pass
            `functools.partial(find_answer, forms=["boxed"])`.

    Raises:
        ConfigError: `call_cost` is negative.
    """
    check_call_cost(call_cost)

    def reward(task: Task, episode: Episode) -> Score:
        answer = find(episode.answer)
        if answer is None:
            reason = "no final message" if episode.answer is None else "no single answer in it"
            return Score(0.0, {"correct": 0.0, "answered": 0.0}, None, reason)
        correct = equal(answer, task.answer)
        parts = {"correct": float(correct), "answered": 1.0}
        reason = "right" if correct else f"expected {task.answer!r}"
        return with_call_cost(Score(float(correct), parts, answer, reason), episode, call_cost)

    return reward
