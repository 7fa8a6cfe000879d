"""Tells whether a policy still works on what it was asked. One that does not is a fault, not the model's failure."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from toolrl.errors import PolicyFault
from toolrl.policy.base import ChatPolicy, ChatReply, Policy, ShowsProgress
from toolrl.support.waiting import contained, give_up
from toolrl.types import Message, Sample, SamplingParams

T = TypeVar("T")

_LOOKS = 20


class Watchdog:
    """Asks a policy on behalf of all episodes of an engine, and gives up when it does nothing for any of them."""

    def __init__(self, policy: Policy | ChatPolicy, timeout_seconds: float):
        """Watch a policy, and give up on it when it does nothing for `timeout_seconds`."""
        self._policy: Any = policy
        self._name = f"policy {type(policy).__name__}"
        self._timeout_seconds = timeout_seconds
        self._answers = 0

    async def sample(self, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        """`Policy.submit`.

        Raises:
            PolicyFault: The policy failed, was closed, or has stopped working.
        """

        async def ask() -> Sample:
            future = self._policy.submit(prompt_ids, sampling)
            try:
                return cast(Sample, await asyncio.wrap_future(future))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                raise PolicyFault("the policy gave up a turn") from None  # for instance because it was closed

        return await self._answer(ask)

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        """`ChatPolicy.reply`; raises the same as `sample`."""
        return await self._answer(lambda: self._policy.reply(messages, tools, sampling))

    async def _answer(self, ask: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(self._ask(ask))
        try:
            seen, idle = self._progress(), 0
            # Looks are counted, not seconds: a blocked event loop says nothing about the policy.
            while idle <= _LOOKS:
                done, _ = await asyncio.wait((task,), timeout=self._timeout_seconds / _LOOKS)
                if done:
                    return task.result()
                now = self._progress()
                seen, idle = now, 0 if now > seen else idle + 1
        finally:
            await give_up(task)
        raise PolicyFault(f"the policy was asked, and has done nothing for {self._timeout_seconds:g} seconds")

    async def _ask(self, ask: Callable[[], Awaitable[T]]) -> T:
        with contained(self._name):
            answer = await ask()
        self._answers += 1
        return answer

    def _progress(self) -> tuple[int, float]:
        with contained(self._name):
            return self._answers, self._policy.progress() if isinstance(self._policy, ShowsProgress) else 0.0
