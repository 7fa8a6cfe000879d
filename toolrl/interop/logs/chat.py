"""Message lists of chat-completions APIs, and TRL's logged completions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolrl.chat.wire import from_wire, with_thinking_split
from toolrl.interop.logs.base import Record, Said, number_of, plain_facts
from toolrl.types import Message, Score

_REWARDS, _TASKS = ("reward", "score"), ("task_id", "id", "task")
_TRL = ("step", "prompt", "completion", "advantage")


def read_chat(row: Mapping[str, Any], env_id: str) -> Record:
    """A row with `messages`, or with `prompt` and `completion`, and perhaps `reward` (or `score`), `task_id`, `env_id`.

    Raises:
        ValueError: It has none of these, or a message is not one.
    """
    if "messages" in row:
        messages = _messages(row["messages"], "user")
    elif "prompt" in row and "completion" in row:
        messages = [*_messages(row["prompt"], "user"), *_messages(row["completion"], "assistant")]
    else:
        raise ValueError("it has neither 'messages' nor 'prompt' and 'completion'")
    reward = next((number_of(row[name]) for name in _REWARDS if name in row), None)
    answer = row.get("answer")
    rest = {
        name: value for name, value in row.items() if name not in (*_REWARDS, *_TASKS, "env_id", "answer", "prompt")
    }
    return Record(
        env_id=str(row.get("env_id") or env_id),
        task_id=next((str(row[name]) for name in _TASKS if isinstance(row.get(name), (str, int))), ""),
        said=[Said(message) for message in messages],
        score=Score(None, reason="the log has no reward") if reward is None else Score(reward),
        info={"mode": "eval", **plain_facts(rest), **({"expected": answer} if isinstance(answer, str) else {})},
    )


def read_trl(row: Mapping[str, Any], env_id: str) -> Record:
    """A row of `completions_*.parquet`: every column that is no other is a reward function; the reward is their sum.

    Raises:
        ValueError: A column is missing.
    """
    if missing := [name for name in _TRL if name not in row]:
        raise ValueError(f"it has no column {missing[0]!r}; TRL writes {', '.join(_TRL)} and one for each reward")
    messages = [*_messages(row["prompt"], "user"), *_messages(row["completion"], "assistant")]
    others = {name: value for name, value in row.items() if name not in _TRL}
    parts = {name: number for name, value in others.items() if (number := number_of(value)) is not None}
    facts = plain_facts({name: value for name, value in others.items() if name not in parts})
    advantage = number_of(row["advantage"])
    info = {"mode": "train", "step": int(row["step"]), **facts}
    return Record(
        env_id=env_id,
        task_id="",
        said=[Said(message) for message in messages],
        score=Score(sum(parts.values()), parts) if parts else Score(None, reason="the log has no reward"),
        info={**info, **({} if advantage is None else {"logged_advantage": advantage})},
    )


def _messages(value: Any, role: str) -> list[Message]:
    """Messages from a list of them, or from a text."""
    if isinstance(value, str):
        return [Message("user", value) if role == "user" else with_thinking_split(Message("assistant", value))]
    if not isinstance(value, (list, tuple)) or not len(value):
        raise ValueError("a conversation is a text or a list of messages")
    return [from_wire(_without_nulls(wire)) for wire in value]


def _without_nulls(wire: Any) -> Any:
    """Parquet gives all messages the fields of all others; arguments that are null were not there."""
    if isinstance(wire, Mapping):
        return {name: _without_nulls(value) for name, value in wire.items() if value is not None}
    return [_without_nulls(item) for item in wire] if isinstance(wire, (list, tuple)) else wire
