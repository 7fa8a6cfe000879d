"""Rollouts on the workers of a Ray cluster, behind the two methods of `RolloutEngine`: `run` and `play_group`.

The driver hands out groups by free capacity. A group counts once: if a call raises although its episodes were played,
they are played again, and the first answer stands. A worker that is lost or silent is replaced, and its groups are
played elsewhere; what nobody could play is unscored, never scored 0.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from toolrl.distributed.cluster import Cluster, connect, is_lost
from toolrl.distributed.work import Played, Playing, PoolSettings, Work, versions
from toolrl.distributed.worker import RolloutWorker
from toolrl.errors import ConfigError, InfrastructureError, UserError
from toolrl.rollout import RolloutRequest, in_groups
from toolrl.support.event_loop import run_sync
from toolrl.support.waiting import contained
from toolrl.trajectory import Trajectory
from toolrl.types import Message, Score, StopReason

CLOSING_SECONDS = 20.0
_BACKOFF_SECONDS = 1.0  # before a lost worker is replaced; doubled up to a minute while none starts
_MOST_BACKOFF_SECONDS = 60.0
_AHEAD = 1.25  # what a worker is given, of what it plays at a time, so that it never waits for us


class WorkerLost(InfrastructureError):
    """Every worker that played an episode was lost."""


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
class _Slot:
    """A place for a worker, which may be filled again and again."""

    number: int
    actor: Any = None
    node: str = ""
    pid: int = 0
    ready: bool = False
    given: set[_Item] = field(default_factory=set)  # not yet answered
    inbox: list[_Item] = field(default_factory=list)  # of these, not yet sent
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def load(self) -> int:
        return sum(item.size for item in self.given)


class RolloutPool:
    """Plays episodes on workers.

    Attributes:
        version: Number of weight updates; stamped on each sample.
    """

    def __init__(self, playing: Playing, settings: PoolSettings, *, cluster: Cluster | None = None):
        """Connect to the cluster; workers start with the first episodes.

        Args:
            playing: How workers play.
            settings: How many, and where.
            cluster: Where actors start; by default what `settings` name.

        Raises:
            ConfigError: No cluster answers, or no node has what a worker takes.
            MissingExtra: Ray is not installed.
        """
        self.version = 0
        self._playing, self._settings = playing, settings
        self._cluster = cluster or connect(settings)
        self._weights: Any = None  # a reference into the object store
        self._slots: list[_Slot] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._queue: deque[_Item] = deque()
        self._pumps = False
        self._failure: BaseException | None = None
        self._faults: Counter[str] = Counter()  # by node
        self._finished, self._since = 0, time.monotonic()

    # ---- as RolloutEngine

    def run(
        self, requests: Sequence[RolloutRequest], on_trajectory: Callable[[Trajectory], None] | None = None
    ) -> list[Trajectory]:
        """Play all episodes and return their trajectories in the order of the requests.

        Args:
            requests: Their environments were made by `toolrl.make`, and they have no policy of their own.
            on_trajectory: Called with each trajectory as its group ends, on the pool's event loop.

        Raises:
            ConfigError: A request cannot be sent, a worker has another version, or lacks an environment.
            Exception: A bug in a tool, a reward or toolrl, from the worker.
        """

        async def play(group: Sequence[RolloutRequest]) -> list[Trajectory]:
            played = await self.play_group(group)
            for trajectory in played if on_trajectory is not None else ():
                with contained(f"on_trajectory, with episode {trajectory.id!r}"):
                    on_trajectory(trajectory)  # type: ignore[misc]
            return played

        return run_sync(in_groups(requests, play))

    async def play_group(self, requests: Sequence[RolloutRequest], *, record: bool = True) -> list[Trajectory]:
        """Play the episodes of one task together; see `RolloutEngine.play_group`. The caller records them."""
        self._start()
        if self._failure is not None:
            raise self._failure
        item = _Item(Work.of(requests), asyncio.get_running_loop().create_future())
        self._queue.append(item)
        self._pump_soon()
        try:
            return await item.result
        finally:
            if not item.result.done():
                item.result.cancel()

    def generating(self) -> AbstractContextManager[None]:
        """Nothing to set up here: workers always can generate."""
        return nullcontext()

    # ---- weights

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Have all workers sample with these weights: turns in flight end first. Each node gets them once.

        Args:
            weights: Tensors by their names in a checkpoint. They are copied.

        Raises:
            ConfigError: The policy has no weights that could be set.
        """
        copied = {name: weight.detach().cpu().clone() for name, weight in weights}
        run_sync(self._load(self._cluster.put(copied)))

    async def _load(self, weights: Any) -> None:
        self._weights, self.version = weights, self.version + 1

        async def load(slot: _Slot) -> None:
            try:
                await slot.actor.load.remote(self._weights, self.version)
            except Exception as error:  # noqa: BLE001 - whatever Ray raises
                if not is_lost(error):
                    raise _cause(error) from None
                self._cluster.kill(slot.actor)  # its keeper notices, and the next worker starts with these weights

        self._start()
        await asyncio.gather(*(load(slot) for slot in self._slots if slot.ready))

    # ---- life

    def status(self) -> str:
        """One line: workers, episodes a second, queues, and lost workers by node."""
        ready = sum(slot.ready for slot in self._slots)
        rate = self._finished / max(time.monotonic() - self._since, 1e-9)
        flying = sum(slot.load for slot in self._slots)
        line = f"{ready} of {self._settings.workers} workers, {rate:.1f} episodes a second, {flying} in flight"
        line += f", {sum(item.size for item in self._queue)} waiting"
        lost = ", ".join(f"{node} {count}" for node, count in self._faults.most_common(4))
        return f"{line}, lost: {lost}" if lost else line

    @property
    def losses(self) -> Mapping[str, int]:
        """Workers that were lost, by node."""
        return dict(self._faults)

    def close(self) -> None:
        """End all workers and what they opened. Safe to call twice."""
        with suppress(RuntimeError):
            run_sync(self._close())
        self._cluster.close()

    async def _close(self) -> None:
        keepers, self._keepers = self._keepers, []
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        self._fail(ConfigError("the pool is closed"))

    def _start(self) -> None:
        if self._keepers or self._failure is not None:
            return
        self._since = time.monotonic()
        self._slots = [_Slot(number) for number in range(self._settings.workers)]
        self._keepers = [asyncio.ensure_future(self._keep(slot)) for slot in self._slots]

    def _fail(self, error: BaseException) -> None:
        """End everything that waits with an error."""
        self._failure = self._failure or error
        items = [*self._queue, *(item for slot in self._slots for item in slot.given)]
        self._queue.clear()
        for item in items:
            if not item.result.done():
                item.result.set_exception(self._failure)

    # ---- handing out

    def _pump_soon(self) -> None:
        """Hand out once for all that arrives in this turn of the loop, so that workers get it together."""
        if not self._pumps:
            self._pumps = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pumps = False
        room = self._settings.concurrency * _AHEAD
        ready = [slot for slot in self._slots if slot.ready]
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

    def _finish(self, slot: _Slot, item: _Item, played: Played) -> None:
        slot.given.discard(item)
        if not item.result.done():  # else played twice: the first answer counts
            if played.error is not None:
                item.result.set_exception(played.error)
            else:
                item.result.set_result(played.trajectories)
                self._finished += item.size
        self._pump_soon()

    def _take_back(self, slot: _Slot, why: str) -> None:
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

    # ---- one worker

    async def _keep(self, slot: _Slot) -> None:
        """Have a worker in the slot, and another when it is lost."""
        backoff, failures = _BACKOFF_SECONDS, 0
        while True:
            slot.actor = self._cluster.start(RolloutWorker, self._playing.of_worker(slot.number))
            try:
                version = self.version
                about = await slot.actor.start.remote(self._weights, version)
                self._check(about)
                while version != self.version:  # they changed while it started
                    version = self.version
                    await slot.actor.load.remote(self._weights, version)
                slot.node, slot.pid, slot.ready = about["node"], about["pid"], True
                backoff, failures = _BACKOFF_SECONDS, 0
                self._pump_soon()
                await self._serve(slot)
            except asyncio.CancelledError:
                await self._end(slot)
                raise
            except Exception as error:  # noqa: BLE001 - whatever Ray raises
                if not is_lost(error):
                    self._fail(_cause(error))
                    await self._end(slot)
                    return
                self._faults[slot.node or "(not started)"] += 1
                why = f"on {slot.node or 'a node'}: {_first_line(error)}"
            failures += not slot.ready
            slot.ready = False
            self._cluster.kill(slot.actor)
            self._take_back(slot, why)
            if failures >= self._settings.attempts:
                self._fail(WorkerLost(f"{failures} workers in a row did not start, the last one {why}"))
                return
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _MOST_BACKOFF_SECONDS)

    async def _serve(self, slot: _Slot) -> None:
        """Send what the slot is given, until the worker is lost."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(slot))
            while True:
                await slot.wake.wait()
                slot.wake.clear()
                items, slot.inbox = slot.inbox, []
                if items:
                    group.create_task(self._send(slot, items))

    async def _send(self, slot: _Slot, items: Sequence[_Item]) -> None:
        answers = slot.actor.play.options(num_returns="streaming").remote([item.work for item in items])
        async for answer in answers:
            place, played = await answer
            self._finish(slot, items[place], played)

    async def _listen(self, slot: _Slot) -> None:
        """Raise when the worker has been silent for too long."""
        silence = self._settings.silence_seconds
        while True:
            try:
                await asyncio.wait_for(_awaited(slot.actor.alive.remote()), silence)
            except TimeoutError:
                raise WorkerLost(f"it has not answered for {silence:g} s") from None
            await asyncio.sleep(silence / 4)

    async def _end(self, slot: _Slot) -> None:
        """Have the worker close what it opened, and end it."""
        if slot.ready:
            with suppress(Exception):
                await asyncio.wait_for(_awaited(slot.actor.close.remote()), CLOSING_SECONDS)
        slot.ready = False
        self._cluster.kill(slot.actor)

    def _check(self, about: Mapping[str, Any]) -> None:
        """Reject a worker whose versions differ.

        Raises:
            ConfigError: They do.
        """
        ours, theirs = versions(), about["versions"]
        for name, version in ours.items():
            if theirs.get(name) != version:
                raise ConfigError(
                    f"node {about['node']} has {name} {theirs.get(name)}, and this process has {version}; install the "
                    "same there"
                )


async def _awaited(reference: Any) -> Any:
    return await reference


def _unplayed(work: Work, id: str, info: Mapping[str, Any], error: str) -> Trajectory:
    """An episode that nobody could play: it is recorded, and unscored."""
    prompt: tuple[Message, ...] = ()
    score = Score(None, reason=error)
    return Trajectory(
        id, work.env_id, work.task_id, prompt, [], (), score, StopReason.FAULT, error=error, info=dict(info)
    )


def _cause(error: BaseException) -> BaseException:
    """The user's error within Ray's."""
    if isinstance(error, BaseExceptionGroup):
        return _cause(error.exceptions[0])
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, UserError) else error


def _first_line(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return _first_line(error.exceptions[0])
    error = getattr(error, "cause", None) or error
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}"
