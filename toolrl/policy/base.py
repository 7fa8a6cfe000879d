"""The interfaces of policies: one that samples tokens, and one that only returns messages."""

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
            sampling: How to sample.

        Returns:
            A future of the turn. Cancelling it abandons the generation. It raises `PolicyFault` if
            generation fails or the policy is unreachable.
        """
        ...

    def generating(self) -> AbstractContextManager[None]:
        """Surround a batch of submissions, for instance to put a model into evaluation mode."""
        ...

    def close(self) -> None:
        """Release threads, processes and memory. Safe to call twice."""
        ...


@runtime_checkable
class ShowsProgress(Protocol):
    """A policy of either kind that can tell whether it is working before it has answered anyone.

    A policy without `progress` is judged by its answers: if none comes for `policy_timeout_seconds`, it counts as dead.
    """

    def progress(self) -> float:
        """A number that grows while it works, for any submission: tokens sampled, steps made. Must not block."""
        ...


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One turn of a `ChatPolicy`.

    Attributes:
        message: The turn; a malformed call in it has its `error` set.
        finish: "stop" if the model ended its turn, "length" if it was cut.
        input_tokens: Tokens of the conversation before the turn, as the policy counts them; None if unknown.
        output_tokens: Tokens of the turn itself.
        seconds: The time the model took, without queues and failed attempts.
    """

    message: Message
    finish: Literal["stop", "length"] = "stop"
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0


@runtime_checkable
class ChatPolicy(Protocol):
    """Answers messages with messages, as chat APIs do. It has no tokens: it can be evaluated, but not trained."""

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        """Continue a conversation.

        Args:
            messages: Everything so far.
            tools: JSON schemas, as in `Toolbox.schemas`.
            sampling: How to sample.

        Raises:
            PolicyFault: The model failed or is unreachable.
        """
        ...

    def close(self) -> None:
        """Release connections. Safe to call twice."""
        ...
