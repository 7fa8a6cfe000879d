"""Promises about the records that travel through an episode."""

from __future__ import annotations

import dataclasses
import json
import math
from fractions import Fraction
from typing import Any

import numpy
import pytest

from toolrl import (
    Episode,
    Limits,
    Message,
    Sample,
    Score,
    StopReason,
    Task,
    TaskError,
    ToolCall,
    ToolFailure,
    ToolResult,
)


@pytest.mark.parametrize(
    "record",
    [Task("t", "p"), ToolCall("f"), Message("user", "hi"), Sample([1], [0.0]), Limits(), Score(1.0), Episode("a")],
    ids=lambda record: type(record).__name__,
)
def test_a_record_cannot_be_changed(record: Any) -> None:
    field = dataclasses.fields(record)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, "other")


def test_a_sample_has_one_logprob_for_each_token() -> None:
    with pytest.raises(ValueError, match="2 token ids but 1 logprobs"):
        Sample([1, 2], [0.0])


@pytest.mark.parametrize(
    "limits",
    [
        {"turns": 0},
        {"completion_tokens": -1},
        {"turn_tokens": 0},
        {"reward_seconds": 0.0},
        {"reward_seconds": math.nan},
    ],
    ids=str,
)
def test_a_limit_that_lets_nothing_happen_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"Limits\.{next(iter(limits))} must be positive"):
        Limits(**limits)


def test_an_episode_may_be_limited_to_no_tool_calls_at_all() -> None:
    assert Limits(tool_calls=0).tool_calls == 0
    with pytest.raises(ValueError, match=r"Limits\.tool_calls must not be negative, got -1"):
        Limits(tool_calls=-1)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match=r"Score\.value must be finite"):
        Score(number)
    with pytest.raises(ValueError, match=r"Score\.parts\['speed'\] must be finite"):
        Score(1.0, {"speed": number})
    with pytest.raises(ValueError, match=r"Score\.value must be finite"):
        Score(number, {"value": 1.0})  # a part named "value" hides nothing


def test_success_is_the_part_named_correct_or_else_the_sign_of_the_value() -> None:
    assert Score(0.3, {"correct": 1.0}).success is True
    assert Score(0.3, {"correct": 0.0}).success is False
    assert Score(0.3).success is True
    assert Score(0.0).success is False
    assert Score(None, {"correct": 1.0}).success is None


def test_only_limits_truncate() -> None:
    assert {reason for reason in StopReason if reason.truncated} == {
        StopReason.TURNS,
        StopReason.TOKENS,
    }


def test_failed_calls_count_as_tool_calls() -> None:
    results = (ToolResult(ToolCall("f"), "1"), ToolResult(ToolCall(""), "error", ToolFailure.MALFORMED))
    assert Episode("a", results).tool_calls == 2


def test_messages_have_the_form_that_chat_templates_expect() -> None:
    call = ToolCall("f", {"x": 1}, id="call_1_0", raw="as sampled")
    assert Message("assistant", "so", (call,)).to_dict() == {
        "role": "assistant",
        "content": "so",
        "tool_calls": [{"type": "function", "id": "call_1_0", "function": {"name": "f", "arguments": {"x": 1}}}],
    }
    assert Message("tool", "2", name="f", tool_call_id="call_1_0").to_dict() == {
        "role": "tool",
        "content": "2",
        "name": "f",
        "tool_call_id": "call_1_0",
    }
    assert Message("user", "hi").to_dict() == {"role": "user", "content": "hi"}


# ---- wrong types, where they enter


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "p"), "id must be non-empty text, got 0 \\(int\\); write Task\\(str"),
        (("", "p"), "id must be non-empty text, got '' \\(str\\)"),
        ((None, "p"), "id must be non-empty text, got None"),
        (("t", None), "the prompt must be text, got None"),
        (("t", 5), "the prompt must be text, got 5 \\(int\\)"),
        (("t", b"p"), "the prompt must be text"),
        (("t", [Message("user", "p")]), "the prompt must be text.*it is one user message"),
        (("t", {"role": "user"}), "the prompt must be text.*it is one user message"),
        (("t", "p", "a", None), "metadata must be a mapping"),
        (("t", "p", "a", [("a", 1)]), "metadata must be a mapping"),
        (("t", "p", "a", {1: "one"}), "metadata must be a mapping with text keys"),
        (("t", "p\ud800"), "the prompt of task 't' has a lone surrogate at 1"),
        (("t\udfff", "p"), "the id of task .* has a lone surrogate"),
    ],
)
def test_a_task_with_a_field_of_the_wrong_type_is_refused_when_it_is_made(
    arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        Task(*arguments)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": "1"}, r"Score.value must be a number, got '1' \(str\)"),
        ({"value": [1.0]}, r"Score.value must be a number"),
        ({"value": 1 + 2j}, r"Score.value must be a number"),
        ({"value": 1.0, "answer": 42}, r"Score.answer must be text or None, got 42 \(int\); write answer=str"),
        ({"value": 1.0, "reason": None}, r"Score.reason must be text, got None"),
        ({"value": 1.0, "parts": {1: 1.0}}, r"Score.parts must map names"),
        ({"value": 1.0, "parts": [("a", 1.0)]}, r"Score.parts must map names"),
        ({"value": 1.0, "parts": {"a": "b"}}, r"Score.parts\['a'\] must be a number, got 'b'"),
    ],
)
def test_a_score_with_a_field_of_the_wrong_type_is_refused_when_it_is_made(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        Score(**fields)


def test_numbers_of_other_libraries_become_floats() -> None:
    score = Score(numpy.float32(0.5), {"a": numpy.int64(3), "b": True, "c": Fraction(1, 4)})
    assert json.dumps([score.value, score.parts]) == '[0.5, {"a": 3.0, "b": 1.0, "c": 0.25}]'
    with pytest.raises(ValueError, match=r"Score.value must be finite"):
        Score(10**400)
    with pytest.raises(ValueError, match=r"Score.value must be finite, got a huge number"):
        Score(10**5000)
