"""Promises about the records that travel through an episode."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from toolrl import Episode, Limits, Message, Sample, Score, StopReason, Task, ToolCall, ToolFailure, ToolResult


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
        Score(number, {"value": 1.0})  # a part of that name hides nothing


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
