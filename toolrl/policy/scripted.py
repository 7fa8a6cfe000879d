"""Policies that follow a script: for oracles, demonstrations, tests and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from toolrl.policy.base import ChatReply
from toolrl.types import Message, Sample, SamplingParams


class ScriptedPolicy:
    """Replays turns. Each follows from the tokens so far, so episodes can be retried and run in any order.

    It goes by the conversations in which it has spoken, not by their texts: a user can say what it is about to say.
    """

    def __init__(self, script: Sequence[Sequence[int]] | Callable[[list[int]], Sequence[int]], *, seconds: float = 0.0):
        """Prepare a script.

        Args:
            script: The turns of one episode as token ids, in order; or a function from the token ids
                so far (P,) to those of the next turn.
            seconds: Delay before each sample is delivered.
        """
        self._script = script
        self._seconds = seconds
        self._said: dict[int, int] = {}  # by a hash of the ids up to the end of a turn: how many turns that makes

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """Deliver the next turn, cut to `sampling.max_tokens`; every logprob is 0."""
        turn = list(self._script(prompt_ids) if callable(self._script) else self._next(prompt_ids))
        cut = turn[: sampling.max_tokens]
        sample = Sample(cut, [0.0] * len(cut), "stop" if len(cut) == len(turn) else "length")
        future: Future[Sample] = Future()
        if self._seconds > 0:

            def deliver() -> None:
                if future.set_running_or_notify_cancel():
                    future.set_result(sample)

            timer = threading.Timer(self._seconds, deliver)
            timer.daemon = True
            timer.start()
        else:
            future.set_result(sample)
        return future

    def _next(self, prompt_ids: list[int]) -> Sequence[int]:
        """The turn after the longest conversation of its own that `prompt_ids` continues; the last one repeats."""
        assert not callable(self._script)
        said, state = 0, 0
        for token in prompt_ids:
            state = hash((state, token))
            said = self._said.get(state, said)
        turn = self._script[min(said, len(self._script) - 1)]
        for token in turn:
            state = hash((state, token))
        self._said[state] = said + 1
        return turn

    def generating(self) -> AbstractContextManager[None]:
        """Nothing to prepare."""
        return nullcontext()

    def close(self) -> None:
        """Nothing to release."""


class ScriptedChatPolicy:
    """Answers the n-th turn of an episode with the n-th message; the last one repeats. It is stateless."""

    def __init__(self, script: Sequence[Message]):
        self._script = script

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        """Return the next message, ignoring the limits."""
        turn = sum(message.role == "assistant" for message in messages)
        return ChatReply(self._script[min(turn, len(self._script) - 1)])

    def close(self) -> None:
        """Nothing to release."""
