"""Promises about where a call ends: marks inside values are text, and an incomplete call does not run."""

from __future__ import annotations

import pytest

from toolrl import Message, ToolCall
from toolrl.chat.dialects import DIALECTS
from toolrl.chat.dialects.pythonic import LfmDialect, PythonicDialect

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {key: {"type": "string"} for key in ("text", "other")}},
        },
    }
    for name in ("note", "keep")
]
BARE = ("tags", "fenced")  # dialects with a bare text for a call
# Marks that no quotes protect: inside a value their `<` is written as `&lt;`.
ENDS_A_VALUE = {
    "qwen3-coder": ("<parameter=", "</parameter>"),
    "seed-oss": ("<parameter=", "</parameter>"),
    "minimax-m2": ("<parameter name=", "</parameter>"),
    "glm4": ("<arg_key>", "</arg_value>"),
    "deepseek-v3.2": ("<｜DSML｜parameter name=", "</｜DSML｜parameter>"),
    "deepseek-v4": ("<｜DSML｜parameter name=", "</｜DSML｜parameter>"),
    "step3": ("<steptml:parameter name=", "</steptml:parameter>"),
    "gemma4": ('<|"|>',),
    "functiongemma": ("<escape>",),
    "atem": ("<|eom|>",),
}
each = pytest.mark.parametrize("name", [name for name in DIALECTS if name not in BARE])


def calls_of(name: str, text: str) -> list[tuple[str, dict[str, object], bool]]:
    parsed = DIALECTS[name].parse(text, TOOLS)
    return [(call.name, dict(call.arguments), call.error is not None) for call in parsed.tool_calls]


def written(name: str, *calls: ToolCall) -> str:
    return DIALECTS[name].format(Message("assistant", "", calls), TOOLS)


def note(text: str, **more: str) -> ToolCall:
    return ToolCall("note", {"text": text, **more})


@each
def test_an_unescaped_mark_inside_a_string_ends_nothing(name: str) -> None:
    dialect = DIALECTS[name]
    for mark in (*dialect.marks, *dialect.thinking):
        if mark in ENDS_A_VALUE.get(name, ()):
            continue
        said = f"end with {mark} please"
        turn = written(name, note("PLACE"), note("after")).replace("PLACE", said)
        assert calls_of(name, turn) == [
            ("note", {"text": said}, False),
            ("note", {"text": "after"}, False),
        ], mark


@pytest.mark.parametrize("quote", ["'", '"', "'''", '"""'])
@pytest.mark.parametrize("name", ["lfm2", "olmo3", "llama3-pythonic"])
def test_marks_and_brackets_in_python_strings_of_any_quotes_are_text(name: str, quote: str) -> None:
    dialect = DIALECTS[name]
    assert isinstance(dialect, LfmDialect | PythonicDialect)
    said = f"a, b) ] {{ {dialect.marks[1]} c=1 )"
    turn = written(name, note("PLACE")).replace("'PLACE'", f"{quote}{said}{quote}")
    assert calls_of(name, turn) == [("note", {"text": said}, False)]


@each
def test_a_call_that_is_cut_anywhere_is_malformed(name: str) -> None:
    """No call runs with a part of its arguments, and the turn is not an answer."""
    turn = written(name, note("first value", other="second value"))
    last = turn.rindex("value") + len("value")
    for end in range(turn.index("first"), last):
        for _, arguments, malformed in calls_of(name, turn[:end]):
            assert malformed, turn[:end]
            assert not arguments


TAGGED = {
    "qwen3-coder": "</parameter>",
    "seed-oss": "</parameter>",
    "minimax-m2": "</parameter>",
    "glm4": "</arg_value>",
    "deepseek-v3.2": "</｜DSML｜parameter>",
    "deepseek-v4": "</｜DSML｜parameter>",
    "step3": "</steptml:parameter>",
    "atem": "</atem:parameter>",
}
each_tagged = pytest.mark.parametrize(("name", "closing"), TAGGED.items())


@each_tagged
@pytest.mark.parametrize("which", [0, 1])
def test_an_argument_that_is_not_closed_runs_nothing(name: str, closing: str, which: int) -> None:
    turn = written(name, note("one", other="two"))
    parts = turn.split(closing)
    broken = closing.join(parts[: which + 1]) + closing.join(["", *parts[which + 1 :]]).removeprefix(closing)
    assert broken.count(closing) == 1
    ((called, arguments, malformed),) = calls_of(name, broken)
    assert (called, arguments, malformed) == ("note", {}, True)


@each_tagged
def test_an_argument_that_is_not_closed_does_not_swallow_the_next_call(name: str, closing: str) -> None:
    turn = written(name, note("one")).replace(closing, "") + "\n" + written(name, note("two"))
    if name == "atem":
        turn = turn.replace("\n to=", "<|eom|><|start|>assistant to=")
    assert [(arguments, malformed) for _, arguments, malformed in calls_of(name, turn)] == [
        ({}, True),
        ({"text": "two"}, False),
    ]


@each_tagged
def test_duplicate_closings_and_duplicate_arguments_are_malformed(name: str, closing: str) -> None:
    turn = written(name, note("one", other="two"))
    for broken in (
        turn.replace(closing, closing * 2, 1),
        turn.replace("other", "text"),
        turn.replace(closing, closing + " and so on", 1),
    ):
        assert broken != turn
        assert [malformed for _, _, malformed in calls_of(name, broken)] == [True], broken


@pytest.mark.parametrize("tag", ["</function>", "</tool_call>", "<function=note>", "<tool_call>"])
def test_each_missing_tag_makes_a_call_malformed(tag: str) -> None:
    turn = written("qwen3-coder", note("one"))
    assert all(malformed for _, _, malformed in calls_of("qwen3-coder", turn.replace(tag, "")))
    assert calls_of("qwen3-coder", turn.replace(tag, ""))


@pytest.mark.parametrize(
    ("name", "turn"),
    [
        ("hermes", '<tool_call>{"name": "note", "arguments": {"text": "a", "text": "b"}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "note", "arguments": {"text": NaN}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "note", "arguments": {"text": 1e999}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "note", "parameters": {"text": "a"}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "note", "text": "a"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "note", "arguments": {"text": "a",}}</tool_call>'),
        ("hermes", "<tool_call>{'name': 'note', 'arguments': {'text': 'a'}}</tool_call>"),
        ("mistral", '[TOOL_CALLS]note[ARGS]{"text": "a", "text": "b"}'),
        ("lfm2", "<|tool_call_start|>[note(text='a', text='b')]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[note('a')]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[note(text='a') keep(text='b')]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[note(text={'a': 1, 'a': 2})]<|tool_call_end|>"),
        ("lfm2", "<|tool_call_start|>[note(text=1e999)]<|tool_call_end|>"),
        ("llama3-pythonic", "[note(text='a')"),
        ("llama3-pythonic", "[note(text='a'), 5]"),
        ("gemma4", '<|tool_call>call:note{text:<|"|>a<|"|>,text:<|"|>b<|"|>}<tool_call|>'),
        ("gemma4", '<|tool_call>call:note{text:<|"|>a}<tool_call|>'),
        ("tags", "<note>a <note>b</note>"),
        ("fenced", "```note\na\n```note\nb\n```"),
        ("deepseek-v3.2", written("deepseek-v3.2", note("7")).replace('"true"', '"maybe"')),
        ("deepseek-v3.2", written("deepseek-v3.2", note("x")).replace('"true"', '"false"')),
    ],
)
def test_an_ambiguous_or_unclosed_call_is_malformed(name: str, turn: str) -> None:
    tools = [tool for tool in TOOLS if tool["function"]["name"] == "note"]
    assert [call.error is not None for call in DIALECTS[name].parse(turn, tools).tool_calls] == [True]


@pytest.mark.parametrize("name", ["deepseek-v3.2", "minimax-m2", "step3"])
def test_whole_calls_before_a_broken_one_in_a_block_run(name: str) -> None:
    turn = written(name, note("one"), note("two"))
    assert [malformed for _, _, malformed in calls_of(name, turn[: turn.index("two")])] == [False, True]


@pytest.mark.parametrize("name", ["lfm2", "llama3-pythonic", "olmo3"])
def test_a_line_break_inside_a_python_string_is_kept(name: str) -> None:
    turn = written(name, note("PLACE")).replace("PLACE", "a\nb\\nc\0\\\\")
    assert calls_of(name, turn) == [("note", {"text": "a\nb\nc\0\\"}, False)]
