"""Promises about results: the model gets readable text, or the author an error that names the tool."""

from __future__ import annotations

import array
import collections
import dataclasses
import datetime
import decimal
import enum
import fractions
import io
import json
import math
import pathlib
import re
import sqlite3
import subprocess
import sys
import time
import types
import uuid
from typing import Any

import attrs
import numpy
import pandas
import pydantic
import pytest

from tests.tools.conftest import CallTool
from toolrl import ToolError, tool
from toolrl.tools.results import MAX_DEPTH, as_text


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Word(enum.StrEnum):
    YES = "yes"


class Number(enum.IntEnum):
    ONE = 1


@dataclasses.dataclass
class Record:
    name: str
    inside: object


class Model(pydantic.BaseModel):
    name: str
    day: datetime.date


@attrs.define
class Attrs:
    name: str


Named = collections.namedtuple("Named", "x y")


class Worded:
    def __str__(self) -> str:
        return "in my own words"


class Bare:
    pass


def sqlite_row() -> sqlite3.Row:
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row: sqlite3.Row = connection.execute("SELECT 1 AS a, 'x' AS b").fetchone()
    connection.close()
    return row


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (True, "true"),
        (2.5, "2.5"),
        (math.nan, "NaN"),
        ([math.inf], "[Infinity]"),
        (Colour.RED, "red"),
        (Colour.PAIR, "[1, 2]"),
        (Word.YES, "yes"),
        (Number.ONE, "1"),
        ({Colour.RED: Colour.RED}, '{"red": "red"}'),
        (Record("a", Record("b", {Word.YES})), '{"name": "a", "inside": {"name": "b", "inside": ["yes"]}}'),
        (Model(name="a", day=datetime.date(2020, 1, 2)), '{"name": "a", "day": "2020-01-02"}'),
        ([Model(name="a", day=datetime.date(2020, 1, 2))], '[{"name": "a", "day": "2020-01-02"}]'),
        (Attrs("a"), '{"name": "a"}'),
        (types.SimpleNamespace(a=[1]), '{"a": [1]}'),
        (pandas.NA, "null"),
        (Named(1, [2]), '{"x": 1, "y": [2]}'),
        ({3, 1, 2}, "[1, 2, 3]"),
        (frozenset({"b", "a"}), '["a", "b"]'),
        ((1, "a"), '[1, "a"]'),
        (b"caf\xc3\xa9", "café"),
        (b"\x89PNG", "(4 bytes that are not text)"),
        (bytearray(b"a"), "a"),
        (memoryview(b"a"), "a"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (datetime.datetime(2020, 1, 2, 3, 4), "2020-01-02T03:04:00"),
        (datetime.time(3, 4), "03:04:00"),
        (datetime.timedelta(hours=1), "1:00:00"),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (fractions.Fraction(1, 3), "1/3"),
        (1 + 2j, "(1+2j)"),
        (range(3), "[0, 1, 2]"),
        ({"b": 1, "a": 2}.keys(), '["b", "a"]'),
        ({"b": 1, "a": 2}.values(), "[1, 2]"),
        ({"b": 1}.items(), '[["b", 1]]'),
        (collections.Counter("aab"), '{"a": 2, "b": 1}'),
        (collections.deque([1, 2]), "[1, 2]"),
        (types.MappingProxyType({"a": 1}), '{"a": 1}'),
        (collections.UserString("text"), "text"),
        (array.array("i", [1, 2]), "[1, 2]"),
        ({(1, 2): 3, None: 4, True: 5, 2.5: 6}, '{"[1, 2]": 3, "null": 4, "true": 5, "2.5": 6}'),
        ({datetime.date(2020, 1, 2): 1}, '{"2020-01-02": 1}'),
        (numpy.int64(3), "3"),
        (numpy.float32(1.5), "1.5"),
        (numpy.bool_(True), "true"),
        (numpy.array([[1, 2], [3, 4]]), "[[1, 2], [3, 4]]"),
        (numpy.array([None, Colour.RED], dtype=object), '[null, "red"]'),
        (numpy.datetime64("2020-01-02T00:00:00.000000000"), "2020-01-02T00:00:00.000000000"),
        ({"mean": numpy.float64(0.5)}, '{"mean": 0.5}'),
        (pandas.DataFrame({"a": [1, 2]}), "   a\n0  1\n1  2"),
        (pandas.Series([1], index=["i"]), "i    1"),
        (pandas.Timestamp("2020-01-02"), "2020-01-02T00:00:00"),
        (sqlite_row(), '{"a": 1, "b": "x"}'),
        (Worded(), "in my own words"),
        ([Worded()], '["in my own words"]'),
    ],
    ids=lambda value: type(value).__name__,  # the repr of some objects differs between processes
)
def test_readable_values_are_written_as_text(call_tool: CallTool, output: Any, text: str) -> None:
    assert call_tool(returning(output)).content == text


def returning(output: Any) -> Any:
    def look() -> Any:
        """Look."""
        return output

    return look


def generator() -> Any:
    yield 1


async def later() -> None:
    """Never awaited."""


async def async_generator() -> Any:
    yield 1


def picture(kind: str) -> Any:
    if kind == "PIL":
        return pytest.importorskip("PIL.Image").new("RGB", (1, 1))
    figure, axes = pytest.importorskip("matplotlib.pyplot").subplots()
    return figure if kind == "figure" else axes


def circular() -> list[Any]:
    itself: list[Any] = []
    itself.append({"again": itself})
    return itself


@pytest.mark.parametrize("nested", [False, True], ids=["alone", "nested"])
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (generator, "a generator, which has not been read; return a list or text"),
        (async_generator, "a async_generator, which has not been read; return a list"),
        (lambda: iter([1]), "a list_iterator, which has not been read"),
        (lambda: map(str, [1]), "a map, which has not been read"),
        (lambda: io.BytesIO(b"x"), "a _io.BytesIO, which has not been read"),
        (lambda: Bare, "which is not data"),
        (lambda: len, "<built-in function len>, which is not data"),
        (lambda: math, "which is not data"),
        (Bare, r"a tests\.tools\.test_results\.Bare, which has no readable text; .* a __str__"),
        (lambda: re.match("a", "a"), "a re.Match, which has no readable text"),
        (object, "a object, which has no readable text"),
        (lambda: Record("a", Bare()), r"Bare, which has no readable text"),
        (lambda: picture("PIL"), r"a picture \(PIL\.Image\.Image\), which the model cannot see"),
        (lambda: picture("figure"), r"a picture \(matplotlib\.figure\.Figure\), which the model cannot see"),
        (lambda: picture("axes"), r"a picture \(matplotlib\.axes\._axes\.Axes\)"),
        (circular, "that contains itself"),
        (lambda: {1: "a", "1": "b"}, "a dict with two keys that are both written '1'"),
    ],
)
def test_unreadable_values_are_errors_that_name_the_tool(
    call_tool: CallTool, make: Any, message: str, nested: bool
) -> None:
    output = {"inside": [make()]} if nested else make()
    with pytest.raises(TypeError, match=f"tool 'look' returned .*{message}"):
        call_tool(returning(output))


def test_an_awaitable_inside_a_result_is_refused(call_tool: CallTool) -> None:
    coroutine = later()
    with pytest.raises(TypeError, match="tool 'look' returned a coroutine inside its result; await it"):
        call_tool(returning([coroutine]))
    coroutine.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_an_async_tools_result_is_written_the_same_way(call_tool: CallTool, asynchronous: bool) -> None:
    def look() -> Any:
        """Look."""
        return {Colour.RED}

    async def look_later() -> Any:
        """Look later."""
        return {Colour.RED}

    assert call_tool(look_later if asynchronous else look).content == '["red"]'


# ---- what may be the model's choice is never an error


def test_huge_integers_are_written_or_described(call_tool: CallTool) -> None:
    @tool(max_output_characters=200_000)
    def power(exponent: int) -> Any:
        """Compute a power of ten.

        Args:
            exponent: Which.
        """
        return [10**exponent] if exponent < 0 or exponent % 2 else 10**exponent

    assert call_tool(power, exponent=6000).content == "1" + "0" * 6000
    assert json.loads(call_tool(power, exponent=6001).content) == ["1" + "0" * 6001]
    assert call_tool(power, exponent=200_000).content == "(an integer of some 200,000 digits)"


def test_nesting_of_any_depth_is_cut(call_tool: CallTool) -> None:
    nested: list[Any] = []
    for _ in range(100_000):
        nested = [nested]
    content = call_tool(returning(nested)).content
    assert content == "[" * MAX_DEPTH + '"..."' + "]" * MAX_DEPTH
    while nested:  # freeing it whole would recurse
        nested = nested.pop()


def test_any_number_of_values_is_cut_in_time(call_tool: CallTool) -> None:
    doubling: list[Any] = [1]
    for _ in range(60):
        doubling = [doubling, doubling]
    started = time.monotonic()
    for output in (range(10**12), doubling, dict.fromkeys(range(1_200_000), 0), numpy.zeros((3000, 3000))):
        result = call_tool(returning(output))
        assert len(result.content) < 5000
    assert time.monotonic() - started < 30


def test_lone_surrogates_anywhere_become_escapes(call_tool: CallTool) -> None:
    assert call_tool(returning({"\ud800": ["\udfff", Worded()]})).content == (
        '{"\\ud800": ["\\udfff", "in my own words"]}'
    )


def test_what_a_tool_error_carries_is_written_too(call_tool: CallTool) -> None:
    def refuse() -> str:
        """Refuse."""
        raise ToolError("no", output={"problem": Colour.RED})  # type: ignore[arg-type]

    assert call_tool(refuse).content == '{"problem": "red"}'


def test_a_set_reads_the_same_in_every_process() -> None:
    program = "from toolrl.tools.results import as_text; print(as_text({'a', 'b', 'c', ('d', 1), None, 2}))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(outputs) == 1


def test_text_is_never_changed() -> None:
    assert as_text("<object at 0x7f00deadbeef>") == "<object at 0x7f00deadbeef>"
