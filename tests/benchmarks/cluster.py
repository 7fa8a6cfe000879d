"""Rollout workers: how they scale on this machine, and what a simulation says of many more.

The first table plays `tests/distributed/waiting.py`, whose tool waits 0.1 to 2 seconds, in one process and on Ray
workers here. The others run the same `RolloutPool` and the trainer's `Scheduler` in virtual time, on actors that only
wait: for as long as the tools do, and for what the driver took in the first run.
CLUSTER_WORKERS "1 2 4 8", CLUSTER_ROUNDS "24", CLUSTER_SIZES "8 64 256" (a thousand take ten minutes).
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.benchmarks.common import table
from tests.distributed.waiting import ENV_ID as PLAIN_ID, seconds_of
from toolrl import RolloutRequest, SamplingParams, Score, StopReason, ToolEnv, Trajectory, make
from toolrl.distributed import Playing, PoolSettings, RolloutPool
from toolrl.distributed.cluster import Cluster, WorkerLost
from toolrl.distributed.work import Played, Work, versions
from toolrl.evaluation import evaluate
from toolrl.rollout import in_groups
from toolrl.training.mixture import Mixture
from toolrl.training.scheduler import Group, Scheduler

ENV_ID = f"tests.distributed.waiting:{PLAIN_ID}"
WORKERS = [int(word) for word in os.environ.get("CLUSTER_WORKERS", "1 2 4 8").split()]
SIZES = [int(word) for word in os.environ.get("CLUSTER_SIZES", "8 64 256").split()]
CONCURRENCY, ROUNDS = (
    8,
    int(os.environ.get("CLUSTER_ROUNDS", "24")),
)  # episodes in flight on a worker, and how often each place is filled
BATCH = 64
LIFETIME = 3600.0  # mean seconds until a worker is lost
SLOW_SHARE, SLOWNESS = 0.05, 3.0
START_SECONDS = 10.0
GROUP, STEP_SECONDS, BATCHES = 8, 2.0, 12


def main() -> str:
    rows, cost = scaling()
    here = [[f"{workers}", f"{real:.1f}", f"{simulated(workers, cost):.1f}"] for workers, real in rows]
    return "\n".join(
        [
            table(
                "Ray workers on this machine, tools that wait",
                ["workers", "episodes/s", "to one process", "of linear", "driver, ms an episode"],
                [_row(workers, rate, rows[0][1], cost) for workers, rate in rows],
            ),
            table(
                f"A batch of {BATCH} episodes with nothing to do",
                ["", "ms, median of 9", "lowest and highest"],
                [overhead(workers) for workers in (0, 1, 4)],
            ),
            table("The same, simulated", ["workers", "episodes/s, real", "simulated"], here[1:]),
            table(
                f"Simulated: {CONCURRENCY} episodes at a time on each worker, one worker in {1 / SLOW_SHARE:.0f} "
                f"{SLOWNESS:g} times slower, each lost after {LIFETIME / 3600:g} h on average",
                ["workers", "episodes/s", "of linear", "places in use", "work lost", "workers lost", "driver busy"],
                [simulate(workers, cost) for workers in SIZES],
            ),
            table(
                f"Simulated training: a batch fills all places once, a step of the trainer takes {STEP_SECONDS:g} s",
                ["workers", "max_staleness", "seconds a step", "staleness", "places in use"],
                [simulate_training(workers, staleness, cost) for workers in SIZES[:2] for staleness in (0, 1, 2)],
            ),
        ]
    )


def _row(workers: int, rate: float, alone: float, cost: float) -> list[str]:
    times = rate / alone
    name = f"{workers}" if workers else "this process"
    return [name, f"{rate:.1f}", f"{times:.2f}", f"{times / max(workers, 1):.2f}", f"{1000 * cost:.1f}"]


# ---- here


def scaling() -> tuple[list[tuple[int, float]], float]:
    """Episodes a second in one process (0 workers) and on workers; and the driver's CPU seconds for an episode."""
    rows, cost = [(0, play_here(CONCURRENCY * ROUNDS))], 0.0
    for workers in WORKERS:
        rate, cost = play_there(workers, CONCURRENCY * ROUNDS * workers)
        rows.append((workers, rate))
        print(rows[-1], f"{1000 * cost:.2f} ms", flush=True)
    return rows, cost


def play_here(tasks: int) -> float:
    env = make(ENV_ID, count=tasks)
    evaluate({ENV_ID: env}, None, None, tasks=CONCURRENCY, concurrency=CONCURRENCY)
    start = time.perf_counter()
    evaluate({ENV_ID: env}, None, None, tasks=tasks, concurrency=CONCURRENCY)
    return tasks / (time.perf_counter() - start)


def play_there(workers: int, tasks: int) -> tuple[float, float]:
    env = make(ENV_ID, count=tasks)
    settings = PoolSettings(workers=workers, concurrency=CONCURRENCY)
    pool = RolloutPool(Playing(None, None, SamplingParams(1.0, sys.maxsize)), settings)
    try:
        evaluate({ENV_ID: env}, None, None, tasks=CONCURRENCY * workers, workers=pool)
        while len(pool._workers.ready) < workers:
            time.sleep(0.1)
        start, used = time.perf_counter(), time.process_time()
        evaluate({ENV_ID: env}, None, None, tasks=tasks, workers=pool)
        return tasks / (time.perf_counter() - start), (time.process_time() - used) / tasks
    finally:
        pool.close()


def overhead(workers: int) -> list[str]:
    """A row of how long a batch takes whose tools return at once; 0 workers are this process."""
    env = make(ENV_ID, count=BATCH, seconds=0.0)
    playing, settings = Playing(None, None, SamplingParams(1.0, sys.maxsize)), PoolSettings(workers=workers or 1)
    pool = RolloutPool(playing, settings) if workers else None
    times = []
    try:
        for _ in range(12):
            start = time.perf_counter()
            evaluate({ENV_ID: env}, None, None, tasks=BATCH, workers=pool)
            times.append(1000 * (time.perf_counter() - start))
            while pool is not None and len(pool._workers.ready) < workers:
                time.sleep(0.1)
    finally:
        if pool is not None:
            pool.close()
    measured = times[3:]
    name = f"{workers} workers" if workers > 1 else "1 worker" if workers else "this process"
    return [name, f"{statistics.median(measured):.0f}", f"{min(measured):.0f} to {max(measured):.0f}"]


# ---- simulated


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not wait: its clock jumps to what comes next."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None) -> Any:
            if timeout is None:
                raise RuntimeError("nothing will ever happen again")
            self._now += timeout
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return self._now


@dataclass
class Machine(Cluster):
    """A cluster whose actors only wait; it counts what they do."""

    cost: float  # driver's seconds for an episode, one after the other
    lifetime: float = LIFETIME
    slow_share: float = SLOW_SHARE
    start_seconds: float = START_SECONDS
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    driver: asyncio.Lock = field(default_factory=asyncio.Lock)
    started: int = 0
    used: float = 0.0
    lost: float = 0.0
    busy: float = 0.0

    def start(self, kind: type, arguments: Any, resources: Any, *, group: str = "") -> Actor:
        self.started += 1
        return Actor(self, self.started, SLOWNESS if self.rng.random() < self.slow_share else 1.0)

    def kill(self, actor: Any) -> None:
        actor.die()

    def put(self, value: Any) -> Any:
        return value

    def close(self) -> None:
        """Nothing is open."""


class Actor:
    """A worker that waits for as long as its episodes would take."""

    def __init__(self, machine: Machine, number: int, slowness: float):
        self.machine, self.number, self.slowness = machine, number, slowness
        self.dead: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.places = asyncio.Semaphore(CONCURRENCY)
        lifetime = machine.rng.expovariate(1 / machine.lifetime)
        asyncio.get_running_loop().call_later(lifetime, self.die)
        self.start, self.play = Call(self._start), Call(self._play)
        self.alive = self.close = Call(self._alive)
        self.surround = Call(self._surround)

    def die(self) -> None:
        if not self.dead.done():
            self.dead.set_exception(WorkerLost(f"worker {self.number} is gone"))
            self.dead.exception()  # noted

    async def _start(self, weights: Any, version: int, around: Any) -> dict[str, Any]:
        await self._living(asyncio.sleep(self.machine.start_seconds))
        return {"node": f"node {self.number}", "pid": self.number, "versions": versions()}

    async def _surround(self, around: Any) -> None:
        """There is nothing around."""

    async def _alive(self) -> int:
        await self._living(asyncio.sleep(0.001))
        return 0

    async def _living(self, coroutine: Any) -> Any:
        task = asyncio.ensure_future(coroutine)
        await asyncio.wait((task, self.dead), return_when=asyncio.FIRST_COMPLETED)
        if self.dead.done():
            task.cancel()
            self.dead.result()
        return task.result()

    async def _play(self, works: Sequence[Work]) -> AsyncIterator[Any]:
        tasks = {asyncio.ensure_future(self._episodes(work)): place for place, work in enumerate(works)}
        pending: set[asyncio.Future[Any]] = set(tasks)
        try:
            while pending:
                done, pending = await asyncio.wait((*pending, self.dead), return_when=asyncio.FIRST_COMPLETED)
                if self.dead in done:
                    self.dead.result()
                pending.discard(self.dead)
                for task in done:
                    place = tasks[task]  # type: ignore[index]
                    async with self.machine.driver:
                        await asyncio.sleep(self.machine.cost * len(works[place].episodes))
                    self.machine.busy += self.machine.cost * len(works[place].episodes)
                    yield answered((place, Played(task.result())))
        finally:
            for task in tasks:
                task.cancel()

    async def _episodes(self, work: Work) -> list[Trajectory]:
        return list(await asyncio.gather(*(self._episode(work, id, info) for id, info in work.episodes)))

    async def _episode(self, work: Work, id: str, info: dict[str, Any]) -> Trajectory:
        async with self.places:
            start = asyncio.get_running_loop().time()
            try:
                await asyncio.sleep(seconds_of(int(id)) * self.slowness)
            except asyncio.CancelledError:
                self.machine.lost += asyncio.get_running_loop().time() - start
                raise
            self.machine.used += asyncio.get_running_loop().time() - start
        score = Score(float(random.Random(id).random() < 0.5))
        return Trajectory(id, work.env_id, work.task_id, (), [], (), score, StopReason.ANSWER, info=info)


class Call:
    """A method of an actor, as Ray has it."""

    def __init__(self, method: Any):
        self.remote = method

    def options(self, **_: Any) -> Call:
        return self


async def answered(value: Any) -> Any:
    return value


def open_simulated(workers: int, machine: Machine) -> RolloutPool:
    playing = Playing(None, None, SamplingParams())
    return RolloutPool(playing, PoolSettings(workers=workers, concurrency=CONCURRENCY), cluster=machine)


def requests_of(env: ToolEnv, count: int) -> list[RolloutRequest]:
    return [RolloutRequest(env, task, ENV_ID, f"{n}") for n, task in enumerate(env.tasks.take(count))]


def in_virtual_time(coroutine: Any) -> Any:
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        left = asyncio.all_tasks(loop)  # of actors that were lost
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.close()


def simulated(workers: int, cost: float) -> float:
    """Episodes a second for what `play_there` plays, without losses."""

    async def run() -> float:
        machine = Machine(cost=cost, lifetime=1e9, slow_share=0.0, start_seconds=0.0)
        pool, env = open_simulated(max(workers, 1), machine), make(ENV_ID, count=CONCURRENCY * ROUNDS * max(workers, 1))
        start = asyncio.get_running_loop().time()
        await in_groups(requests_of(env, len(env.tasks)), pool.play_group)
        seconds = asyncio.get_running_loop().time() - start
        await pool._close()
        return len(env.tasks) / seconds

    return float(in_virtual_time(run()))


def simulate(workers: int, cost: float) -> list[str]:
    """A row of what a cluster of this size does."""

    async def run() -> list[str]:
        machine = Machine(cost=cost)
        pool, count = open_simulated(workers, machine), workers * CONCURRENCY * ROUNDS
        env, loop = make(ENV_ID, count=count), asyncio.get_running_loop()
        pool._start()
        await asyncio.sleep(2 * START_SECONDS)
        start = loop.time()
        played = await in_groups(requests_of(env, count), pool.play_group)
        seconds = loop.time() - start
        assert len({t.id for t in played}) == count
        await pool._close()
        alone = CONCURRENCY / (sum(seconds_of(n) for n in range(count)) / count)
        return [
            f"{workers:,}", f"{count / seconds:,.0f}", f"{count / seconds / alone / workers:.2f}",
            f"{machine.used / seconds / workers / CONCURRENCY:.2f}",
            f"{machine.lost / (machine.used + machine.lost):.4f}", f"{machine.started - workers}",
            f"{machine.busy / seconds:.2f}",
        ]  # fmt: skip

    return list(in_virtual_time(run()))


def simulate_training(workers: int, staleness: int, cost: float) -> list[str]:
    """A row of what the trainer's scheduler does with such workers."""

    async def run() -> list[str]:
        machine = Machine(cost=cost)
        pool, size = open_simulated(workers, machine), max(1, workers * CONCURRENCY // GROUP)
        env, loop = make(ENV_ID, count=4 * size), asyncio.get_running_loop()
        source = Mixture({ENV_ID: [task.id for task in env.tasks]}, {}, 0, size=4 * size)
        numbers = iter(range(sys.maxsize))

        async def play(group: Group) -> list[Trajectory]:
            task = env.tasks.by_id(group.place.task_id)
            found = [RolloutRequest(env, task, ENV_ID, f"{next(numbers)}") for _ in range(GROUP)]
            return await pool.play_group(found, record=False)

        scheduler = Scheduler(source, play, size, max_staleness=staleness)
        pool._start()
        await asyncio.sleep(2 * START_SECONDS)
        start, ages = loop.time(), []
        machine.used = 0.0
        for _ in range(BATCHES):
            ages += [group.staleness for group in await scheduler._collect()]
            await asyncio.sleep(STEP_SECONDS)
        seconds = loop.time() - start
        await scheduler._end()
        await pool._close()
        return [
            f"{workers:,}", f"{staleness}", f"{seconds / BATCHES:.1f}", f"{sum(ages) / len(ages):.2f}",
            f"{machine.used / seconds / workers / CONCURRENCY:.2f}",
        ]  # fmt: skip

    return list(in_virtual_time(run()))
