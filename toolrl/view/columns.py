"""The columns of the index: each field of a query, its type, its meaning, and its value in a row.

Token lists, the bulk of a line, are counted and not built.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow

from toolrl.support.json_text import decode_json
from toolrl.trajectory import PROGRAM_CALLS, CallRow, Row, amounts, check_version
from toolrl.types import ToolFailure

_TEXT_CHARACTERS = 300
_TOKENS = ("prompt_ids", "completion_ids", "mask", "logprobs")
_DECODER = msgspec.json.Decoder(Row[msgspec.Raw, msgspec.Raw])

BOOL, INT, LONG, FLOAT, TEXT = pyarrow.bool_(), pyarrow.int32(), pyarrow.int64(), pyarrow.float64(), pyarrow.string()
COUNTS, AMOUNTS = pyarrow.map_(TEXT, INT), pyarrow.map_(TEXT, FLOAT)


class Facts:
    """A row of a file, checked, and the values that columns derive from it."""

    def __init__(self, line: bytes):
        """Read a line.

        Raises:
            TaskError: It was written by a version that cannot be read.
            ValueError: It is not a trajectory.
        """
        self.row, lengths = _decode(line)
        self.info: dict[str, Any] = json.loads(self.row.info)
        program: list[CallRow] | None = decode_json(self.row.results, PROGRAM_CALLS)
        turns = [call for turn in self.row.turns for call in turn.calls()]
        self.calls = turns if program is None else program
        self.failures = Counter(call.failure for call in self.calls if call.failure)
        self.awarded = sum((award.value for turn in self.row.turns for award in turn.awarded()), 0.0)
        self.parts, self.usage = amounts(self.row.parts), amounts(self.row.usage)
        self.prompt_tokens, *completion = lengths
        self.sampled_tokens, self.observed_tokens = self.total("sampled_tokens"), self.total("observed_tokens")
        self.tokens = self.sampled_tokens + self.observed_tokens
        if unknown := set(self.failures) - set(ToolFailure):
            raise ValueError(f"unknown failures: {unknown}")
        if completion != [self.tokens] * 3:
            raise ValueError(f"the turns have {self.tokens} tokens, the trajectory has {completion}")
        numbers = (self.row.reward or 0.0, self.row.seconds, self.awarded, *self.parts.values(), *self.usage.values())
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a reward, a part or an amount is not finite")

    def total(self, name: str) -> Any:
        """The sum of a field over the turns."""
        return sum(getattr(turn, name) for turn in self.row.turns)

    def known(self, kind: type, name: str) -> Any:
        """An entry of `info`; None if it has another type or does not fit a column."""
        value = self.info.get(name)
        fits = type(value) is kind and not (isinstance(value, int) and abs(value) >= 2**63)
        return value if fits else None

    @property
    def question(self) -> str:
        """The last message of the user."""
        return next((message.content for message in reversed(self.row.prompt) if message.role == "user"), "")

    @property
    def errors(self) -> list[str]:
        """The kinds of failed calls, and the class of the fault."""
        fault = self.row.error.split(":", 1)[0]
        return [*self.failures, *([fault] if fault else [])]


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        name: Its name; also that of a query's field, unless `function` is set.
        type: The type of its values.
        about: Its meaning, in a line for people.
        read: Its value in a row; None if a collection computes it.
        function: The function of a query that looks up a name in it.
    """

    name: str
    type: pyarrow.DataType
    about: str
    read: Callable[[Facts], Any] | None = None
    function: str = ""


COLUMNS = (
    Column("id", TEXT, "the episode's id", lambda facts: facts.row.id),
    Column("run", TEXT, "the run's name"),
    Column("env", TEXT, "the environment's id", lambda facts: facts.row.env_id),
    Column("task", TEXT, "the task's id", lambda facts: facts.row.task_id),
    Column("prompt", TEXT, "the beginning of the user's message", lambda facts: _cut(facts.question)),
    Column(
        "answer", TEXT, "the answer as the grader read it",
        lambda facts: _cut(facts.row.answer) if facts.row.answered and facts.row.answer is not None else None,
    ),
    Column("reason", TEXT, "the grader's reason", lambda facts: _cut(facts.row.reason)),
    Column("reward", FLOAT, "the reward; None if unscored", lambda facts: facts.row.reward),
    Column("success", BOOL, "whether it succeeded; None if unscored", lambda facts: facts.row.success),
    Column("advantage", FLOAT, "the reward relative to its group, as GRPO computes it"),
    Column("pass_rate", FLOAT, "the success rate of the task in this run and mode"),
    Column(
        "stop", TEXT, "why it ended: answer, tool, user, turns, tokens or fault; 'limit' is turns or tokens",
        lambda facts: str(facts.row.stop),
    ),
    Column("ending", TEXT, "why the tool or the user ended it", lambda facts: _cut(facts.row.ending)),
    Column(
        "error", pyarrow.list_(TEXT),
        "the kinds of failed calls (timeout, raised ...) and of the fault that ended it; == matches any of them",
        lambda facts: facts.errors,
    ),
    Column(
        "fault", TEXT, "the message of the infrastructure fault that ended it; empty if there was none",
        lambda facts: _cut(facts.row.error),
    ),
    Column("attempts", INT, "1, plus 1 for each retry", lambda facts: facts.row.attempts),
    Column("turns", INT, "assistant turns", lambda facts: len(facts.row.turns)),
    Column("replies", INT, "what the user said", lambda facts: facts.total("replied")),
    Column("awarded", FLOAT, "the sum of its awards", lambda facts: facts.awarded),
    Column("calls", INT, "tool calls", lambda facts: len(facts.calls)),
    Column("failed_calls", INT, "tool calls that failed", lambda facts: facts.failures.total()),
    Column("needs_tool", BOOL, "whether the task needs a tool", lambda facts: facts.known(bool, "needs_tool")),
    Column("kind", TEXT, "the task's kind", lambda facts: facts.known(str, "kind")),
    Column("prompt_tokens", INT, "tokens of the prompt", lambda facts: facts.prompt_tokens),
    Column("sampled_tokens", INT, "tokens that the policy sampled", lambda facts: facts.sampled_tokens),
    Column("observed_tokens", INT, "tokens that the environment wrote", lambda facts: facts.observed_tokens),
    Column("tokens", INT, "sampled and observed tokens", lambda facts: facts.tokens),
    Column("seconds", FLOAT, "wall-clock time", lambda facts: facts.row.seconds),
    Column("generation_seconds", FLOAT, "time spent generating", lambda facts: facts.total("generation_seconds")),
    Column("tool_seconds", FLOAT, "time spent in tools", lambda facts: facts.total("tool_seconds")),
    Column("mode", TEXT, "train, before, after, eval or counterfactual", lambda facts: facts.known(str, "mode")),
    Column("step", LONG, "the training step", lambda facts: facts.known(int, "step")),
    Column("session", TEXT, "the session of the run", lambda facts: facts.known(str, "session")),
    Column("group", TEXT, "the group that its advantage is computed in", lambda facts: facts.known(str, "group")),
    # Names are keys of one column, not columns of their own: a model can invent any number of tool names.
    Column(
        "calls_by_name", COUNTS, "calls('python'): calls of one tool",
        lambda facts: _items(Counter(call.name or "(malformed)" for call in facts.calls)), "calls",
    ),
    Column(
        "failures_by_name", COUNTS, "failures('timeout'): failed calls of one kind",
        lambda facts: _items(facts.failures), "failures",
    ),
    Column("part_by_name", AMOUNTS, "part('correct'): a part of the score", lambda facts: _items(facts.parts), "part"),
    Column("usage_by_name", AMOUNTS, "usage('cache_hits'): an amount used", lambda facts: _items(facts.usage), "usage"),
    Column("info", TEXT, "info('model'): any other fact about the run", lambda facts: facts.row.info, "info"),
)  # fmt: skip
FIELDS = {column.name: column.about for column in COLUMNS if not column.function}
FUNCTIONS = {column.function: column.about for column in COLUMNS if column.function}
LOOKED_UP = {column.function: column.name for column in COLUMNS if column.function}

_READ = {column.name: column.read for column in COLUMNS if column.read is not None}
SCHEMA = pyarrow.schema(
    [
        *((column.name, column.type) for column in COLUMNS if column.read is not None),
        ("offset", LONG),  # of the line in the file, in bytes
        ("length", LONG),
    ]
)


def read_columns(line: bytes) -> dict[str, Any]:
    """The values of a line, by column.

    Raises:
        TaskError: It was written by a version that cannot be read.
        ValueError: It is not a trajectory.
    """
    try:
        facts = Facts(line)
        return {name: read(facts) for name, read in _READ.items()}
    except (RecursionError, AttributeError, OverflowError) as error:
        raise ValueError(repr(error)) from None


def _decode(line: bytes) -> tuple[Row[msgspec.Raw, msgspec.Raw], list[int]]:
    """A row, and the lengths of its token lists."""
    try:
        row = _DECODER.decode(line)
        lengths = [_length(bytes(getattr(row, name))) for name in _TOKENS]
    except (msgspec.DecodeError, UnicodeDecodeError):
        values = _plain(line)
        if "schema_version" in values:
            check_version(values["schema_version"])
        lengths = [len(tokens) if isinstance(tokens := values.get(name), list) else -1 for name in _TOKENS]
        row = msgspec.convert({**values, **dict.fromkeys(_TOKENS, msgspec.Raw(b"[]"))}, _DECODER.type)
    check_version(row.schema_version)
    return row, lengths


def _plain(line: bytes) -> dict[str, Any]:
    """What Python's reader makes of a line; it accepts NaN. Lone surrogates, which Arrow cannot hold, are replaced."""
    text = json.dumps(json.loads(line.decode("utf-8", "replace")), ensure_ascii=False)
    values = json.loads(text.encode("utf-8", "replace"))
    if not isinstance(values, dict):
        raise ValueError("a line is a JSON object")
    return values


def _length(array: bytes) -> int:
    """The length of a JSON array of numbers; -1 for anything else."""
    inside = array[1:-1].strip()
    return -1 if array[:1] != b"[" else inside.count(b",") + bool(inside)


def _cut(text: str) -> str:
    return text[:_TEXT_CHARACTERS]


def _items(numbers: Mapping[str, float]) -> list[tuple[str, float]]:
    """The entries of a map column; lone surrogates, which Arrow cannot hold, are replaced."""
    return [(name.encode("utf-8", "replace").decode(), number) for name, number in numbers.items()]
