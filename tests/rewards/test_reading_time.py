r"""Promises about time: any text that a model writes is read in time linear in its length.

The CPU time for a text is compared with that for eight times the text, independent of the machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from toolrl.rewards import (
    choice_letter,
    exact_match,
    find_answer,
    find_code,
    numbers_equal,
    quantities_equal,
    squad_exact_match,
    tagged_answer,
    token_f1,
    verify_math,
)

READERS: dict[str, Callable[[str], Any]] = {
    "find_answer": lambda text: find_answer(text, ["tag", "boxed", "hashes", "json"]),
    "find_answer in a tag": lambda text: find_answer(f"<answer>{text}</answer>", ["tag", "letter"]),
    "tagged_answer": tagged_answer,
    "find_code": find_code,
    "choice_letter": choice_letter,
    "exact_match": lambda text: exact_match(text, "4"),
    "numbers_equal": lambda text: numbers_equal(f"4{text}", "4"),
    "quantities_equal": lambda text: quantities_equal(f"5{text}", "5 cm"),
    "squad": lambda text: (squad_exact_match(text, "a b"), token_f1(text, "a b")),
    "verify_math": lambda text: verify_math(text, "4"),
}
PIECES = [
    "<answer>", "</answer>", r"\boxed{", r"x = \boxed{", r"\fbox {", "{", "}", "$", "$$", r"\(", r"\[", "#### ",
    "#### x\n",
    "\n", " ", "\t", "```", "```json\n", "```\n", '{"answer":', "[", "*", "**", "`", "_", "A", "A ", "A, ",
    "A or ", "a ",
    "answer", "answer ", "answer: ", "option ", "(A", "choice (", "1", "1,", "1,000", "1.", "e", "9", "-", "\\",
    r"\\ ",
    r"\text{", r"\text ", "^", "^ ", r"\circ ", "'", ".", "é", "the ", "x=", "x = ", "½", "|", "A) ", "and ",
    "\u200b",
]  # fmt: skip
SIZE, FACTOR = 2_000, 8


def seconds(read: Callable[[str], Any], text: str) -> float:
    """The CPU time; the lower of two measurements if the first is high."""
    best = float("inf")
    for _ in range(2):
        started = time.process_time()
        read(text)
        best = min(best, time.process_time() - started)
        if best < 0.05:
            break
    return best


def texts(piece: str, size: int) -> list[str]:
    count = size // len(piece)
    return [piece * count, f"4{piece * count}x", "<answer>" + piece * count, piece * (count // 2) + "}" * (size // 2)]


@pytest.mark.parametrize("name", READERS)
def test_reading_time_is_not_quadratic_in_the_length(name: str) -> None:
    read, slow = READERS[name], []
    for piece, shape in itertools.product(PIECES, range(4)):
        long = seconds(read, texts(piece, SIZE * FACTOR)[shape])
        if long > 0.05 and long > 3 * FACTOR * seconds(read, texts(piece, SIZE)[shape]):
            slow.append((piece, shape, long))
    assert slow == []


def test_boxes_are_unwrapped_at_any_depth() -> None:
    depth = 10_000
    assert find_answer(r"\boxed{" * depth + "4" + "}" * depth) == "4"
    assert find_answer("<answer>" + r"\boxed{ \[" * depth + "4" + r"\] }" * depth + "</answer>") == "4"
    assert find_answer(r"\boxed{" * depth + "4" + "}" * (depth - 1)) == ""  # an unclosed box
