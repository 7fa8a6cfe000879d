"""Promises of every dialect: what was written is read back, and nothing that a model writes raises."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import ConfigError, Message, ToolCall
from toolrl.chat.dialects import DIALECTS, dialect_named
from toolrl.chat.dialects.foreign import CALL_BEGINNINGS
from toolrl.chat.dialects.values import hide, show

TYPES = {"query": "string", "n": "integer", "flag": "boolean", "items": "array", "more": "object"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "search",
            "description": "Search.",
            "parameters": {"type": "object", "properties": {name: {"type": type} for name, type in TYPES.items()}},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "python",
            "description": "Run.",
            "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
        },
    },
]
MARKS = sorted({mark for dialect in DIALECTS.values() for mark in (*dialect.marks, *dialect.ends)} | {*CALL_BEGINNINGS})
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hostile = st.lists(
    st.sampled_from([*MARKS, "</search>", "</python>", "```", "&lt;", "&amp;lt;", "\n", "'", '"', "\\"]) | texts,
    max_size=4,
).map("".join)
values: dict[str, st.SearchStrategy[Any]] = {
    "query": hostile,
    "n": st.integers(),
    "flag": st.booleans(),
    "items": st.lists(hostile | st.integers() | st.none(), max_size=3),
    "more": st.dictionaries(hostile, st.booleans() | hostile, max_size=2),
}
searches = st.fixed_dictionaries({}, optional=values).map(lambda arguments: ToolCall("search", arguments))
programs = hostile.map(lambda code: ToolCall("python", {"code": code}))
ALL = list(DIALECTS)
each = pytest.mark.parametrize("name", ALL)


def meaning(message: Message) -> list[tuple[str, dict[str, Any], str | None]]:
    return [(call.name, dict(call.arguments), call.error) for call in message.tool_calls]


@each
@settings(max_examples=60)
@given(call=programs | searches)
def test_a_call_with_any_arguments_is_read_back(name: str, call: ToolCall) -> None:
    if name in ("tags", "fenced") and call.name != "python":
        return  # where JSON is expected, a tag's text is JSON
    if name == "fenced" and "think>" in call.arguments["code"]:
        return  # a fence cannot escape it
    dialect = dialect_named(name)
    message = Message("assistant", "", (call,))
    assert meaning(dialect.parse(dialect.format(message), TOOLS)) == meaning(message)


@each
def test_several_calls_and_thoughts_are_read_back_in_order(name: str) -> None:
    dialect = dialect_named(name)
    calls = (ToolCall("python", {"code": "1"}), ToolCall("python", {"code": "2"}))
    message = Message("assistant", "", calls, thinking="which one?")
    parsed = dialect.parse(dialect.format(message), TOOLS)
    assert meaning(parsed) == meaning(message)
    assert parsed.thinking == "which one?"
    assert parsed.content == ""


@each
def test_text_without_a_call_is_the_answer(name: str) -> None:
    for text in ("<answer>4</answer>", 'It is {"answer": 4}.', "[1, 2]", "a < b && c", "", '{"name": "Ada"}'):
        parsed = dialect_named(name).parse(text, TOOLS)
        assert (parsed.content, parsed.tool_calls) == (text, ())


@each
@settings(max_examples=80)
@given(
    pieces=st.lists(
        st.sampled_from(
            [
                *MARKS,
                "<think>",
                "</think>",
                '{"name": "search"',
                ', "arguments": {}}',
                "search",
                "(query='x')",
                "[",
                "]",
                "}",
                "\n",
                "call:f{",
                ":",
                "to=functions.f",
            ]
        ),
        max_size=8,
    )
)
def test_nothing_that_a_model_writes_raises(name: str, pieces: list[str]) -> None:
    dialect, text = dialect_named(name), "".join(pieces)
    for call in dialect.parse(text, TOOLS).tool_calls:
        assert call.error is None or dialect.form in call.error


@each
def test_a_truncated_call_is_not_an_answer_and_says_how_to_write_one(name: str) -> None:
    dialect = dialect_named(name)
    whole = dialect.format(Message("assistant", "", (ToolCall("python", {"code": "print(12345)"}),)))
    cut = whole[: whole.index("12345")]
    parsed = dialect.parse(cut, TOOLS)
    if name == "llama3-pythonic":  # only its beginning marks an incomplete list of calls
        assert [call.error is not None for call in parsed.tool_calls] == [True]
        return
    assert len(parsed.tool_calls) == 1
    assert dialect.form in str(parsed.tool_calls[0].error)


@each
def test_a_call_in_another_dialect_is_malformed_and_does_not_run(name: str) -> None:
    dialect = dialect_named(name)
    foreign = "[TOOL_CALLS]" if name != "mistral" and name != "mistral-v11" else "<tool_call>"
    parsed = dialect.parse(f"Look: {foreign}python 1", TOOLS)
    assert [dialect.form in str(call.error) for call in parsed.tool_calls] == [True]
    assert parsed.content == "Look:"


def test_a_call_inside_thinking_does_not_run() -> None:
    hermes = dialect_named("hermes")
    call = '<tool_call>\n{"name": "python", "arguments": {"code": "1"}}\n</tool_call>'
    answered = hermes.parse(f"<think>\n{call}\n</think>\n\n4")
    assert (answered.content, answered.tool_calls) == ("4", ())
    for unanswered in (f"<think>\n{call}\n</think>", f"<think>\n{call}"):
        (refused,) = hermes.parse(unanswered).tool_calls
        assert "inside thinking does not run" in str(refused.error)


@given(text=hostile)
def test_hiding_marks_is_undone_for_any_text(text: str) -> None:
    marks = ("</parameter>", "<tool_call>")
    assert show(hide(text, marks), marks) == text
    assert not any(mark in hide(text, marks) for mark in marks)


def test_an_unknown_dialect_is_refused_with_similar_names() -> None:
    with pytest.raises(ConfigError, match="no dialect 'lama3-json'; did you mean llama3-json"):
        dialect_named("lama3-json")


MISTRAL_V11 = '[TOOL_CALLS]search[CALL_ID]abc123XYZ[ARGS]{"query": "x"}'
HARMONY = (
    "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>commentary to=functions.search "
    '<|constrain|>json<|message|>{"query": "x"}'
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mistral", MISTRAL_V11),
        ("harmony", HARMONY),
        (
            "deepseek-v3",
            '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>search<｜tool▁sep｜>{"query": "x"}<｜tool▁call▁end｜>',
        ),
        ("llama3-json", '<|python_tag|>{"name": "search", "parameters": {"query": "x"}}'),
        ("llama3-json", '{"type": "function", "name": "search", "parameters": {"query": "x"}}'),
        ("llama3-pythonic", '<|python_start|>[search(query="x")]<|python_end|>'),
        ("gemma4", '<|tool_call>call:search{"query": "x"}<tool_call|>'),
        ("tags", '<search>{"query": "x"}</search>'),
    ],
)
def test_forms_that_models_also_write_are_read(name: str, text: str) -> None:
    assert meaning(dialect_named(name).parse(text, TOOLS)) == [("search", {"query": "x"}, None)]
