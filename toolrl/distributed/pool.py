"""Rollouts on the workers of a Ray cluster, behind the two methods of `RolloutEngine`: `run` and `play_group`.

The driver hands out groups by free capacity. A group counts once: if a call raises although its episodes were played,
they are played again, and the first answer stands. A worker that is lost or silent is replaced, and its groups are
played elsewhere; what nobody could play is unscored, never scored 0.

Workers sample with a policy of their own, or with engines that are actors too; tools may ask services that the cluster
offers. Whatever joins or leaves, workers are told.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import replace
from typing import Any

from toolrl.distributed.cluster import Cluster, connect
from toolrl.distributed.crew import Crew, Slot, Weights
from toolrl.distributed.engine import InferenceEngine
from toolrl.distributed.hand_out import Workers, WorkerSlot
from toolrl.distributed.service import Service, chosen_for
from toolrl.distributed.settings import PoolSettings, ServiceSettings
from toolrl.distributed.work import Playing, Surroundings, Work
from toolrl.errors import ConfigError
from toolrl.rollout import RolloutRequest, in_groups
from toolrl.support.event_loop import run_sync
from toolrl.support.waiting import contained
from toolrl.trajectory import Trajectory


class RolloutPool:
    """Plays episodes on workers."""

    def __init__(self, playing: Playing, settings: PoolSettings, *, cluster: Cluster | None = None):
        """Connect to the cluster; workers start with the first episodes.

        Args:
            playing: How workers play.
            settings: How many, and where; and what else runs there.
            cluster: Where actors start; by default what `settings` name.

        Raises:
            ConfigError: No cluster answers, no node has what an actor takes, or settings contradict each other.
            MissingExtra: Ray is not installed.
        """
        if settings.engines and (playing.policy is None or playing.policy.is_chat or playing.policy.urls):
            raise ConfigError("engines are for a model that is sampled here; leave out rollout_engines")
        if settings.engines:
            playing = replace(playing, elsewhere=True)
        self._settings = settings
        self._cluster = cluster or connect(settings)
        self._weights = Weights()
        self._failure: BaseException | None = None
        self._since = time.monotonic()
        self._resources = ExitStack()
        self._resources.callback(self._cluster.close)
        common = (self._cluster, settings, self._fail)
        self._engines = Engines(playing, self._weights, *common, changed=self._tell)
        self._services = [
            Services(one, secrets.token_urlsafe(24), *common, changed=self._tell) for one in settings.services
        ]
        self._workers = Workers(playing, self._weights, *common, around=self._around)

    @property
    def version(self) -> int:
        """Number of weight updates; stamped on each sample."""
        return self._weights.version

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
        return await self._workers.play(Work.of(requests))

    def generating(self) -> AbstractContextManager[None]:
        """Nothing to set up here: workers always can generate."""
        return nullcontext()

    # ---- weights

    def update_weights(self, weights: Iterable[tuple[str, Any]]) -> None:
        """Have all episodes sampled with these weights: turns in flight end first. Each node gets them once.

        Args:
            weights: Tensors by their names in a checkpoint. They are copied.

        Raises:
            ConfigError: The policy has no weights that could be set.
        """
        copied = {name: weight.detach().cpu().clone() for name, weight in weights}
        run_sync(self._load(self._cluster.put(copied)))

    async def _load(self, reference: Any) -> None:
        self._weights.reference, self._weights.version = reference, self._weights.version + 1
        self._start()
        crew: Crew[Any] = self._engines if self._settings.engines else self._workers
        await crew.tell(lambda slot: slot.actor.load.remote(reference, self._weights.version))

    # ---- life

    def status(self) -> str:
        """One line: workers, engines and services, episodes a second, queues, and lost actors by node."""
        rate = self._workers.finished / max(time.monotonic() - self._since, 1e-9)
        there = [f"{len(self._workers.ready)} of {self._settings.workers} workers"]
        if self._settings.engines:
            there.append(f"{len(self._engines.ready)} of {self._settings.engines} engines")
        there += [f"{len(crew.ready)} of {len(crew.slots)} {crew.settings.name}" for crew in self._services]
        line = f"{', '.join(there)}, {rate:.1f} episodes a second, {self._workers.flying} in flight"
        line += f", {self._workers.waiting} waiting"
        lost = ", ".join(f"{node} {count}" for node, count in Counter(self.losses).most_common(4))
        return f"{line}, lost: {lost}" if lost else line

    @property
    def losses(self) -> Mapping[str, int]:
        """Actors that were lost, by node."""
        return dict(sum((crew.losses for crew in self._crews), Counter()))

    def close(self) -> None:
        """End all actors and what they opened. Safe to call twice."""
        with suppress(RuntimeError):
            run_sync(self._close())
        self._resources.close()

    async def _close(self) -> None:
        for crew in self._crews:  # workers first: they use the others
            await crew.close()
        self._fail(ConfigError("the pool is closed"))

    @property
    def _crews(self) -> list[Crew[Any]]:
        return [self._workers, self._engines, *self._services]

    def _start(self) -> None:
        if self._failure is None:
            if not any(crew.ready for crew in self._crews):
                self._since = time.monotonic()
            for crew in self._crews:
                crew.start()

    def _fail(self, error: BaseException) -> None:
        """End everything that waits with an error."""
        self._failure = self._failure or error
        self._workers.end(self._failure)

    # ---- what workers know of the others

    async def _around(self, slot: WorkerSlot) -> Surroundings:
        """What a worker needs to know; waits until there is one of each service."""
        while not all(crew.ready for crew in self._services):
            await asyncio.sleep(0.05)
        variables: dict[str, str] = {}
        for crew in self._services:
            variables |= chosen_for(slot.number, slot.about.get("node_id"), crew.ready)
        return Surroundings(tuple((engine.number, engine.actor) for engine in self._engines.ready), variables)

    async def _tell(self) -> None:
        """Tell workers that something has joined or left."""
        if all(crew.ready for crew in self._services):

            async def tell(slot: WorkerSlot) -> None:
                await slot.actor.surround.remote(await self._around(slot))

            await self._workers.tell(tell)


class Engines(Crew[Slot]):
    """The engines that sample for workers, each in a placement group of its own."""

    def __init__(self, playing: Playing, weights: Weights, *common: Any, changed: Callable[[], Any]):
        """See `Crew`; `changed` is called when an engine has joined or left."""
        settings: PoolSettings = common[1]
        super().__init__("engine", [Slot(number) for number in range(settings.engines)], *common)
        self._playing, self._weights, self._changed = playing, weights, changed

    def _create(self, slot: Slot) -> Any:
        playing = self._playing.of_worker(slot.number)
        resources = self._settings.engine_resources
        return self._cluster.start(InferenceEngine, (playing,), resources, group=f"engine {slot.number}")

    async def _welcome(self, slot: Slot) -> Mapping[str, Any]:
        return await self._weights.start(slot.actor)

    async def _joined(self, slot: Slot) -> None:
        await self._changed()

    async def _left(self, slot: Slot, why: str) -> None:
        await self._changed()


class Services(Crew[Slot]):
    """The servers of one service."""

    def __init__(self, service: ServiceSettings, key: str, *common: Any, changed: Callable[[], Any]):
        """See `Crew`; `changed` is called when a server has joined or left."""
        super().__init__(f"{service.name} service", [Slot(number) for number in range(service.count)], *common)
        self.settings, self._key, self._changed = service, key, changed

    def _create(self, slot: Slot) -> Any:
        return self._cluster.start(Service, (self.settings, self._key), self.settings.resources)

    async def _welcome(self, slot: Slot) -> Mapping[str, Any]:
        about: Mapping[str, Any] = await slot.actor.start.remote()
        return about

    async def _joined(self, slot: Slot) -> None:
        await self._changed()

    async def _left(self, slot: Slot, why: str) -> None:
        await self._changed()
