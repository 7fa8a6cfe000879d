"""Policies that follow a script: for oracles, demonstrations, tests and benchmarks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from toolrl.policy.base import ChatReply
from toolrl.types import Message, Sample, SamplingParams


class ScriptedPolicy:
    """Replays turns. It is stateless, so episodes can be retried and run in any order."""

    def __init__(self, script: Sequence[Sequence[int]] | Callable[[list[int]], Sequence[int]], *, seconds: float = 0.0):
        """Prepare a script.

        Args:
            script: The turns of one episode as token ids, in order; or a function from the token ids
                so far (P,) to those of the next turn.
            seconds: Delay before each sample is delivered.
        """
        self._script = script
        self._seconds = seconds

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
        """The first turn that is not yet in `prompt_ids`, searched in order; the last one repeats."""
        assert not callable(self._script)
        position = 0
        for turn in self._script[:-1]:
            found = _find(prompt_ids, turn, position)
            if found < 0:
                return turn
            position = found + len(turn)
        return self._script[-1]

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


def _find(ids: list[int], turn: Sequence[int], start: int) -> int:
    turn = list(turn)
    with suppress(ValueError):
        while True:
            start = ids.index(turn[0], start)
            if ids[start : start + len(turn)] == turn:
                return start
            start += 1
    return -1
