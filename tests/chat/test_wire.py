"""Promises about messages on the wire: a round trip loses nothing, and a malformed call is a value."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import Message, ToolCall
from toolrl.chat.wire import from_wire, to_wire

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
calls = st.builds(
    ToolCall, st.text(min_size=1), st.dictionaries(st.text(), json_values, max_size=3), st.text(min_size=1)
)
messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "user"]), st.text()),
    st.builds(Message, st.just("assistant"), st.text(), st.lists(calls, max_size=3).map(tuple)),
)


def plain(message: Message) -> tuple[Any, ...]:
    return message.role, message.content, [(call.name, call.arguments, call.id) for call in message.tool_calls]


@given(messages)
def test_a_message_comes_back_from_either_form(message: Message) -> None:
    for wire in (to_wire(message), message.to_dict()):
        read = from_wire(json.loads(json.dumps(wire)))
        assert plain(read) == plain(message)
        assert all(call.error is None for call in read.tool_calls)


def test_an_observation_keeps_the_id_of_its_call() -> None:
    message = Message("tool", "4", name="python", tool_call_id="c0")
    assert from_wire(message.to_dict()) == message
    assert to_wire(message) == {"role": "tool", "content": "4", "tool_call_id": "c0"}


def test_thinking_is_read_and_not_sent_back() -> None:
    for name in ("reasoning_content", "reasoning"):
        read = from_wire({"role": "assistant", "content": "4", name: "2 and 2"})
        assert (read.thinking, read.content) == ("2 and 2", "4")
        assert "2 and 2" not in json.dumps(to_wire(read))


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ({"name": "f", "arguments": '{"a": 1'}, "the arguments are not valid JSON"),
        ({"name": "f", "arguments": "[" * 100_000}, "the arguments are not valid JSON"),
        ({"name": "f", "arguments": "[1]"}, r"the arguments must be a JSON object, got \[1\]"),
        ({"name": "f", "arguments": "7"}, "the arguments must be a JSON object, got 7"),
        ({"name": "", "arguments": "{}"}, "the tool call has no name"),
        ({"arguments": "{}"}, "the tool call has no name"),
    ],
    ids=range(6),
)
def test_a_malformed_call_is_a_value(function: dict[str, Any], error: str) -> None:
    read = from_wire({"role": "assistant", "content": None, "tool_calls": [{"id": "c", "function": function}]})
    (call,) = read.tool_calls
    assert call.error is not None
    assert re.search(error, call.error)
    assert len(call.error) < 400
    assert json.loads(to_wire(read)["tool_calls"][0]["function"]["arguments"]) == {}


def test_missing_arguments_are_an_empty_object() -> None:
    for arguments in ("", "{}", None, {}):
        wire = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}
        assert from_wire(wire).tool_calls[0].arguments == {}
        assert from_wire(wire).tool_calls[0].error is None


@pytest.mark.parametrize(
    "wire",
    [None, "hello", {}, {"role": "robot"}, {"role": "assistant", "content": 7}, {"role": "assistant", "tool_calls": 1},
     {"role": "assistant", "tool_calls": ["f"]}, {"role": "assistant", "tool_calls": [{"function": None}]}],
)  # fmt: skip
def test_anything_that_is_not_a_message_is_refused(wire: Any) -> None:
    with pytest.raises(ValueError, match=r"message|tool call"):
        from_wire(wire)


def test_content_in_parts_and_a_refusal_are_text() -> None:
    assert from_wire({"role": "user", "content": [{"type": "text", "text": "a"}, {"text": "b"}]}).content == "ab"
    assert from_wire({"role": "assistant", "content": None, "refusal": "no"}).content == "no"
