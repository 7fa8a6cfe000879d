"""The records that travel through an episode, in the order in which they appear.

A `Task` is rendered into tokens, a policy answers with a `Sample`, the sample is parsed into an assistant `Message`
with its `ToolCall`s, tools answer with `ToolResult`s, and a reward function turns the `Episode` into a `Score`. All
are immutable; arrays are plain lists of Python numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from enum import StrEnum
from types import NoneType
from typing import Any, Literal

from toolrl.errors import TaskError
from toolrl.support.checking import finite, plain_scalar, shown

Role = Literal["system", "user", "assistant", "tool"]

# The typed fields of a task, with their types and how errors describe them.
TASK_FIELDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "kind": ((str,), "text"),
    "needs_tool": ((bool, NoneType), "True, False or None"),
    "difficulty": ((str, int, float, NoneType), "a number or text"),
    "thinking_tokens": ((int, NoneType), "a number of tokens"),
    "template_options": ((Mapping,), "a mapping"),
}


def fits_task_field(name: str, value: object) -> bool:
    """Whether a value has the type of this field of `Task`."""
    types = TASK_FIELDS[name][0]
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


@dataclass(frozen=True, slots=True)
class Task:
    """One problem. Only `prompt` is ever shown to the model.

    Attributes:
        id: Unique within its task set, stable between runs.
        prompt: The user's message.
        answer: What the grader compares with; JSON-serialisable. Never rendered.
        metadata: The author's own data, such as the oracle's solution. Never rendered. Short plain values are recorded
            with each episode, unless their name is in `toolrl.evaluation.SOLUTIONS` or begins with an underscore.
        kind: The group of tasks it belongs to; reports and plots are broken down by it.
        needs_tool: Whether it cannot be solved without a tool; None if unknown.
        difficulty: A number, or a name such as "hard".
        thinking_tokens: Thinking budget of a turn; takes precedence over `Limits.thinking_tokens`.
        template_options: Variables of the chat template for this task; take precedence over the environment's.

    Raises:
        TaskError: A field has the wrong type, or the id or prompt cannot be encoded as UTF-8.
    """

    id: str
    prompt: str
    answer: Any = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    kind: str = ""
    needs_tool: bool | None = None
    difficulty: str | float | None = None
    thinking_tokens: int | None = None
    template_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (_, wanted) in TASK_FIELDS.items():
            value = plain_scalar(getattr(self, name))
            if not fits_task_field(name, value):
                raise TaskError(f"{name} must be {wanted}, got {shown(value)} (task {self.id!r})")
            object.__setattr__(self, name, value)
        if self.thinking_tokens is not None and self.thinking_tokens < 0:
            raise TaskError(f"thinking_tokens must not be negative, got {self.thinking_tokens} (task {self.id!r})")
        id: Any = self.id
        prompt: Any = self.prompt
        if not isinstance(id, str) or not id:
            raise TaskError(f"a task's id must be non-empty text, got {shown(id)}; write Task(str(...), ...)")
        if not isinstance(prompt, str):
            remedy = ""
            if isinstance(prompt, (Mapping, Sequence)):
                remedy = "; it is one user message, and a system message goes into the environment's system_prompt="
            raise TaskError(f"the prompt must be text, got {shown(prompt)} (task {id!r}){remedy}")
        if not isinstance(self.metadata, Mapping) or not all(isinstance(key, str) for key in self.metadata):
            raise TaskError(f"metadata must be a mapping with text keys, got {shown(self.metadata)} (task {self.id!r})")
        for name, text in (("id", self.id), ("prompt", self.prompt)):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise TaskError(
                    f"the {name} of task {self.id!r} has a lone surrogate at {error.start}, which cannot be encoded"
                ) from None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool call as the model wrote it; a malformed one is a value with `error` set, not an exception.

    Attributes:
        name: The tool's name; empty if the text does not say.
        arguments: The arguments, decoded from JSON.
        id: Unique within the episode.
        error: What is wrong with the text of the call, for the model to read; None if it parsed.
        raw: The text of the call as sampled.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    error: str | None = None
    raw: str = ""


class ToolFailure(StrEnum):
    """Why a tool call gave no result. All of these are mistakes that the model can learn from."""

    MALFORMED = "malformed"
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_ARGUMENTS = "invalid_arguments"
    RAISED = "raised"
    TIMEOUT = "timeout"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class Ended:
    """Returned by a tool or a user to end the episode.

    Attributes:
        text: The tool's result or the user's last words, as for any other result.
        reason: Why, in a word or a line, for the reward and the record.
        answer: The answer to be scored; by default what the agent said last if a user ends it, None if a tool does.
    """

    text: Any = ""
    reason: str = ""
    answer: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.reason, str) or not isinstance(self.answer, str | None):
            raise TypeError(f"Ended takes reason= and answer= as text, got {shown(self.reason)}, {shown(self.answer)}")


@dataclass(frozen=True, slots=True)
class Award:
    """What a tool or a user gave for a turn; see `toolrl.award`.

    Attributes:
        value: Within the bound of `Limits.awards`: smaller than what was given if the bound was reached.
        reason: Why.
    """

    value: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The result of one call.

    Attributes:
        call: The call this answers.
        content: The observation that the model sees, already cut to the tool's limit.
        failure: None when the tool returned normally.
        seconds: Wall-clock time of the call.
        cut_characters: Characters of output that were left out.
        ended: Set if the call ended the episode.
    """

    call: ToolCall
    content: str
    failure: ToolFailure | None = None
    seconds: float = 0.0
    cut_characters: int = 0
    ended: Ended | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message.

    Attributes:
        role: Who speaks.
        content: The text. For an assistant message: everything but its thinking and its tool calls.
        tool_calls: For an assistant message: its calls, malformed ones included.
        name: For a tool message: the tool's name.
        tool_call_id: For a tool message: the id of the call it answers.
        thinking: For an assistant message: its reasoning, where its dialect marks it.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    tool_call_id: str = ""
    thinking: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The message in the form that Hugging Face chat templates expect."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.thinking:
            message["reasoning_content"] = self.thinking
        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": dict(call.arguments)}}
                for call in self.tool_calls
            ]
        if self.role == "tool":
            message["name"] = self.name
            message["tool_call_id"] = self.tool_call_id
        return message


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a policy draws tokens.

    Attributes:
        temperature: 0 is greedy. There is no top-p or top-k: truncating the distribution would bias the
            importance ratio in training.
        max_tokens: Maximum length of one sample.
    """

    temperature: float = 1.0
    max_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn as a policy sampled it.

    Attributes:
        token_ids: (T,) sampled ids, including the end-of-turn token where there is one.
        logprobs: (T,) natural log-probability of each id under the sampling distribution.
        finish: "stop" if the model ended its turn, "length" if it was cut off.
        policy_version: How many weight updates the model had when it sampled.
        forced: (start, stop) of the tokens that were inserted to end its thinking rather than sampled; their logprobs
            are 0. Empty if the two are equal.
    """

    token_ids: list[int]
    logprobs: list[float]
    finish: Literal["stop", "length"] = "stop"
    policy_version: int = 0
    forced: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if len(self.token_ids) != len(self.logprobs):
            raise ValueError(f"{len(self.token_ids)} token ids but {len(self.logprobs)} logprobs in one sample")
        start, stop = self.forced
        if not 0 <= start <= stop <= len(self.token_ids):
            raise ValueError(f"forced={self.forced!r} is not within the {len(self.token_ids)} tokens of the sample")

    @property
    def mask(self) -> list[int]:
        """(T,) 1 where the model sampled the token."""
        start, stop = self.forced
        return [1] * start + [0] * (stop - start) + [1] * (len(self.token_ids) - stop)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one episode.

    Attributes:
        turns: Assistant turns.
        tool_calls: Tool calls; further ones are refused, and the model is told so.
        completion_tokens: Sampled and observed tokens after the prompt.
        turn_tokens: Sampled tokens in one turn.
        thinking_tokens: Of these, tokens for thinking, which is then ended for the model; 0 for no separate limit.
            `Task.thinking_tokens` takes precedence. Policies behind chat APIs have budgets of their own.
        reward_seconds: Time limit of the reward function. Past it the episode is unscored, with a warning.
        user_seconds: Time limit of one reply of the user, past which it is an infrastructure fault.
        awards: Bound of the sum of an episode's awards, up and down, so that they cannot be farmed.

    Tokens, turns and calls bound the model. A tool's time is bounded by its own `timeout_seconds`, and a policy that
    stops answering is a fault (`RolloutEngine(policy_timeout_seconds=)`): the model never pays for time it did not
    spend.
    """

    turns: int = 8
    tool_calls: int = 16
    completion_tokens: int = 2048
    turn_tokens: int = 512
    thinking_tokens: int = 0
    reward_seconds: float = 600.0
    user_seconds: float = 120.0
    awards: float = 1.0

    def __post_init__(self) -> None:
        whole = ("turns", "completion_tokens", "turn_tokens", "tool_calls", "thinking_tokens")
        for name in (*whole, "reward_seconds", "user_seconds", "awards"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int,) if name in whole else (int, float)):
                raise ValueError(f"Limits.{name} must be a {'whole ' * (name in whole)}number, got {shown(value)}")
            zero = name in ("tool_calls", "thinking_tokens", "awards")
            if not value >= 0 or (value == 0 and not zero):
                raise ValueError(f"Limits.{name} must {'not be negative' if zero else 'be positive'}, got {value!r}")


class StopReason(StrEnum):
    """Why an episode ended: the agent answered, a tool or the user ended it, a limit cut it, or there was a fault."""

    ANSWER = "answer"
    TOOL = "tool"
    USER = "user"
    TURNS = "turns"
    TOKENS = "tokens"
    FAULT = "fault"

    @property
    def terminated(self) -> bool:
        """Whether the episode came to its own end."""
        return self in (StopReason.ANSWER, StopReason.TOOL, StopReason.USER)

    @property
    def truncated(self) -> bool:
        """Whether a limit ended the episode, not the model."""
        return self in (StopReason.TURNS, StopReason.TOKENS)


@dataclass(frozen=True, slots=True)
class Episode:
    """What a reward function may look at: the final answer and the environment's state.

    There is no transcript, on purpose: text that a tool returned, or that the model wrote before its final message,
    must not be able to pass for an answer.

    Attributes:
        answer: Text of the final assistant message, or what `Ended` says; None if the episode ended without one.
        tool_results: Every call with its result, in order.
        stop: Why the episode ended.
        state: Open resources (a sandbox, a database ...) by parameter name, the user's state as "user"; those that
            nothing needed are absent.
        said: What the agent said to the user, in order: the texts of its turns without calls.
        awards: What its turns were awarded. They are part of the score only if the reward adds them.
        ending: The reason of the `Ended` that a tool or the user returned.
        score: What the reward gave; only in a group's reward.
    """

    answer: str | None
    tool_results: Sequence[ToolResult] = ()
    stop: StopReason = StopReason.ANSWER
    state: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()
    awards: Sequence[Award] = ()
    ending: str = ""
    score: Score | None = None

    @property
    def awarded(self) -> float:
        """The sum of the awards."""
        return sum(award.value for award in self.awards)

    @property
    def tool_calls(self) -> int:
        """Number of calls that the model attempted, failed ones included."""
        return len(self.tool_results)


@dataclass(frozen=True, slots=True)
class Score:
    """The verdict on an episode.

    Attributes:
        value: The reward; None if the episode could not be scored, which is not the same as zero.
        parts: Named components, for people and metrics. `correct` (0 or 1) counts as success.
        answer: The answer extracted from the final message.
        reason: Why, in one line.

    Raises:
        ValueError: A number is not finite.
        TypeError: A field has the wrong type. NumPy numbers and the like become floats.
    """

    value: float | None
    parts: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.value is not None:
            object.__setattr__(self, "value", finite("Score.value", self.value))
        if not isinstance(self.parts, Mapping) or not all(isinstance(name, str) for name in self.parts):
            raise TypeError(f"Score.parts must map names to numbers, got {shown(self.parts)}")
        parts = {name: finite(f"Score.parts[{name!r}]", number) for name, number in self.parts.items()}
        object.__setattr__(self, "parts", parts)
        if not (self.answer is None or isinstance(self.answer, str)):
            raise TypeError(f"Score.answer must be text or None, got {shown(self.answer)}; write answer=str(...)")
        if not isinstance(self.reason, str):
            raise TypeError(f"Score.reason must be text, got {shown(self.reason)}")

    @property
    def success(self) -> bool | None:
        """`parts["correct"] > 0` (or `value > 0` without that part); None if unscored."""
        if self.value is None:
            return None
        return self.parts.get("correct", self.value) > 0
