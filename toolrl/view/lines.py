"""What the index takes from a line of a file of trajectories; the rest of it is passed over without being built."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Annotated, Any, Literal

import msgspec

from toolrl.errors import TaskError
from toolrl.trajectory import READABLE_VERSIONS
from toolrl.types import Role, StopReason, ToolFailure

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Named(msgspec.Struct):
    name: str
    value: float


class _Call(msgspec.Struct):
    id: str
    name: str
    arguments: str | dict[str, Any]
    error: str
    raw: str
    output: str | None
    failure: str
    seconds: float
    cut_characters: int


class _Message(msgspec.Struct):
    role: Role
    content: str


class _Turn(msgspec.Struct):
    content: str
    tool_calls: str | list[_Call]
    finish: Literal["stop", "length"]
    policy_version: int
    sampled_tokens: _Count
    observed_tokens: _Count
    generation_seconds: float
    tool_seconds: float
    thinking: str = ""


class _Row(msgspec.Struct):
    schema_version: int
    id: str
    env_id: str
    task_id: str
    reward: float | None
    success: bool | None
    answer: str | None
    reason: str
    parts: str | list[_Named]
    usage: str | list[_Named]
    stop: StopReason
    error: str
    attempts: _Count
    seconds: float
    info: str
    prompt: list[_Message]
    turns: list[_Turn]
    prompt_ids: msgspec.Raw
    completion_ids: msgspec.Raw
    mask: msgspec.Raw
    logprobs: msgspec.Raw
    answered: bool = True


_DECODER = msgspec.json.Decoder(_Row)
_CALLS = msgspec.json.Decoder(list[_Call])
_AMOUNTS = msgspec.json.Decoder(dict[str, float])
_TOKENS = ("prompt_ids", "completion_ids", "mask", "logprobs")


def read_facts(line: bytes, text_characters: int) -> dict[str, Any]:
    """The facts about an episode, by the names of the index's columns.

    Args:
        line: One line of the file.
        text_characters: Of longer texts only so many are taken.

    Raises:
        TaskError: It was written by a version that cannot be read.
        ValueError: It is no trajectory.
    """
    try:
        return _facts(*_row(line), text_characters)
    except (RecursionError, AttributeError, OverflowError) as error:
        raise ValueError(repr(error)) from None


def _row(line: bytes) -> tuple[_Row, list[int]]:
    """A row, and how many entries its lists of tokens have."""
    try:
        row = _DECODER.decode(line)
        lengths = [_length(bytes(getattr(row, name))) for name in _TOKENS]
    except (msgspec.DecodeError, UnicodeDecodeError):  # Python's own reader takes NaN too
        plain = _plain(line.decode("utf-8", "replace"))
        if not isinstance(plain, dict):
            raise ValueError("a line is a JSON object") from None
        if "schema_version" in plain and plain["schema_version"] not in READABLE_VERSIONS:
            raise _other_version(plain["schema_version"]) from None
        lengths = [len(tokens) if isinstance(tokens := plain.get(name), list) else -1 for name in _TOKENS]
        row = msgspec.convert({**plain, **dict.fromkeys(_TOKENS, msgspec.Raw(b"[]"))}, _Row)
    if row.schema_version not in READABLE_VERSIONS:
        raise _other_version(row.schema_version)
    return row, lengths


def _facts(row: _Row, lengths: list[int], text_characters: int) -> dict[str, Any]:
    info = json.loads(row.info)
    calls = [call for turn in row.turns for call in _listed(turn.tool_calls, _CALLS)]
    failures = Counter(call.failure for call in calls if call.failure)
    parts, usage = _amounts(row.parts), _amounts(row.usage)
    fault = row.error.split(":", 1)[0]
    sampled = sum(turn.sampled_tokens for turn in row.turns)
    observed = sum(turn.observed_tokens for turn in row.turns)
    if set(failures) - set(ToolFailure):
        raise ValueError(f"unknown failures: {failures}")
    if lengths[1:] != [sampled + observed] * 3:
        raise ValueError(f"the turns have {sampled + observed} tokens, the episode has {lengths[1:]}")
    if not all(map(math.isfinite, (row.reward or 0.0, row.seconds, *parts.values(), *usage.values()))):
        raise ValueError("a reward, a part or an amount is not finite")
    question = next((message.content for message in reversed(row.prompt) if message.role == "user"), "")
    return {
        "id": row.id,
        "env": row.env_id,
        "task": row.task_id,
        "prompt": question[:text_characters],
        "answer": row.answer[:text_characters] if row.answer is not None and row.answered else None,
        "reason": row.reason[:text_characters],
        "reward": row.reward,
        "success": row.success,
        "stop": str(row.stop),
        "error": [*failures, *([fault] if fault else [])],
        "fault": row.error[:text_characters],
        "attempts": row.attempts,
        "turns": len(row.turns),
        "calls": len(calls),
        "failed_calls": failures.total(),
        "needs_tool": _of(bool, info.get("needs_tool")),
        "kind": _of(str, info.get("kind")),
        "prompt_tokens": lengths[0],
        "sampled_tokens": sampled,
        "observed_tokens": observed,
        "tokens": sampled + observed,
        "seconds": row.seconds,
        "generation_seconds": sum(turn.generation_seconds for turn in row.turns),
        "tool_seconds": sum(turn.tool_seconds for turn in row.turns),
        "mode": _of(str, info.get("mode")),
        "step": _of(int, info.get("step")),
        "session": _of(str, info.get("session")),
        "group": _of(str, info.get("group")),
        "info": row.info,
        "calls_by_name": list(Counter(call.name or "(malformed)" for call in calls).items()),
        "failures_by_name": list(failures.items()),
        "part_by_name": list(parts.items()),
        "usage_by_name": list(usage.items()),
    }


def _plain(text: str) -> Any:
    """What Python reads, with lone surrogates, which JSON can name and Arrow cannot hold, replaced."""
    return json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))


def _listed(value: Any, decoder: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.convert(_plain(value), decoder.type)


def _amounts(value: Any) -> dict[str, float]:
    found = _listed(value, _AMOUNTS)
    return found if isinstance(found, dict) else {entry.name: entry.value for entry in found}


def _length(array: bytes) -> int:
    """How many numbers a JSON array of numbers has; -1 if it is no array."""
    inside = array[1:-1].strip()
    return -1 if array[:1] != b"[" else inside.count(b",") + bool(inside)


def _other_version(found: object) -> TaskError:
    readable = " and ".join(map(str, READABLE_VERSIONS))
    return TaskError(f"schema_version is {found!r}, this version reads {readable}")


def _of(kind: type, value: Any) -> Any:
    """A value if it is of a kind, and a number if a column can hold it."""
    fits = type(value) is kind and not (isinstance(value, int) and abs(value) >= 2**63)
    return value if fits else None
