"""Promises about demonstrations stored with Arrow: fine-tuning sees what was written, without Arrow's nulls."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from pydantic import BaseModel

from toolrl import Message, Renderer, ToolCall, ToolEnv, say, tool
from toolrl.evaluation import evaluate
from toolrl.policy.models import load_tokenizer
from toolrl.support.rows import read_rows
from toolrl.training.demonstrations import as_demonstration
from toolrl.training.sft import read_token_rows
from toolrl.training.token_rows import read_conversation, token_row, without_nulls
from toolrl.types import Task


class Filter(BaseModel):
    language: str
    years: list[int] | None = None
    inner: Filter | None = None


@tool
def python(code: str) -> str:
    """Run code.

    Args:
        code: It.
    """
    return code


@tool
def search(query: str, filter: Filter, limit: int | None = None, note: str | None = "n") -> str:
    """Search.

    Args:
        query: What for.
        filter: Where.
        limit: At most.
        note: Any.
    """
    return query


@tool
def choose(option: str | None, extra: dict[str, int | None]) -> str:
    """Choose.

    Args:
        option: Which, or none.
        extra: More.
    """
    return str(option)


SCHEMAS = [python.schema, search.schema, choose.schema]
CALLS = [
    ("python", {"code": "1+1"}),
    ("search", {"query": "q", "filter": {"language": "en"}}),
    ("search", {"query": "q", "filter": {"language": "en", "years": [1], "inner": {"language": "fr"}}, "limit": 3}),
    ("choose", {"option": None, "extra": {"a": 1}}),
    ("choose", {"option": "x", "extra": {"b": 2}}),
]


def row_of(name: str, arguments: Any, tools: Any) -> dict[str, Any]:
    call = {"type": "function", "id": "c", "function": {"name": name, "arguments": arguments}}
    return {
        "messages": [
            {"role": "user", "content": "do"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "out", "name": name, "tool_call_id": "c"},
            {"role": "assistant", "content": "done"},
        ],
        "tools": tools,
    }


ROWS = [
    row_of(name, arguments, [schema for schema in SCHEMAS if schema["function"]["name"] == name])
    for name, arguments in CALLS
]


def parquet(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    return [row for _, row in read_rows(folder / "rows.parquet")]


def dataset(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    return [dict(row) for row in datasets.Dataset.from_list(rows)]


@pytest.mark.parametrize("through", [parquet, dataset])
def test_arguments_and_schemas_come_back_unchanged(through: Any, tmp_path: Path) -> None:
    filled = through(copy.deepcopy(ROWS), tmp_path)
    assert "query" in filled[0]["messages"][1]["tool_calls"][0]["function"]["arguments"], "Arrow has filled it in"
    for row, (name, arguments), original in zip(filled, CALLS, ROWS, strict=True):
        messages, tools = read_conversation(row, filled=True)
        (call,) = messages[1].tool_calls
        assert (call.name, call.arguments, call.error) == (name, arguments, None)
        assert tools == original["tools"]
        assert [message.role for message in messages] == ["user", "assistant", "tool", "assistant"]
        assert messages[0].tool_calls == ()


@pytest.mark.parametrize("through", [parquet, dataset])
def test_json_text_is_read_exactly(through: Any, tmp_path: Path) -> None:
    explicit = {"query": "q", "filter": {"language": "en"}, "limit": None}
    rows = [
        row_of("search", json.dumps(explicit), json.dumps(SCHEMAS)),
        row_of("python", json.dumps({"code": "1"}), json.dumps([json.dumps(python.schema)])),
        row_of("python", json.dumps({"code": "1"}), json.dumps([python.schema["function"]])),
    ]
    first, *others = [read_conversation(row, filled=True) for row in through(rows, tmp_path)]
    assert first[0][1].tool_calls[0].arguments == explicit
    assert first[1] == SCHEMAS
    assert all(tools == [python.schema] for _, tools in others)


def test_rows_from_other_sources_keep_a_null_that_the_schema_allows() -> None:
    arguments = {"query": "q", "filter": {"language": "en", "years": None}, "limit": None, "code": None}
    messages, _ = read_conversation(row_of("search", arguments, SCHEMAS))
    del arguments["code"]
    assert messages[1].tool_calls[0].arguments == arguments


@pytest.mark.parametrize("tools", [None, [], SCHEMAS[:1]])
def test_without_a_schema_only_nulls_from_arrow_are_removed(tools: Any) -> None:
    row = row_of("unknown", {"a": 1, "b": None, "c": {"d": None, "e": [None]}}, tools)
    (call,) = read_conversation(copy.deepcopy(row))[0][1].tool_calls
    assert call.arguments == {"a": 1, "b": None, "c": {"d": None, "e": [None]}}
    (call,) = read_conversation(row, filled=True)[0][1].tool_calls
    assert call.arguments == {"a": 1, "c": {"e": [None]}}


def test_toolrls_own_demonstrations_are_exact_through_arrow(tmp_path: Path) -> None:
    """An explicit null of an optional parameter, which a schema cannot distinguish from a filled one."""
    explicit: dict[str, dict[str, Any]] = {
        "0": {"query": "q", "filter": {"language": "en", "years": None}, "limit": None},
        "1": {"query": "q", "filter": {"language": "en"}},
    }
    solutions = {
        **{
            task: [Message("assistant", "", (ToolCall("search", given),)), say("a")] for task, given in explicit.items()
        },
        "2": [Message("assistant", "", (ToolCall("python", {"code": "1"}),)), say("a")],
    }
    env = ToolEnv(
        tasks=[Task(task, f"do {task}", "a") for task in solutions],
        tools=[python, search],
        reward=lambda task, episode: 1.0,
        oracle=lambda task: solutions[task.id],
    )
    played: list[Any] = []
    evaluate({"e": env}, None, None, tasks=3, on_trajectory=played.append)
    renderer = Renderer(load_tokenizer("tiny"))
    rows = [as_demonstration(trajectory, env.toolbox.schemas) for trajectory in played]
    expected = [token_row(row, renderer) for row in copy.deepcopy(rows)]
    for through in (parquet, dataset):
        filled = through(copy.deepcopy(rows), tmp_path)
        assert [token_row(row, renderer, filled=True) for row in filled] == expected
    for row in filled:
        given = read_conversation(row, filled=True)[0][1].tool_calls[0].arguments
        assert given == explicit.get(row["task_id"], {"code": "1"})


def test_sft_learns_no_null_from_a_parquet_file(tmp_path: Path) -> None:
    from rich.console import Console

    parquet([row for row in copy.deepcopy(ROWS) if row["tools"][0] != choose.schema], tmp_path)
    renderer = Renderer(load_tokenizer("tiny"))
    rows = read_token_rows([str(tmp_path / "rows.parquet")], renderer, None, Console(quiet=True))
    texts = [renderer.decode([token for token in row.labels if token >= 0]) for row in rows]
    assert len(texts) == 3
    assert all("null" not in text for text in texts)


# ---- schemas


@pytest.mark.parametrize("entry", SCHEMAS, ids=lambda entry: str(entry["function"]["name"]))
def test_a_schema_without_filled_nulls_is_unchanged(entry: dict[str, Any]) -> None:
    assert without_nulls(entry["function"]["parameters"]) == entry["function"]["parameters"]


def test_a_default_of_null_is_kept_for_an_optional_parameter() -> None:
    optional = {"anyOf": [{"type": "integer", "items": None}, {"type": "null"}], "default": None, "enum": None}
    schema = {
        "type": "object",
        "properties": {"a": {"type": "string", "default": None}, "b": optional, "c": optional, "d": None},
        "required": ["a", "c"],
        "additionalProperties": None,
    }
    plain = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert without_nulls(schema) == {
        "type": "object",
        "properties": {"a": {"type": "string"}, "b": {**plain, "default": None}, "c": plain},
        "required": ["a", "c"],
    }
    assert without_nulls({"enum": [None, "a"]}) == {"enum": [None, "a"]}


def test_any_set_of_tools_and_calls_survives_arrow(tmp_path: Path) -> None:
    """Random tools, some with shared parameter names, some nested, and calls that fit them."""
    rng = random.Random(0)
    kinds = [
        ({"type": "string"}, lambda: rng.choice(["", "x"])),
        ({"type": "string", "description": "text"}, lambda: "y"),
    ]
    nested = {"type": "object", "properties": {"in": {"type": "string"}, "to": {"type": "string"}}, "required": ["in"]}
    for _ in range(30):
        rows, expected = [], []
        for number in range(rng.randint(2, 5)):
            properties: dict[str, Any] = {}
            arguments: dict[str, Any] = {}
            for name in rng.sample("abcdef", rng.randint(1, 4)):
                if name in "ef":  # a column needs one type per name
                    properties[name] = nested
                    arguments[name] = {"in": "i", **({"to": "t"} if rng.random() < 0.5 else {})}
                else:
                    properties[name], draw = rng.choice(kinds)
                    arguments[name] = draw()
            required = [name for name in properties if rng.random() < 0.7]
            arguments = {k: v for k, v in arguments.items() if k in required or rng.random() < 0.5}
            schema = {"type": "object", "properties": properties, **({"required": required} if required else {})}
            function = {"name": f"t{number}", "description": "d", "parameters": schema}
            rows.append(row_of(f"t{number}", arguments, [{"type": "function", "function": function}]))
            expected.append((arguments, rows[-1]["tools"]))
        for row, (arguments, tools) in zip(parquet(copy.deepcopy(rows), tmp_path), expected, strict=True):
            messages, read = read_conversation(row, filled=True)
            assert (messages[1].tool_calls[0].arguments, read) == (arguments, tools)
