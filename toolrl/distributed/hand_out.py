"""Groups of episodes, handed out to workers by free capacity."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolrl.distributed.cluster import WorkerLost
from toolrl.distributed.crew import Crew, Slot, Weights
from toolrl.distributed.settings import PoolSettings
from toolrl.distributed.work import Played, Playing, Surroundings, Work
from toolrl.distributed.worker import RolloutWorker
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Score, StopReason

_AHEAD = 1.25  # what a worker is given, of what it plays at a time, so that it never waits for us


@dataclass(eq=False)
class _Item:
    """A group to be played."""

    work: Work
    result: asyncio.Future[list[Trajectory]]
    losses: int = 0

    @property
    def size(self) -> int:
        return len(self.work.episodes)


@dataclass(eq=False)
class WorkerSlot(Slot):
    """A place for a worker, and the groups that it was given."""

    given: set[_Item] = field(default_factory=set)  # not yet answered
    inbox: list[_Item] = field(default_factory=list)  # of these, not yet sent
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def load(self) -> int:
        """Episodes that it was given and has not answered."""
        return sum(item.size for item in self.given)


class Workers(Crew[WorkerSlot]):
    """The workers, and the queue of what they play.

    Attributes:
        finished: Episodes that were played.
    """

    def __init__(
        self,
        playing: Playing,
        weights: Weights,
        *common: Any,
        around: Callable[[WorkerSlot], Awaitable[Surroundings]],
    ):
        """See `Crew`; `around` says what a worker needs to know of the others."""
        settings: PoolSettings = common[1]
        super().__init__("worker", [WorkerSlot(number) for number in range(settings.workers)], *common)
        self._playing, self._weights, self._around = playing, weights, around
        self._queue: deque[_Item] = deque()
        self._pumps = False
        self.finished = 0

    async def play(self, work: Work) -> list[Trajectory]:
        """Have a group played."""
        item = _Item(work, asyncio.get_running_loop().create_future())
        self._queue.append(item)
        self._pump_soon()
        try:
            return await item.result
        finally:
            if not item.result.done():
                item.result.cancel()

    @property
    def waiting(self) -> int:
        """Episodes that no worker was given yet."""
        return sum(item.size for item in self._queue)

    @property
    def flying(self) -> int:
        """Episodes that workers were given."""
        return sum(slot.load for slot in self.slots)

    def end(self, error: BaseException) -> None:
        """End everything that waits with an error."""
        items = [*self._queue, *(item for slot in self.slots for item in slot.given)]
        self._queue.clear()
        for item in items:
            if not item.result.done():
                item.result.set_exception(error)

    # ---- handing out

    def _pump_soon(self) -> None:
        """Hand out once for all that arrives in this turn of the loop, so that workers get it together."""
        if not self._pumps:
            self._pumps = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumps = False
        room = self._settings.concurrency * _AHEAD
        ready = self.ready
        while self._queue and ready:
            slot = min(ready, key=lambda slot: slot.load)
            if slot.load and slot.load + self._queue[0].size > room:
                return
            item = self._queue.popleft()
            if item.result.done():
                continue
            slot.given.add(item)
            slot.inbox.append(item)
            slot.wake.set()

    def _finish(self, slot: WorkerSlot, item: _Item, played: Played) -> None:
        slot.given.discard(item)
        if not item.result.done():  # else played twice: the first answer counts
            if played.error is not None:
                item.result.set_exception(played.error)
            else:
                item.result.set_result(played.trajectories)
                self.finished += item.size
        self._pump_soon()

    # ---- as a crew

    def _create(self, slot: WorkerSlot) -> Any:
        arguments = (self._playing.of_worker(slot.number), self._settings.concurrency)
        return self._cluster.start(RolloutWorker, arguments, self._settings.resources)

    async def _welcome(self, slot: WorkerSlot) -> Mapping[str, Any]:
        return await self._weights.start(slot.actor, await self._around(slot))

    async def _joined(self, slot: WorkerSlot) -> None:
        # Now its node is known, and what joined or left while it started.
        await slot.actor.surround.remote(await self._around(slot))
        self._pump_soon()

    async def _left(self, slot: WorkerSlot, why: str) -> None:
        """Have what a lost worker was given played elsewhere."""
        given, slot.given, slot.inbox = slot.given, set(), []
        for item in sorted(given, key=lambda item: item.work.episodes[0][0]):
            if item.result.done():
                continue
            item.losses += 1
            if item.losses >= self._settings.attempts:
                error = f"{WorkerLost.__name__}: {item.losses} workers were lost, the last one {why}"
                item.result.set_result([_unplayed(item.work, id, info, error) for id, info in item.work.episodes])
            else:
                self._queue.appendleft(item)
        self._pump_soon()

    async def _work(self, slot: WorkerSlot) -> None:
        """Send what the slot is given."""
        async with asyncio.TaskGroup() as group:
            while True:
                await slot.wake.wait()
                slot.wake.clear()
                items, slot.inbox = slot.inbox, []
                if items:
                    group.create_task(self._send(slot, items))

    async def _send(self, slot: WorkerSlot, items: Sequence[_Item]) -> None:
        answers = slot.actor.play.options(num_returns="streaming").remote([item.work for item in items])
        async for answer in answers:
            place, played = await answer
            self._finish(slot, items[place], played)


def _unplayed(work: Work, id: str, info: Mapping[str, Any], error: str) -> Trajectory:
    """An episode that nobody could play: it is recorded, and unscored."""
    prompt: tuple[Message, ...] = ()
    score = Score(None, reason=error)
    return Trajectory(
        id, work.env_id, work.task_id, prompt, [], (), score, StopReason.FAULT, error=error, info=dict(info)
    )
