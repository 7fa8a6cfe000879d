"""Tells whether a policy still works on what it was asked. One that does not is a fault, not the model's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from toolrl.errors import PolicyFault
from toolrl.policy.base import ChatPolicy, ChatReply, Policy, ShowsProgress
from toolrl.support.arrivals import Arrivals
from toolrl.support.waiting import contained, give_up
from toolrl.types import Message, Sample, SamplingParams

T = TypeVar("T")

_LOOKS = 20


class Watchdog:
    """Asks a policy on behalf of all episodes of an engine, and gives up when it does nothing for any of them.

    Attributes:
        is_chat: Whether the policy is a `ChatPolicy`.
    """

    def __init__(self, policy: Policy | ChatPolicy, timeout_seconds: float):
        """Watch a policy, and give up on it when it does nothing for `timeout_seconds`."""
        self._policy: Any = policy
        self._name = f"policy {type(policy).__name__}"
        self._timeout_seconds = timeout_seconds
        self._answers = 0
        # Both are slow to find out.
        self.is_chat = isinstance(policy, ChatPolicy)
        self._shows_progress = policy if isinstance(policy, ShowsProgress) else None
        self._inbox: Arrivals | None = None

    async def sample(self, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        """`Policy.submit`.

        Raises:
            PolicyFault: The policy failed, was closed, or has stopped working.
        """
        with contained(self._name):
            answer = self._arrivals().expect(self._policy.submit(prompt_ids, sampling), self._name)
        await self._watch(answer)
        with contained(self._name):
            if answer.cancelled():
                raise PolicyFault("the policy gave up a turn")  # for instance because it was closed
            sample = answer.result()
        self._answers += 1
        return cast(Sample, sample)

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        """`ChatPolicy.reply`; raises the same as `sample`."""
        answer = asyncio.ensure_future(self._ask(lambda: self._policy.reply(messages, tools, sampling)))
        await self._watch(answer)
        return answer.result()

    async def _watch(self, answer: asyncio.Future[Any]) -> None:
        """Wait until an answer is there; it is cancelled if this ends before.

        Raises:
            PolicyFault: The policy has stopped working.
        """
        try:
            seen, idle = self._progress(), 0
            # Looks are counted, not seconds: a blocked event loop says nothing about the policy.
            while idle <= _LOOKS:
                done, _ = await asyncio.wait((answer,), timeout=self._timeout_seconds / _LOOKS)
                if done:
                    return
                now = self._progress()
                seen, idle = now, 0 if now > seen else idle + 1
        finally:
            await give_up(answer)
        raise PolicyFault(f"the policy was asked, and has done nothing for {self._timeout_seconds:g} seconds")

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        with contained(self._name):
            answer = await ask()
        self._answers += 1
        return answer

    def _arrivals(self) -> Arrivals:
        """Those of the running loop: a loop that was blocked is replaced."""
        loop = asyncio.get_running_loop()
        if self._inbox is None or self._inbox.loop is not loop:
            self._inbox = Arrivals(loop)
        return self._inbox

    def _progress(self) -> tuple[int, float]:
        if self._shows_progress is None:
            return self._answers, 0.0
        with contained(self._name):
            return self._answers, self._shows_progress.progress()
