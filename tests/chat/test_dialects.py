"""Promises about the Hermes dialect: a turn is read, or reported as malformed, and never raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import Message, ToolCall
from toolrl.chat import HermesDialect
from toolrl.chat.dialects.foreign import find_mark

HERMES = HermesDialect()

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
contents = texts.map(str.strip).filter(lambda text: "tool_call>" not in text and not find_mark(text))
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda children: st.lists(children, max_size=3) | st.dictionaries(texts, children, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    ToolCall,
    texts.filter(bool),
    st.dictionaries(texts | st.sampled_from(["<tool_call>", "</tool_call>"]), json_values, max_size=3),
)
FRAGMENTS = ["<tool_call>", "</tool_call>", '{"name": "f"', ', "arguments": {}', "}", "\n", "text", "<tool_", "call>"]


def meaning(message: Message) -> tuple[str, list[tuple[str, dict[str, Any], str | None]]]:
    return message.content, [(call.name, dict(call.arguments), call.error) for call in message.tool_calls]


# ---- round trips


@given(contents, st.lists(calls, max_size=3))
def test_reading_inverts_writing(content: str, tool_calls: list[ToolCall]) -> None:
    message = Message("assistant", content, tuple(tool_calls))
    assert meaning(HERMES.parse(HERMES.format(message))) == meaning(message)


@pytest.mark.parametrize("tag", ["<tool_call>", "</tool_call>"])
def test_arguments_may_contain_the_tags_themselves(tag: str) -> None:
    message = Message("assistant", "", (ToolCall("python", {"code": f"print('{tag}')"}),))
    assert meaning(HERMES.parse(HERMES.format(message))) == meaning(message)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_nothing_a_model_writes_raises_and_a_second_reading_agrees(text: str) -> None:
    message = HERMES.parse(text)
    assert all((call.error is None) == bool(call.name) for call in message.tool_calls)
    assert all(call.raw in text for call in message.tool_calls)
    if not any(call.error for call in message.tool_calls) and "tool_call>" not in message.content:
        assert meaning(HERMES.parse(HERMES.format(message))) == meaning(message)


@pytest.mark.parametrize(
    "text",
    [
        "so\n<tool_call>\n{broken\n</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": {}',
        "</tool_call>",
        '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>\n<tool_call>\nnot JSON\n</tool_call>',
    ],
)
def test_a_malformed_call_is_written_as_it_was_sampled(text: str) -> None:
    assert HERMES.format(HERMES.parse(text)) == text


# ---- reading


def test_text_without_calls_is_the_content() -> None:
    assert HERMES.parse("  <answer>4</answer>\n") == Message("assistant", "<answer>4</answer>")


def test_text_around_calls_is_the_content_and_calls_keep_their_order() -> None:
    text = (
        'First\n<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>\n'
        'then <tool_call>{"name": "b", "arguments": {}}</tool_call>\nlast'
    )
    message = HERMES.parse(text)
    assert [(call.name, call.arguments) for call in message.tool_calls] == [("a", {"x": 1}), ("b", {})]
    assert message.content.split() == ["First", "then", "last"]
    assert message.tool_calls[1].raw == '<tool_call>{"name": "b", "arguments": {}}</tool_call>'


def test_a_call_may_omit_its_arguments() -> None:
    assert meaning(HERMES.parse('<tool_call>{"name": "now"}</tool_call>')) == ("", [("now", {}, None)])


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<tool_call>\n{'name': 'f'}\n</tool_call>", "the tool call is not valid JSON: Expecting property name"),
        ("<tool_call></tool_call>", "the tool call is not valid JSON: Expecting value"),
        ('<tool_call>{"name": "f"} {}</tool_call>', "the tool call is not valid JSON: Extra data"),
        ("<tool_call>" + "[" * 100_000 + "</tool_call>", "the tool call is not valid JSON: maximum recursion"),
        ('<tool_call>["f", {}]</tool_call>', 'must be a JSON object with "name" and "arguments"'),
        ('<tool_call>{"arguments": {}}</tool_call>', 'the tool call has no "name"'),
        ('<tool_call>{"name": "", "arguments": {}}</tool_call>', 'the tool call has no "name"'),
        ('<tool_call>{"name": ["f"], "arguments": {}}</tool_call>', 'the tool call has no "name"'),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', '"arguments" must be a JSON object'),
        ('<tool_call>{"name": "f", "arguments": null}</tool_call>', '"arguments" must be a JSON object'),
        ('<tool_call>{"name": "f", "arguments": {}}', "<tool_call> is not closed with </tool_call>"),
        ("4</tool_call>", "</tool_call> without <tool_call> before it"),
    ],
    ids=lambda value: value[:40],
)
def test_a_malformed_call_is_a_value_that_says_what_is_wrong(text: str, error: str) -> None:
    (call,) = HERMES.parse(text).tool_calls
    assert call.error is not None
    assert error in call.error
    assert call.raw in text


def test_a_call_left_open_does_not_swallow_the_next_one() -> None:
    message = HERMES.parse('<tool_call>\n{"name": "a"\n<tool_call>\n{"name": "b", "arguments": {}}\n</tool_call>')
    assert [call.error is None for call in message.tool_calls] == [False, True]
    assert message.tool_calls[1].name == "b"


def test_a_stray_closing_tag_is_reported_once_and_removed_from_the_content() -> None:
    message = HERMES.parse("a </tool_call> b </tool_call>")
    assert message.content.split() == ["a", "b"]
    (stray,) = message.tool_calls
    assert stray.error is not None
    assert stray.error.startswith("</tool_call> without <tool_call> before it; write <tool_call>")


def test_an_answer_next_to_a_broken_call_is_not_a_final_answer() -> None:
    """Only a turn without calls ends an episode, and a malformed call is a call."""
    assert HERMES.parse("<answer>4</answer><tool_call>").tool_calls
