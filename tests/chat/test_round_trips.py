"""Promises about writing and reading calls: the reader inverts the writer, or the writer refuses."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import ConfigError, Message, ToolCall
from toolrl.chat.dialects import DIALECTS
from toolrl.chat.dialects.base import meaning, schemas_of
from toolrl.chat.dialects.foreign import CALL_BEGINNINGS

each = pytest.mark.parametrize("name", DIALECTS)
MARKS = sorted(
    {mark for dialect in DIALECTS.values() for mark in (*dialect.marks, *dialect.ends, *dialect.thinking)}
    | {*CALL_BEGINNINGS}
)
LIKE_OTHER_TYPES = ["", "7", "-1.5e3", "true", "True", "null", "None", "[1]", "{}", '{"a": 1}', '"7"', "NaN", "007"]
ODD = [
    "\n",
    " ",
    "\t",
    "\r\n",
    "'",
    '"',
    "\\",
    '"""',
    "'''",
    "```",
    "&lt;",
    "&amp;lt;",
    "{{}}",
    "\u2028",
    "\x00",
    "\\\n",
]
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
strings = st.sampled_from(LIKE_OTHER_TYPES) | st.lists(st.sampled_from([*MARKS, *ODD]) | texts, max_size=4).map("".join)
leaves = (
    strings
    | st.integers()
    | st.integers(10**17, 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.booleans()
    | st.none()
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(strings, inner, max_size=3),
    max_leaves=6,
)
NAMES = ["search", "my-tool", "web.search", "get_weather_2", "工具", "from", "class", "print", "None"]
KEYS = ["query", "from", "class", "lambda", "None", "True", "user-id", "a.b", "键", "name", "arguments", "x y", "_"]
calls = st.builds(ToolCall, st.sampled_from(NAMES), st.dictionaries(st.sampled_from(KEYS), values, max_size=3))


@each
@settings(max_examples=15)
@given(tool_calls=st.lists(calls, min_size=1, max_size=2, unique_by=lambda call: call.name))
def test_calls_with_odd_names_and_any_values_are_read_back_exactly(name: str, tool_calls: list[ToolCall]) -> None:
    dialect, message = DIALECTS[name], Message("assistant", "", tuple(tool_calls))
    tools = schemas_of(message.tool_calls)
    assert meaning(dialect.parse(dialect.format(message), tools)) == meaning(message)


SCHEMAS: list[dict[str, Any]] = [
    {"type": "string"},
    {"type": ["string", "null"]},
    {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    {"enum": ["1", "2", "true", 3, None]},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": "array", "items": {"type": "string"}},
    {"anyOf": [{"$ref": "#/$defs/P"}, {"type": "string"}]},
    {},
]


@each
@settings(max_examples=15)
@given(data=st.data())
def test_with_a_tools_schema_a_call_is_read_back_or_refused(name: str, data: st.DataObject) -> None:
    """The schema decides: `"7"` cannot be told from `7` where both are allowed."""
    keys = data.draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True))
    properties = {key: data.draw(st.sampled_from(SCHEMAS)) for key in keys}
    parameters = {"type": "object", "properties": properties, "$defs": {"P": {"type": "object"}}}
    parameters["required"] = data.draw(st.lists(st.sampled_from(keys), unique=True))
    tools = [{"type": "function", "function": {"name": "search", "parameters": parameters}}]
    arguments = {key: data.draw(leaves | st.lists(strings, max_size=2)) for key in keys if data.draw(st.booleans())}
    message = Message("assistant", "", (ToolCall("search", arguments),))
    try:
        text = DIALECTS[name].format(message, tools)
    except ConfigError:
        plain = [isinstance(value, str) and properties[key] == {"type": "string"} for key, value in arguments.items()]
        assert not plain or not all(plain)
        return
    assert meaning(DIALECTS[name].parse(text, tools)) == meaning(message)


@each
@pytest.mark.parametrize(
    "call",
    [
        ToolCall("f", {"x": float("nan")}),
        ToolCall("f", {"x": [float("inf")]}),
        ToolCall("f", {"x": {1, 2}}),
        ToolCall("f", {"x": object()}),
        ToolCall("f", {"x": 10**5000}),
        ToolCall("", {"x": 1}),
    ],
    ids=["nan", "inf", "set", "object", "huge", "no name"],
)
def test_a_call_that_no_dialect_can_write_is_refused_by_name(name: str, call: ToolCall) -> None:
    with pytest.raises(ConfigError, match=f"the dialect '{name}' cannot write"):
        DIALECTS[name].format(Message("assistant", "", (call,)))


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("qwen3-coder", ToolCall("f", {"a\nb": 1})),
        ("qwen3-coder", ToolCall("a>b", {})),
        ("minimax-m2", ToolCall("f", {'a"b': 1})),
        ("lfm2", ToolCall("f(x)", {})),
        ("lfm2", ToolCall("f", {"a=b": 1})),
        ("glm4", ToolCall("two words", {})),
        ("fenced", ToolCall("two words", {})),
        ("mistral-v11", ToolCall("f[ARGS]", {})),
    ],
)
def test_a_name_that_a_form_cannot_express_is_refused(name: str, call: ToolCall) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        DIALECTS[name].format(Message("assistant", "", (call,)))


def test_a_tool_of_one_number_and_one_argument_of_several_are_read_back_by_tags() -> None:
    tools = [
        {"name": "wait", "parameters": {"properties": {"seconds": {"type": "integer"}}}},
        {"name": "look", "parameters": {"properties": {"query": {"type": "string"}, "k": {"type": "integer"}}}},
        {
            "name": "find",
            "parameters": {
                "properties": {"k": {"type": "integer"}, "query": {"type": "string"}},
                "required": ["query"],
            },
        },
    ]
    for name in ("tags", "fenced"):
        dialect = DIALECTS[name]
        for call in (
            ToolCall("wait", {"seconds": 3}),
            ToolCall("look", {"query": "x"}),
            ToolCall("look", {"k": 3}),
            ToolCall("find", {"query": "x"}),
            ToolCall("find", {"query": '{"query": "x"}'}),
        ):
            message = Message("assistant", "", (call,))
            for known in (tools, []):
                assert meaning(dialect.parse(dialect.format(message, known), tools)) == meaning(message)
    assert DIALECTS["tags"].format(Message("assistant", "", (ToolCall("find", {"query": "x"}),)), tools) == (
        "<find>x</find>"
    )
    assert dict(DIALECTS["tags"].parse("<wait>3</wait>", tools).tool_calls[0].arguments) == {"seconds": 3}


BEGINNINGS = ['"', "'", '\\"', "[", "{", "[\n", "{\n", '{"name": "search"', "search(query=", "```", "&"]
PIECES = [*MARKS, *BEGINNINGS]


@each
def test_the_time_of_reading_grows_with_the_text_and_not_with_its_square(name: str) -> None:
    """The slowest dialect takes half a second."""
    dialect = DIALECTS[name]
    tools = [{"name": "search", "parameters": {"properties": {"query": {"type": "string"}}}}]
    for piece in [*dialect.marks, *dialect.thinking, *BEGINNINGS]:
        started = time.process_time()
        dialect.parse(dialect.form[:20] + piece * (65_536 // len(piece)), tools)
        assert time.process_time() - started < 5, piece


@each
@settings(max_examples=20)
@given(pieces=st.lists(st.sampled_from(PIECES) | strings, max_size=10))
def test_no_text_raises(name: str, pieces: list[str]) -> None:
    tools = [{"name": "search", "parameters": {"properties": {"query": {"type": ["string", "null"]}}}}]
    for known in (tools, []):
        message = DIALECTS[name].parse("".join(pieces), known)
        assert all(call.error is not None or call.name for call in message.tool_calls)
        json.dumps([dict(call.arguments) for call in message.tool_calls], allow_nan=False)
