"""`Trajectory`: one episode with the provenance of every token, and its row in a JSONL file."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl.errors import TaskError
from toolrl.support.secret_values import hide_within
from toolrl.types import Message, Sample, Score, StopReason, ToolCall, ToolFailure, ToolResult

SCHEMA_VERSION = 4
# 2 has no `thinking`; up to 3, calls, parts and usage are lists, which readers cannot type while they are empty.
READABLE_VERSIONS = (2, 3, 4)


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn and what came back.

    Attributes:
        sample: The tokens as sampled; empty if a `ChatPolicy` played.
        message: The same, parsed.
        results: One per tool call.
        observation_ids: (O,) ids appended after the sample; empty for the last turn.
        generation_seconds: From submission to the last token.
        tool_seconds: From the first call to the last result.
    """

    sample: Sample
    message: Message
    results: tuple[ToolResult, ...] = ()
    observation_ids: tuple[int, ...] = ()
    generation_seconds: float = 0.0
    tool_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode.

    Attributes:
        id: Unique within a run.
        env_id: The environment.
        task_id: The task.
        prompt: System and user messages.
        prompt_ids: (P,) the same as tokens; empty if a `ChatPolicy` played, whose samples have no tokens either.
        turns: What happened.
        score: The verdict.
        stop: Why the episode ended.
        error: The infrastructure fault that ended it, if any.
        attempts: How often it was played: 1, plus 1 for each retry after a fault.
        seconds: Wall-clock time of the last attempt.
        info: Facts about the run: step, group, split ...
        usage: What its tools' resources, its reward and its `ChatPolicy` used, by name, over all attempts.
    """

    id: str
    env_id: str
    task_id: str
    prompt: tuple[Message, ...]
    prompt_ids: list[int]
    turns: tuple[Turn, ...]
    score: Score
    stop: StopReason
    error: str = ""
    attempts: int = 1
    seconds: float = 0.0
    info: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)

    @property
    def has_tokens(self) -> bool:
        """Whether a policy that generates tokens played it, so that it can be trained on."""
        return bool(self.prompt_ids)

    @property
    def completion_ids(self) -> list[int]:
        """(C,) sampled and observed ids, in order."""
        return [token for turn in self.turns for token in (*turn.sample.token_ids, *turn.observation_ids)]

    @property
    def mask(self) -> list[int]:
        """(C,) 1 where the model sampled the token, 0 where the environment wrote it."""
        return [bit for turn in self.turns for bit in (*turn.sample.mask, *([0] * len(turn.observation_ids)))]

    @property
    def logprobs(self) -> list[float]:
        """(C,) log-probabilities of sampled tokens, 0.0 for the environment's."""
        return [value for turn in self.turns for value in (*turn.sample.logprobs, *([0.0] * len(turn.observation_ids)))]

    @property
    def messages(self) -> list[Message]:
        """The whole conversation."""
        conversation = list(self.prompt)
        for turn in self.turns:
            conversation.append(turn.message)
            conversation.extend(
                Message("tool", result.content, name=result.call.name, tool_call_id=result.call.id)
                for result in turn.results
            )
        return conversation

    @property
    def tool_results(self) -> list[ToolResult]:
        """The results of all calls, in order."""
        return [result for turn in self.turns for result in turn.results]

    def to_row(self) -> dict[str, Any]:
        """The trajectory as JSON values, with the same fields and types in every row.

        Fields whose structure varies (calls, parts, `usage`, `info`) are JSON text: readers infer the types of columns
        from the first rows, where lists may be empty. Without an answer, `answered` is false and `answer` empty.
        """
        return {
            "schema_version": SCHEMA_VERSION,
            "id": self.id,
            "env_id": self.env_id,
            "task_id": self.task_id,
            "reward": self.score.value,
            "success": self.score.success,
            "answer": self.score.answer or "",
            "answered": self.score.answer is not None,
            "reason": self.score.reason,
            "parts": _json_text(dict(self.score.parts)),
            "usage": _json_text({name: float(value) for name, value in self.usage.items()}),
            "stop": str(self.stop),
            "error": self.error,
            "attempts": self.attempts,
            "seconds": round(self.seconds, 4),
            "info": _json_text(self.info),
            "prompt": [{"role": message.role, "content": message.content} for message in self.prompt],
            "turns": [_turn_to_row(turn) for turn in self.turns],
            "prompt_ids": self.prompt_ids,
            "completion_ids": self.completion_ids,
            "mask": self.mask,
            "logprobs": self.logprobs,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Trajectory:
        """Read a row that `to_row` wrote.

        Raises:
            ValueError: Its schema version is not supported, or it has an invalid value.
            KeyError: A field is missing.
        """
        if row["schema_version"] not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise ValueError(f"schema_version is {row['schema_version']!r}, this version reads {readable}")
        answer = row["answer"] if row.get("answered", True) else None
        turns, start = [], 0
        for turn in row["turns"]:
            middle = start + turn["sampled_tokens"]
            end = middle + turn["observed_tokens"]
            turns.append(_turn_from_row(turn, row, start, middle, end))
            start = end
        return cls(
            id=row["id"],
            env_id=row["env_id"],
            task_id=row["task_id"],
            prompt=tuple(Message(message["role"], message["content"]) for message in row["prompt"]),
            prompt_ids=list(row["prompt_ids"]),
            turns=tuple(turns),
            score=Score(row["reward"], _amounts(row["parts"]), answer, row["reason"]),
            stop=StopReason(row["stop"]),
            error=row["error"],
            attempts=row["attempts"],
            seconds=row["seconds"],
            info=json.loads(row["info"]),
            usage=_amounts(row["usage"]),
        )


def _turn_to_row(turn: Turn) -> dict[str, Any]:
    calls = []
    results = {result.call.id: result for result in turn.results}
    for call in turn.message.tool_calls:
        result = results.get(call.id)
        calls.append(
            {
                "id": call.id,
                "name": call.name,
                "arguments": dict(call.arguments),
                "error": call.error or "",
                "raw": call.raw,
                "output": result.content if result else None,  # the episode ended before the call
                "failure": str(result.failure) if result and result.failure else "",
                "seconds": round(result.seconds, 4) if result else 0.0,
                "cut_characters": result.cut_characters if result else 0,
            }
        )
    return {
        "content": turn.message.content,
        "thinking": turn.message.thinking,
        "tool_calls": _json_text(calls),
        "finish": turn.sample.finish,
        "policy_version": turn.sample.policy_version,
        "sampled_tokens": len(turn.sample.token_ids),
        "observed_tokens": len(turn.observation_ids),
        "generation_seconds": round(turn.generation_seconds, 4),
        "tool_seconds": round(turn.tool_seconds, 4),
    }


def _turn_from_row(turn: dict[str, Any], row: dict[str, Any], start: int, middle: int, end: int) -> Turn:
    calls, results = [], []
    for entry in _from_text(turn["tool_calls"]):
        arguments = _from_text(entry["arguments"])
        call = ToolCall(entry["name"], arguments, entry["id"], entry["error"] or None, entry["raw"])
        calls.append(call)
        if entry["output"] is None:
            continue
        failure = ToolFailure(entry["failure"]) if entry["failure"] else None
        results.append(ToolResult(call, entry["output"], failure, entry["seconds"], entry["cut_characters"]))
    unsampled = [place for place, bit in enumerate(row["mask"][start:middle]) if not bit]
    sample = Sample(
        list(row["completion_ids"][start:middle]),
        list(row["logprobs"][start:middle]),
        turn["finish"],
        turn["policy_version"],
        (unsampled[0], unsampled[-1] + 1) if unsampled else (0, 0),
    )
    return Turn(
        sample,
        Message("assistant", turn["content"], tuple(calls), thinking=turn.get("thinking", "")),
        tuple(results),
        tuple(row["completion_ids"][middle:end]),
        turn["generation_seconds"],
        turn["tool_seconds"],
    )


def _json_text(value: Any) -> str:
    """Write readable JSON; a lone surrogate, which UTF-8 cannot encode, stays an escape."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


def _from_text(value: Any) -> Any:
    """Decode JSON text; up to version 3 the value was not text."""
    return json.loads(value) if isinstance(value, str) else value


def _amounts(value: Any) -> dict[str, float]:
    found = _from_text(value)
    return found if isinstance(found, dict) else {entry["name"]: entry["value"] for entry in found}


class TrajectoryWriter:
    """Appends trajectories to a JSONL file, one whole line each.

    Several threads and processes may append to the same file. An unfinished line, left by a process that was killed
    while writing, is removed before the next one is written.
    """

    def __init__(self, path: str | Path):
        """Open the file for appending, creating it and its folder if necessary."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()  # flock works between open files, not between threads
        with _locked(self._descriptor):
            _cut_torn_line(self._descriptor)

    def write(self, trajectory: Trajectory) -> None:
        """Append one trajectory."""
        line = (json.dumps(hide_within(trajectory.to_row()), ensure_ascii=False) + "\n").encode("utf-8", "replace")
        with self._lock, _locked(self._descriptor):
            _cut_torn_line(self._descriptor)
            view = memoryview(line)
            while view:
                view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Read a file of trajectories, skipping an unfinished last line (the run is writing, or was killed).

    Raises:
        TaskError: The file is missing, or a line is broken; the message names the file and the line.
    """
    path = Path(path)
    if not path.is_file():
        raise TaskError(f"no trajectories at {str(path)!r}")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Trajectory.from_row(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise TaskError(f"{path}, line {number}: not a trajectory ({error!r})") from None


@contextmanager
def _locked(descriptor: int) -> Iterator[None]:
    """Hold an exclusive lock on an open file, between processes."""
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _cut_torn_line(descriptor: int) -> None:
    size = end = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    while end > 0:
        start = max(0, end - 65_536)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)
