"""Engines that sample for many workers: the actor, and the policy by which workers ask it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from toolrl.distributed.cluster import awaited, give_up, is_gone
from toolrl.distributed.host import PolicyHost, about_here
from toolrl.errors import ConfigError, InfrastructureError, PolicyFault
from toolrl.policy.conversations import Conversations
from toolrl.support.event_loop import submit_to_background_loop
from toolrl.types import Sample, SamplingParams

PATIENCE_SECONDS = 300.0  # how long a turn waits for an engine when there is none
_LOOK_SECONDS = 20.0  # between two questions whether an engine works


class InferenceEngine(PolicyHost):
    """Samples turns for workers."""

    async def start(self, weights: Mapping[str, Any] | None = None, version: int = 0) -> dict[str, Any]:
        """Open the policy, with the given weights if there are any; see `about_here`."""
        await asyncio.to_thread(self._open_policy, self._playing.open_renderer())
        if weights is not None:
            await self.load(weights, version)
        return about_here()

    async def sample(self, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        """Sample a turn; when the call is cancelled, it is given up."""
        assert self._gate is not None
        return await asyncio.wrap_future(self._gate.submit(prompt_ids, sampling))

    async def alive(self) -> float:
        """A number that grows while the policy works; see `ShowsProgress`."""
        return 0.0 if self._gate is None else self._gate.progress()


@dataclass(eq=False)
class _Seat:
    """An engine as a worker sees it."""

    number: int
    actor: Any
    in_flight: int = 0
    looked: float = 0.0
    progress: float = 0.0


class RemotePolicy:
    """A policy that has engines sample. A turn whose engine dies is sampled again by another one."""

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS):
        """Wait for engines; `set_engines` names them."""
        self._patience_seconds = patience_seconds
        self._seats: dict[int, _Seat] = {}
        self._conversations: Conversations[_Seat] = Conversations()
        self._answers = 0

    def set_engines(self, engines: Sequence[tuple[int, Any]]) -> None:
        """Sample with these engines from now on; turns in flight stay where they are."""
        kept = dict(self._seats)
        self._seats = {
            number: kept[number] if number in kept and kept[number].actor == actor else _Seat(number, actor)
            for number, actor in engines
        }

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        """See `Policy.submit`."""
        return submit_to_background_loop(self._sample(prompt_ids, sampling))

    def generating(self) -> AbstractContextManager[None]:
        """Nothing to set up here: engines always can generate."""
        return nullcontext()

    def progress(self) -> float:
        """Answers, and the progress of engines that were asked; see `ShowsProgress`."""
        return self._answers + sum(seat.progress for seat in self._seats.values())

    def close(self) -> None:
        """Nothing: engines belong to the pool."""

    async def _sample(self, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        while True:
            seat = await self._choose(prompt_ids)
            seat.in_flight += 1
            try:
                sample = await self._ask(seat, prompt_ids, sampling)
            except (PolicyFault, ConfigError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever Ray raises
                if not is_gone(error):
                    raise _cause(error) from None
                if self._seats.get(seat.number) is seat:  # until the pool names another one
                    del self._seats[seat.number]
                continue
            finally:
                seat.in_flight -= 1
            self._answers += 1
            self._conversations.remember(prompt_ids, sample.token_ids, seat)
            return sample

    async def _choose(self, prompt_ids: list[int]) -> _Seat:
        """The engine that has the conversation in its cache, else the least busy one."""
        deadline = time.monotonic() + self._patience_seconds
        while not self._seats:
            if time.monotonic() > deadline:
                raise PolicyFault(f"no engine has joined within {self._patience_seconds:g} s")
            await asyncio.sleep(0.05)
        seats = list(self._seats.values())
        known = self._conversations.find(prompt_ids) if len(seats) > 1 else None
        return known if known in seats else min(seats, key=lambda seat: seat.in_flight)

    async def _ask(self, seat: _Seat, prompt_ids: list[int], sampling: SamplingParams) -> Sample:
        reference = seat.actor.sample.remote(prompt_ids, sampling)
        answer = asyncio.ensure_future(awaited(reference))
        try:
            while not (await asyncio.wait((answer,), timeout=_LOOK_SECONDS))[0]:
                if time.monotonic() - seat.looked > _LOOK_SECONDS / 2:
                    seat.looked = time.monotonic()
                    seat.progress = await seat.actor.alive.remote()
            sample: Sample = answer.result()
            return sample
        finally:
            if not answer.done():
                give_up(reference)
                answer.cancel()


def _cause(error: Exception) -> Exception:
    """What the engine raised, within Ray's error."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, (InfrastructureError, ConfigError)):
        return cause
    return PolicyFault(f"the engine failed: {str(error).strip().splitlines()[-1]}")
