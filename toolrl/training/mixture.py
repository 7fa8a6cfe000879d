"""Which task comes next: environments by weight, the tasks of each in shuffled rounds."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol


class Place(NamedTuple):
    """A task of an environment."""

    env_id: str
    task_id: str


class Outcome(NamedTuple):
    """What a group showed about its task: `passed` of its `scored` episodes succeeded; `varied` in reward, or not."""

    place: Place
    passed: int
    scored: int
    varied: bool


class TaskSource(Protocol):
    """Chooses tasks. With the same state and the same outcomes it chooses the same ones."""

    def draw(self, busy: Collection[Place] = ()) -> Place:
        """The next task; `busy` ones are being played."""
        ...

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Take note of the groups that were played since the last call."""
        ...

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON values."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken. The source must be new."""
        ...


class Mixture:
    """An endless sequence of tasks, determined by its seed; see `TaskSource`.

    Several processes share a sequence of one seed: each takes every `shards`-th task of it.
    """

    def __init__(
        self,
        tasks: Mapping[str, Sequence[str]],
        weights: Mapping[str, float],
        seed: int,
        *,
        size: int = 0,
        shard: int = 0,
        shards: int = 1,
    ):
        """Begin the sequence.

        Args:
            tasks: The ids of each environment's tasks.
            weights: Relative frequency of each environment; 1 by default.
            seed: Determines the sequence.
            size: The number of tasks, the first of the sequence, that are repeated in shuffled rounds; 0 for no end.
            shard: This process, from 0.
            shards: Processes.
        """
        self._tasks = tasks
        self._weights = [weights.get(env_id, 1.0) for env_id in tasks]
        self._rng = random.Random(seed)
        self._rounds: dict[str, list[str]] = {env_id: [] for env_id in tasks}
        self._again: list[Place] = []
        self._shard, self._shards = shard, shards
        self._drawn = 0
        self.places: list[Place] = []
        if size:
            self.places = [self._fresh() for _ in range(size)]
            self._again = self.places[::-1]
        else:
            self.places = [Place(env_id, task_id) for env_id, ids in tasks.items() for task_id in ids]
        self._repeats = bool(size)

    def draw(self, busy: Collection[Place] = ()) -> Place:
        """The next task of this process's share."""
        self._drawn += 1
        return [self._next() for _ in range(self._shards)][self._shard]

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Nothing: outcomes do not change the sequence."""

    def state(self) -> dict[str, Any]:
        """The number of draws."""
        return {"drawn": self._drawn}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Draw again what had been drawn."""
        for _ in range(int(state["drawn"])):
            self.draw()

    def _next(self) -> Place:
        if not self._repeats:
            return self._fresh()
        if not self._again:
            self._again = self._rng.sample(self.places, len(self.places))
        return self._again.pop()

    def _fresh(self) -> Place:
        (env_id,) = self._rng.choices(list(self._tasks), self._weights)
        if not self._rounds[env_id]:
            self._rounds[env_id] = self._rng.sample(self._tasks[env_id], len(self._tasks[env_id]))
        return Place(env_id, self._rounds[env_id].pop())
