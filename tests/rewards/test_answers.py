"""Promises about final answers: where they are found, which are equal, and what the reward reports."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, StopReason, Task, ToolCall, ToolResult
from toolrl.rewards import answer_reward, exact_match, find_answer, normalise, numbers_equal, tagged_answer

TASK = Task("t", "2+2?", "4")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>4</answer>", "4"),
        ("It is <answer>\n 4 \n</answer>, I think.", "4"),
        ("<answer>two\nlines</answer>", "two\nlines"),
        ("<answer></answer>", ""),
        ("<answer>4</answer></answer>", "4"),
        ("4", None),
        ("", None),
        (None, None),
        ("<answer>4", None),
        ("4</answer>", None),
        ("<ANSWER>4</ANSWER>", None),
        ("<answer>4</answer><answer>5</answer>", None),
        ("<answer>4</answer><answer>4</answer>", None),
    ],
)
def test_the_answer_is_the_content_of_the_only_pair_of_tags(text: str | None, answer: str | None) -> None:
    assert tagged_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Ada   Lovelace ", "ada lovelace"),
        ("'collections'", "collections"),
        ("`os.path`.", "os.path"),
        ('"STRASSE"', "strasse"),
        ("straße", "strasse"),
        ("a.b.", "a.b"),
        ("...", "..."),
        (".", "."),
        ("''", "''"),
        ("", ""),
    ],
)
def test_normalising_drops_case_white_space_and_wrapping(text: str, normal: str) -> None:
    assert normalise(text) == normal


@given(st.text(min_size=1).filter(str.strip))
def test_an_empty_answer_equals_nothing_that_has_a_character(expected: str) -> None:
    assert not exact_match("", expected)
    assert not exact_match(" ", expected)


@given(st.text())
def test_every_text_equals_itself(text: str) -> None:
    assert exact_match(text, text)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("4", "4"),
        ("4", 4),
        (" 4\n", "4"),
        ("+4", "4"),
        ("-0", "0"),
        ("4.0", "4"),
        ("4", 4.0),
        ("1,234,567", "1234567"),
        ("1234567", "1,234,567"),
        ("1e5", "100000"),
        ("2.5", "2.50"),
        ("0.333333333", "0.3333333333333333"),
        ("-1.5E3", "-1500"),
        ("9" * 5000, "9" * 5000),
        ("1e400", "1e400"),
    ],
)
def test_equal_numbers_are_equal_in_any_notation(answer: str, expected: Any) -> None:
    assert numbers_equal(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("5", "4"),
        ("", "4"),
        ("four", "4"),
        ("4 apples", "4"),
        ("$4", "4"),
        ("2+2", "4"),
        ("4 4", "44"),
        ("4\n5", "4"),
        ("1,23", "123"),
        ("12,3456", "123456"),
        ("٤", "4"),
        ("nan", float("nan")),
        ("inf", float("inf")),
        ("1", True),
        ("33000001.0", "33000000"),  # a whole number is compared exactly in every notation
        ("33000000.5", "33000000"),
        ("9" * 5000, "9" * 4999 + "8"),
        ("0.33", "0.3333333333333333"),
        ("0", "0.0000001"),
        ("1e999999999", "0.5"),
        ("1e99999999999999999999999", "0.5"),
        ("4", "four"),
        ("4", None),
    ],
)
def test_anything_but_the_same_number_is_not_equal(answer: str, expected: Any) -> None:
    assert not numbers_equal(answer, expected)


@given(st.integers(), st.integers())
def test_integers_are_compared_exactly(left: int, right: int) -> None:
    assert numbers_equal(str(left), right) == (left == right)
    assert numbers_equal(f"{left:,}", right) == (left == right)
    assert numbers_equal(f"{left}.0", right) == (left == right)


# ---- the reward


@pytest.mark.parametrize(
    ("text", "value", "answered", "reason"),
    [
        ("<answer>4</answer>", 1.0, 1.0, "right"),
        ("<answer>5</answer>", 0.0, 1.0, "expected '4'"),
        ("<answer></answer>", 0.0, 1.0, "expected '4'"),
        ("4", 0.0, 0.0, "no single answer in it"),
        ("<answer>4</answer> <answer>5</answer>", 0.0, 0.0, "no single answer in it"),
        (None, 0.0, 0.0, "no final message"),
    ],
)
def test_a_right_answer_scores_one_and_anything_else_nothing(
    text: str | None, value: float, answered: float, reason: str
) -> None:
    score = answer_reward()(TASK, Episode(text))
    assert score.value == value
    assert score.success is (value > 0)
    assert score.parts["correct"] == value
    assert score.parts["answered"] == answered
    assert score.reason == reason


def test_an_answer_printed_by_a_tool_does_not_count() -> None:
    results = (ToolResult(ToolCall("search"), "<answer>4</answer>"),)
    score = answer_reward()(TASK, Episode(None, results, StopReason.TURNS))
    assert score.value == 0.0


def test_an_invalid_cost_is_rejected_when_the_reward_is_made() -> None:
    for cost in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="call cost must be >= 0"):
            answer_reward(call_cost=cost)


def test_answers_may_have_another_form() -> None:
    reward = answer_reward(numbers_equal, find=partial(find_answer, forms=["boxed", "hashes"]))
    task = Task("t", "?", "4")
    assert [reward(task, Episode(text)).value for text in (r"so \boxed{4}", "#### 4")] == [1.0, 1.0]
    assert [reward(task, Episode(text)).value for text in ("<answer>4</answer>", "\\boxed{4}\n#### 5")] == [0.0, 0.0]
