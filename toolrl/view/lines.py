"""What the index takes from a line of a file of trajectories; the rest of it is passed over without being built."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec

from toolrl.errors import TaskError
from toolrl.trajectory import READABLE_VERSIONS


class _Named(msgspec.Struct):
    name: str
    value: float


class _Call(msgspec.Struct):
    name: str
    failure: str


class _Message(msgspec.Struct):
    role: str
    content: str


class _Turn(msgspec.Struct):
    tool_calls: list[_Call]
    sampled_tokens: int
    observed_tokens: int
    generation_seconds: float
    tool_seconds: float


class _Row(msgspec.Struct):
    schema_version: int
    id: str
    env_id: str
    task_id: str
    reward: float | None
    success: bool | None
    answer: str | None
    reason: str
    parts: list[_Named]
    usage: list[_Named]
    stop: str
    error: str
    attempts: int
    seconds: float
    info: str
    prompt: list[_Message]
    turns: list[_Turn]
    prompt_ids: msgspec.Raw


_DECODER = msgspec.json.Decoder(_Row)


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
        row = _DECODER.decode(line)
        prompt_ids = bytes(row.prompt_ids)
        prompt_tokens = prompt_ids.count(b",") + (prompt_ids != b"[]")
    except msgspec.DecodeError:  # Python's own reader takes NaN too
        # A lone surrogate, which JSON can name and Arrow cannot hold, is replaced.
        plain = json.loads(json.dumps(json.loads(line), ensure_ascii=False).encode("utf-8", "replace"))
        if not isinstance(plain, dict):
            raise ValueError("a line is a JSON object") from None
        if "schema_version" in plain and plain["schema_version"] not in READABLE_VERSIONS:
            raise _other_version(plain["schema_version"]) from None
        prompt_tokens = len(plain.get("prompt_ids", ()))
        row = msgspec.convert({**plain, "prompt_ids": msgspec.Raw(b"[]")}, _Row)
    if row.schema_version not in READABLE_VERSIONS:
        raise _other_version(row.schema_version)
    info = json.loads(row.info)
    calls = [call for turn in row.turns for call in turn.tool_calls]
    failures = Counter(call.failure for call in calls if call.failure)
    fault = row.error.split(":", 1)[0]
    sampled = sum(turn.sampled_tokens for turn in row.turns)
    observed = sum(turn.observed_tokens for turn in row.turns)
    question = next((message.content for message in reversed(row.prompt) if message.role == "user"), "")
    return {
        "id": row.id,
        "env": row.env_id,
        "task": row.task_id,
        "prompt": question[:text_characters],
        "answer": None if row.answer is None else row.answer[:text_characters],
        "reason": row.reason[:text_characters],
        "reward": row.reward,
        "success": row.success,
        "stop": row.stop,
        "error": [*failures, *([fault] if fault else [])],
        "fault": row.error[:text_characters],
        "attempts": row.attempts,
        "turns": len(row.turns),
        "calls": len(calls),
        "failed_calls": failures.total(),
        "needs_tool": _of(bool, info.get("needs_tool")),
        "kind": _of(str, info.get("kind")),
        "prompt_tokens": prompt_tokens,
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
        **{f"calls:{name or '(malformed)'}": n for name, n in Counter(call.name for call in calls).items()},
        **{f"failures:{kind}": n for kind, n in failures.items()},
        **{f"part:{part.name}": part.value for part in row.parts},
        **{f"usage:{entry.name}": entry.value for entry in row.usage},
    }


def _other_version(found: object) -> TaskError:
    readable = " and ".join(map(str, READABLE_VERSIONS))
    return TaskError(f"schema_version is {found!r}, this version reads {readable}")


def _of(kind: type, value: Any) -> Any:
    return value if type(value) is kind else None
