"""The interfaces to whatever plays: a policy that generates tokens, and one that only gives messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from toolrl.types import Message, Sample, SamplingParams


class Policy(Protocol):
    """Generates assistant turns. Submissions are independent; the policy batches them as it likes."""

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """Continue a conversation.

        Args:
            prompt_ids: (P,) everything so far: prompt, samples, observations.
            sampling: How to draw.

        Returns:
            A future of the turn. Cancelling it abandons the generation. It raises `PolicyFault` if
            the generator fails or is unreachable.
        """
        ...

    def generating(self) -> AbstractContextManager[None]:
        """Entered around a batch of submissions, for instance to put a model into evaluation mode."""
        ...

    def close(self) -> None:
        """Release threads, processes and memory. Safe to call twice."""
        ...


@runtime_checkable
class ShowsProgress(Protocol):
    """A policy of either kind that can tell whether it is at work while nobody has an answer yet.

    One that shows none is judged by its answers: if none of them comes for `policy_timeout_seconds`, it is taken for
    dead.
    """

    def progress(self) -> float:
        """A number that grows as it works for anybody: tokens sampled, steps made. Must not block."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """One turn of a policy that gives messages.

    Attributes:
        message: The turn; a malformed call in it has its `error` set.
        finish: "stop" if the model ended its turn, "length" if it was cut.
        input_tokens: The conversation before it, as the policy counts; None if it does not say.
        output_tokens: The turn itself.
        seconds: What the model took. Queues, and attempts that failed, are not counted.
    """

    message: Message
    finish: Literal["stop", "length"] = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0


@runtime_checkable
class ChatPolicy(Protocol):
    """Answers messages with messages, as chat APIs do: without tokens, so it can be evaluated and never trained."""

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> Reply:
        """Continue a conversation.

        Args:
            messages: Everything so far.
            tools: JSON schemas, as `Toolbox.schemas` gives them.
            sampling: How to draw.

        Raises:
            PolicyFault: The model failed or is unreachable.
        """
        ...

    def close(self) -> None:
        """Release connections. Safe to call twice."""
        ...
