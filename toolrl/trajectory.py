"""`Trajectory`: one episode with the provenance of every token, its row, and the JSONL file of such rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

from toolrl.errors import TaskError
from toolrl.support.json_text import decode_json, json_text
from toolrl.support.line_file import LineFile
from toolrl.support.secret_values import hide_within
from toolrl.types import Award, Ended, Message, Role, Sample, Score, StopReason, ToolCall, ToolFailure, ToolResult

SCHEMA_VERSION = 6
READABLE_VERSIONS = (5, 6)  # 5 had no branches and no results


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn and what came back.

    Attributes:
        sample: The tokens as sampled; empty if a `ChatPolicy` played.
        message: The same, parsed.
        results: One per tool call.
        observation_ids: (O,) tokens appended after the sample; empty for the last turn.
        generation_seconds: From submission to the last token.
        tool_seconds: From the first call to the last result, or to the user's reply.
        reply: What the user said after it; None if nobody spoke.
        awards: What tools or the user awarded it.
    """

    sample: Sample
    message: Message
    results: tuple[ToolResult, ...] = ()
    observation_ids: tuple[int, ...] = ()
    generation_seconds: float = 0.0
    tool_seconds: float = 0.0
    reply: str | None = None
    awards: tuple[Award, ...] = ()

    @property
    def calls(self) -> list[tuple[ToolCall, ToolResult | None]]:
        """Each call with its result; None if the episode ended before the call ran."""
        results = {result.call.id: result for result in self.results}
        return [(call, results.get(call.id)) for call in self.message.tool_calls]


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode.

    Attributes:
        id: Unique within a run.
        env_id: The environment.
        task_id: The task.
        prompt: System and user messages.
        prompt_ids: (P,) the same as tokens; empty if a `ChatPolicy` played, whose samples have no tokens either.
        turns: The assistant's turns, in order.
        score: The verdict.
        stop: Why the episode ended.
        ending: The reason that the tool or the user gave that ended it.
        error: The infrastructure fault that ended it; empty if there was none.
        attempts: 1, plus 1 for each retry after a fault.
        seconds: Wall-clock time of the last attempt.
        info: Facts about the run: step, group, split ...
        usage: Amounts used by the tools' resources, the reward and a `ChatPolicy`, by name, over all attempts.
        branches: Further conversations, where a program played that had several: trajectories with the same verdict.
        results: What the environment's tools returned to a program, whose conversations need not show it; None if
            the turns have it.
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
    ending: str = ""
    branches: tuple[Trajectory, ...] = ()
    results: tuple[ToolResult, ...] | None = None

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
            conversation += [
                Message("tool", one.content, name=one.call.name, tool_call_id=one.call.id) for one in turn.results
            ]
            if turn.reply is not None:
                conversation.append(Message("user", turn.reply))
        return conversation

    @property
    def tool_results(self) -> list[ToolResult]:
        """The results of all calls of the environment's tools, in order."""
        return [result for turn in self.turns for result in turn.results] if self.results is None else [*self.results]

    def to_row(self) -> dict[str, Any]:
        """The trajectory as JSON values, with the same fields and types in every row; see `Row`."""
        row = Row(
            schema_version=SCHEMA_VERSION,
            id=self.id,
            env_id=self.env_id,
            task_id=self.task_id,
            reward=self.score.value,
            success=self.score.success,
            answer=self.score.answer or "",
            answered=self.score.answer is not None,
            reason=self.score.reason,
            parts=json_text({name: float(value) for name, value in self.score.parts.items()}),
            usage=json_text({name: float(value) for name, value in self.usage.items()}),
            stop=self.stop,
            ending=self.ending,
            error=self.error,
            attempts=self.attempts,
            seconds=round(self.seconds, 4),
            info=json_text(self.info),
            prompt=[MessageRow(role=message.role, content=message.content) for message in self.prompt],
            turns=[TurnRow.of(turn) for turn in self.turns],
            prompt_ids=self.prompt_ids,
            completion_ids=self.completion_ids,
            mask=self.mask,
            logprobs=self.logprobs,
            branches=json_text([branch.to_row() for branch in self.branches]),
            results=json_text(
                self.results and msgspec.to_builtins([CallRow.of(one.call, one) for one in self.results])
            ),
        )
        values: dict[str, Any] = msgspec.to_builtins(row)
        return values

    @classmethod
    def from_row(cls, values: dict[str, Any]) -> Trajectory:
        """Read a row that `to_row` wrote.

        Raises:
            ValueError: It was written by another version, lacks a field, or holds a value that no version writes.
        """
        check_version(values.get("schema_version"))
        row = msgspec.convert(values, Row[list[int], list[float]])
        program, turns, start = decode_json(row.results, PROGRAM_CALLS), [], 0
        for turn in row.turns:
            turns.append(turn.read(row, start))
            start += turn.sampled_tokens + turn.observed_tokens
        return cls(
            id=row.id,
            env_id=row.env_id,
            task_id=row.task_id,
            prompt=tuple(Message(message.role, message.content) for message in row.prompt),
            prompt_ids=row.prompt_ids,
            turns=tuple(turns),
            score=Score(row.reward, amounts(row.parts), row.answer if row.answered else None, row.reason),
            stop=row.stop,
            error=row.error,
            attempts=row.attempts,
            seconds=row.seconds,
            info=json.loads(row.info),
            usage=amounts(row.usage),
            ending=row.ending,
            branches=tuple(map(cls.from_row, json.loads(row.branches))),
            results=None if program is None else tuple(result for _, result in map(CallRow.read, program) if result),
        )


# ---- rows

Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
Ids = TypeVar("Ids")  # list[int], or msgspec.Raw for a reader that skips tokens
Numbers = TypeVar("Numbers")  # list[float], or msgspec.Raw


class CallRow(msgspec.Struct, kw_only=True):
    """A tool call; `output` is None if the episode ended before the call ran. Empty texts stand for None."""

    id: str
    name: str
    arguments: dict[str, Any]
    error: str
    raw: str
    output: str | None
    failure: str
    seconds: float
    cut_characters: int
    ended: Ended | None = None

    @classmethod
    def of(cls, call: ToolCall, result: ToolResult | None) -> CallRow:
        """The row of a call."""
        return cls(
            id=call.id,
            name=call.name,
            arguments=dict(call.arguments),
            error=call.error or "",
            raw=call.raw,
            output=result.content if result else None,
            failure=str(result.failure) if result and result.failure else "",
            seconds=round(result.seconds, 4) if result else 0.0,
            cut_characters=result.cut_characters if result else 0,
            ended=result.ended if result else None,
        )

    def read(self) -> tuple[ToolCall, ToolResult | None]:
        """The call and its result."""
        call = ToolCall(self.name, self.arguments, self.id, self.error or None, self.raw)
        if self.output is None:
            return call, None
        failure = ToolFailure(self.failure) if self.failure else None
        return call, ToolResult(call, self.output, failure, self.seconds, self.cut_characters, self.ended)


class MessageRow(msgspec.Struct, kw_only=True):
    """A message of the prompt."""

    role: Role
    content: str


class TurnRow(msgspec.Struct, kw_only=True):
    """A turn. `tool_calls` and `awards` are JSON text, lists of `CallRow` and `Award`; `reply` counts if `replied`."""

    content: str
    thinking: str
    tool_calls: str
    finish: Literal["stop", "length"]
    policy_version: int
    sampled_tokens: Count
    observed_tokens: Count
    generation_seconds: float
    tool_seconds: float
    reply: str = ""
    replied: bool = False
    awards: str = "[]"

    @classmethod
    def of(cls, turn: Turn) -> TurnRow:
        """The row of a turn."""
        calls = [CallRow.of(call, result) for call, result in turn.calls]
        return cls(
            content=turn.message.content,
            thinking=turn.message.thinking,
            tool_calls=json_text(msgspec.to_builtins(calls)),
            finish=turn.sample.finish,
            policy_version=turn.sample.policy_version,
            sampled_tokens=len(turn.sample.token_ids),
            observed_tokens=len(turn.observation_ids),
            generation_seconds=round(turn.generation_seconds, 4),
            tool_seconds=round(turn.tool_seconds, 4),
            reply=turn.reply or "",
            replied=turn.reply is not None,
            awards=json_text(msgspec.to_builtins(turn.awards)),
        )

    def calls(self) -> list[CallRow]:
        """The calls."""
        return decode_json(self.tool_calls, _CALLS)

    def awarded(self) -> list[Award]:
        """The awards."""
        return decode_json(self.awards, _AWARDS) if self.awards != "[]" else []

    def read(self, row: Row[list[int], list[float]], start: int) -> Turn:
        """The turn; its tokens begin at `start`."""
        middle = start + self.sampled_tokens
        end = middle + self.observed_tokens
        calls = [call.read() for call in self.calls()]
        places = [index for index, bit in enumerate(row.mask[start:middle]) if not bit]
        forced = (places[0], places[-1] + 1) if places else (0, 0)
        ids, logprobs = row.completion_ids[start:middle], row.logprobs[start:middle]
        return Turn(
            Sample(ids, logprobs, self.finish, self.policy_version, forced),
            Message("assistant", self.content, tuple(call for call, _ in calls), thinking=self.thinking),
            tuple(result for _, result in calls if result is not None),
            tuple(row.completion_ids[middle:end]),
            self.generation_seconds,
            self.tool_seconds,
            self.reply if self.replied else None,
            tuple(self.awarded()),
        )


class Row(msgspec.Struct, Generic[Ids, Numbers], kw_only=True):
    """A line of a file of trajectories.

    Fields whose content varies between episodes (calls, parts, `usage`, `info`, `branches`) are JSON text: readers
    infer the types of columns from the first rows, where lists may be empty. Without an answer `answered` is false and
    `answer` empty.
    """

    schema_version: int
    id: str
    env_id: str
    task_id: str
    reward: float | None
    success: bool | None
    answer: str
    answered: bool
    reason: str
    parts: str
    usage: str
    stop: StopReason
    ending: str = ""
    error: str
    attempts: Count
    seconds: float
    info: str
    prompt: list[MessageRow]
    turns: list[TurnRow]
    prompt_ids: Ids
    completion_ids: Ids
    mask: Ids
    logprobs: Numbers
    branches: str = "[]"
    results: str = "null"


_CALLS = msgspec.json.Decoder(list[CallRow])
PROGRAM_CALLS = msgspec.json.Decoder(list[CallRow] | None)
_AWARDS = msgspec.json.Decoder(list[Award])
_AMOUNTS = msgspec.json.Decoder(dict[str, float])


def check_version(version: object) -> None:
    """Refuse a schema version that cannot be read.

    Raises:
        TaskError: It is not one of `READABLE_VERSIONS`.
    """
    if version not in READABLE_VERSIONS:
        raise TaskError(f"schema_version is {version!r}, this version reads {READABLE_VERSIONS}")


def amounts(value: str) -> dict[str, float]:
    """Parts of a score, or amounts used, by name."""
    return decode_json(value, _AMOUNTS)


# ---- files


class TrajectoryWriter(LineFile):
    """Appends trajectories to a JSONL file. Several threads and processes may append to one file."""

    def write(self, *trajectories: Trajectory) -> None:
        """Append trajectories at once, so that a kill does not leave a part of a group."""
        self.append("\n".join(json.dumps(hide_within(t.to_row()), ensure_ascii=False) for t in trajectories))


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """Read a file of trajectories. An unfinished last line, of a run that is writing or was killed, is skipped.

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
            except (ValueError, AttributeError) as error:
                raise TaskError(f"{path}, line {number}: not a trajectory ({error!r})") from None
