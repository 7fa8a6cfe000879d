"""What all formats share: a conversation becomes turns, a row becomes an episode."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from toolrl.support.checking import plain_fact
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Message, Sample, Score, StopReason, ToolCall, ToolFailure, ToolResult


@dataclass(frozen=True)
class Said:
    """A message of a log, with what the log says beside it.

    Attributes:
        message: The message.
        failure: Of a tool's message: how the call failed; None if it did not.
        seconds: How long it took.
        token_ids: (T,) the tokens that it adds to the sequence, the template's around it included; None if unknown.
        mask: (T,) 1 where the model sampled the token.
        logprobs: Of the sampled tokens, in order.
    """

    message: Message
    failure: ToolFailure | None = None
    seconds: float = 0.0
    token_ids: Sequence[int] | None = None
    mask: Sequence[int] = ()
    logprobs: Sequence[float] = ()


@dataclass(frozen=True)
class Record:
    """An episode of a log.

    Attributes:
        env_id: The environment, or what comes closest.
        task_id: The task; empty to derive it from the prompt.
        said: The conversation.
        score: The verdict.
        stop: Why it ended.
        error: The fault that ended it.
        seconds: How long it took.
        info: Facts.
        usage: Amounts used.
    """

    env_id: str
    task_id: str
    said: Sequence[Said]
    score: Score = field(default_factory=lambda: Score(None, reason="the log has no reward"))
    stop: StopReason = StopReason.ANSWER
    error: str = ""
    seconds: float = 0.0
    info: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, float] = field(default_factory=dict)

    def episode(self, id: str) -> Trajectory:
        """The episode.

        Raises:
            ValueError: The conversation has no turn of the assistant before which anything was said.
        """
        first = next(
            (place for place, said in enumerate(self.said) if said.message.role == "assistant"), len(self.said)
        )
        prompt, rest = self.said[:first], self.said[first:]
        if not prompt:
            raise ValueError("the conversation does not begin with a message of the system or the user")
        if any(said.message.role == "tool" for said in prompt):
            raise ValueError("a tool answers before anything was called")
        ids, turns = _turns(prompt, rest)
        question = "\n".join(said.message.content for said in prompt)
        return Trajectory(
            id=id,
            env_id=self.env_id,
            task_id=self.task_id or hashlib.sha256(question.encode("utf-8", "replace")).hexdigest()[:12],
            prompt=tuple(said.message for said in prompt),
            prompt_ids=ids,
            turns=tuple(turns),
            score=self.score,
            stop=self.stop,
            error=self.error,
            seconds=self.seconds,
            info=dict(self.info),
            usage=dict(self.usage),
        )


def _turns(prompt: Sequence[Said], rest: Sequence[Said]) -> tuple[list[int], list[Turn]]:
    """The prompt's tokens, and the turns; without tokens unless those of every message are known."""
    has_tokens = all(said.token_ids is not None for said in (*prompt, *rest)) and all(
        sum(said.mask) == len(said.logprobs) and (said.message.role == "assistant") == any(said.mask) for said in rest
    )
    ids = [token for said in prompt for token in said.token_ids or ()] if has_tokens else []
    turns: list[Turn] = []
    for said in rest:
        message = said.message
        observed: list[int] = []
        if message.role == "assistant":
            sampled, sample = _sample(said) if has_tokens else (0, Sample([], []))
            observed = list((said.token_ids or ())[:sampled])
            if turns:
                turns[-1] = replace(turns[-1], observation_ids=(*turns[-1].observation_ids, *observed))
            else:
                ids += observed
            turns.append(Turn(sample, _with_ids(message, len(turns)), generation_seconds=said.seconds))
            continue
        last = turns[-1]
        if has_tokens:
            last = replace(last, observation_ids=(*last.observation_ids, *(said.token_ids or ())))
        if message.role == "tool":
            call = _called(last, message)
            result = ToolResult(call, message.content, said.failure, said.seconds)
            last = replace(last, results=(*last.results, result), tool_seconds=last.tool_seconds + said.seconds)
        else:
            reply = message.content if last.reply is None else f"{last.reply}\n{message.content}"
            last = replace(last, reply=reply)
        turns[-1] = last
    return ids, turns


def _sample(said: Said) -> tuple[int, Sample]:
    """Where the sampled tokens begin, and these."""
    start = next(place for place, bit in enumerate(said.mask) if bit)
    end = len(said.mask) - next(place for place, bit in enumerate(reversed(said.mask)) if bit)
    if not all(said.mask[start:end]) or end != len(said.mask):
        raise ValueError("the sampled tokens of a turn are not in one piece at its end")
    return start, Sample(list((said.token_ids or ())[start:end]), list(said.logprobs))


def _with_ids(message: Message, number: int) -> Message:
    """Calls without an id get one, so that results find them."""
    calls = tuple(
        call if call.id else replace(call, id=f"call_{number}_{place}") for place, call in enumerate(message.tool_calls)
    )
    return replace(message, tool_calls=calls)


def _called(turn: Turn, message: Message) -> ToolCall:
    """The call that a tool's message answers: by its id, else the first one without an answer.

    Raises:
        ValueError: There is none.
    """
    answered = {result.call.id for result in turn.results}
    open_calls = [call for call in turn.message.tool_calls if call.id not in answered]
    for call in open_calls:
        if call.id == message.tool_call_id:
            return call
    if not open_calls:
        raise ValueError(f"a tool answers a call {message.tool_call_id!r} that was not made")
    return open_calls[0]


def plain_facts(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """Those facts that are short texts, numbers or booleans."""
    return {str(name): fact for name, value in (facts or {}).items() if (fact := plain_fact(value)) is not None}


def number_of(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        number = float(value) if isinstance(value, (bool, int, float)) else math.nan
    except OverflowError:
        number = math.inf
    return number if math.isfinite(number) else None


def listed(value: Any, what: str) -> Iterator[Mapping[str, Any]]:
    """The objects in a list.

    Raises:
        ValueError: It is not a list of objects.
    """
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise ValueError(f"{what} is not a list of objects")
    return iter(value)
