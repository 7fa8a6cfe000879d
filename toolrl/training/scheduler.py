"""What is played next, and what of it is trained on.

The trainer asks for a batch of groups; a group is all episodes of one drawn task. Choosing tasks, dropping groups that
teach nothing and playing others in their place (dynamic sampling: Yu et al. 2025, DAPO), and going on to play while the
trainer steps, are one mechanism:

- A group is admitted while fewer than `(max_staleness + 1) * size` of them are alive, or `max_staleness * size` while
  nobody waits for a batch (the capacity rule of Fu et al. 2025, AReaL). With `max_staleness` 0 nothing is played while
  the trainer steps, and each batch is on-policy.
- A batch takes the groups that were begun first. One that is older than `max_staleness` batches is never trained on:
  its task is drawn again, and then the trainer waits for it, so that slow tasks are not left out.
- A group is judged as a whole, after its last episode. What was played is recorded, with why it was dropped.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError
from toolrl.support.event_loop import run_sync
from toolrl.training.mixture import Outcome, Place, TaskSource
from toolrl.trajectory import Trajectory

NO_VARIANCE = "no variance"
STALE = "stale"
UNUSED = "the run ended"
FATES = (NO_VARIANCE, STALE)


@dataclass(eq=False)
class Group:
    """A drawn task and its episodes.

    Attributes:
        place: The task.
        number: Counts the groups of this process.
        version: The batch before which it was begun: its oldest token was sampled with the weights of that time.
        is_retry: Whether the task was drawn before and its group grew too old.
        episodes: What was played, in the order of the group's places.
        dropped: Why it is not trained on; empty if it is.
        delivered: The batch that holds it, or before which it was dropped.
    """

    place: Place
    number: int
    version: int
    is_retry: bool = False
    episodes: list[Trajectory] = field(default_factory=list)
    dropped: str = ""
    delivered: int = 0

    @property
    def staleness(self) -> int:
        """Updates of the weights between its first token and the batch."""
        return self.delivered - self.version

    @property
    def outcome(self) -> Outcome:
        """What it shows about its task."""
        scored = [bool(episode.score.success) for episode in self.episodes if episode.score.value is not None]
        return Outcome(self.place, sum(scored), len(scored), has_variance(self.episodes))


def has_variance(episodes: Sequence[Trajectory]) -> bool:
    """Whether scored episodes differ in reward."""
    values = [episode.score.value for episode in episodes if episode.score.value is not None]
    return len(values) > 1 and max(values) - min(values) >= 1e-9


class Scheduler:
    """Fills batches with groups."""

    def __init__(
        self,
        source: TaskSource,
        play: Callable[[Group], Awaitable[list[Trajectory]]],
        size: int,
        *,
        refill: float = 0.0,
        max_staleness: int = 0,
        teaches: Callable[[Sequence[Trajectory]], bool] = has_variance,
        record: Callable[[Group], None] = lambda group: None,
        generating: Callable[[], Any] = ExitStack,
    ):
        """Play nothing yet.

        Args:
            source: Chooses tasks.
            play: Plays a group on toolrl's event loop.
            size: Groups of a batch.
            refill: How many groups without variance may be dropped for a batch, as a multiple of `size`.
            max_staleness: Batches that a group may be behind.
            teaches: Whether a group's scored episodes differ in what they teach.
            record: Called with each group as soon as it is known whether it is trained on, on the event loop.
            generating: A context that surrounds play.
        """
        self._source, self._play, self._size = source, play, size
        self._refill, self._max_staleness = refill, max_staleness
        self._teaches, self._record, self._generating = teaches, record, generating
        self._open, self._is_open = ExitStack(), False  # of `generating`, where play goes on between batches
        self._batch = 0
        self._begun = 0
        self._waits = False  # whether somebody waits for a batch
        self._running: dict[asyncio.Task[list[Trajectory]], Group] = {}
        self._ready: list[Group] = []
        self._again: list[tuple[Place, bool]] = []  # to be played before anything is drawn
        self._latest: list[Group] = []
        self._played: list[Group] = []
        self._dropped = 0  # because they had no variance, since the latest batch
        self._changed: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def next_batch(self) -> list[Group]:
        """The next `size` groups, once they have been played.

        Raises:
            Exception: A bug in a tool, a reward or toolrl, which ended a group; everything else has been cancelled.
        """
        if self._max_staleness and not self._is_open:
            self._open.enter_context(self._generating())
            self._is_open = True
        with ExitStack() if self._max_staleness else self._generating():
            return run_sync(self._collect())

    def take_played(self) -> list[Group]:
        """All groups that ended since the last call, trained on or not."""
        played, self._played = self._played, []
        return played

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Tell the source what was played, in all processes."""
        run_sync(self._learn(outcomes))

    def state(self, is_complete: bool = True) -> dict[str, Any]:
        """What `restore` needs, as JSON values.

        Args:
            is_complete: Whether the latest batch has been trained on. Else it is to be played again.
        """
        return run_sync(self._state(is_complete))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken: groups that were then being played, or waited, are played again first."""
        self._source.restore(state["source"])
        self._batch, self._begun = state["batch"], state["begun"]
        self._again = [(Place(*place), is_retry) for *place, is_retry in state["again"]]

    def close(self) -> None:
        """End what is being played; groups that no batch took are recorded as unused. Safe to call twice."""
        try:
            run_sync(self._end())
        finally:
            self._open.close()

    async def _collect(self) -> list[Group]:
        self._changed = self._changed or asyncio.Event()
        self._batch += 1
        self._waits = True
        try:
            self._drop_stale()
            self._admit()
            while self._failure is None and (len(self._ready) < self._size or self._must_wait()):
                if not self._running and len(self._ready) < self._size:
                    raise RuntimeError(
                        f"the scheduler has {len(self._ready)} of {self._size} groups and plays nothing; this is a bug"
                    )
                self._changed.clear()
                await self._changed.wait()
            if self._failure is not None:
                raise self._failure
        except BaseException as error:
            self._failure = error
            await self._end()
            raise
        finally:
            self._waits = False
        self._ready.sort(key=lambda group: (not group.is_retry, group.number))
        batch, self._ready = self._ready[: self._size], self._ready[self._size :]
        for group in batch:
            self._finish(group)
        self._latest, self._dropped = batch, 0
        self._admit()
        return batch

    def _drop_stale(self) -> None:
        """Have the tasks of groups that have grown too old played again; those still being played end in peace."""
        for group in [*self._ready, *self._running.values()]:
            if self._batch - group.version > self._max_staleness and not group.dropped:
                group.dropped = STALE
                self._again.append((group.place, True))
        for group in [group for group in self._ready if group.dropped]:
            self._ready.remove(group)
            self._finish(group)

    def _must_wait(self) -> bool:
        """Whether a group that is still played would be too old for the next batch, for the second time."""
        return any(
            group.is_retry and not group.dropped and self._batch - group.version >= self._max_staleness
            for group in self._running.values()
        )

    def _admit(self) -> None:
        """Begin groups up to the capacity."""
        if self._failure is not None:
            return
        alive = len(self._ready) + sum(not group.dropped for group in self._running.values())
        for _ in range((self._max_staleness + self._waits) * self._size - alive):
            if self._again:
                place, is_retry = self._again.pop(0)
            else:
                place, is_retry = self._source.draw({group.place for group in self._running.values()}), False
            group = Group(place, self._begun, self._batch, is_retry)
            self._begun += 1
            task = asyncio.ensure_future(self._play(group))
            self._running[task] = group
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[list[Trajectory]]) -> None:
        """Judge a group that has ended."""
        group = self._running.pop(task, None)
        if group is None:
            return
        if task.cancelled() or task.exception() is not None:
            self._failure = self._failure or task.exception() or asyncio.CancelledError("a group was cancelled")
        else:
            try:
                self._judge(group, task.result())
                self._admit()
            except BaseException as error:  # noqa: BLE001 - raised for whoever waits for a batch
                self._failure = error
        if self._changed is not None:
            self._changed.set()

    def _judge(self, group: Group, episodes: list[Trajectory]) -> None:
        group.episodes = episodes
        if not group.dropped and self._dropped < self._refill * self._size and not self._teaches(episodes):
            group.dropped = NO_VARIANCE
            self._dropped += 1
        if group.dropped:
            self._finish(group)
        else:
            self._ready.append(group)

    def _finish(self, group: Group) -> None:
        group.delivered = self._batch
        self._played.append(group)
        self._record(group)

    async def _learn(self, outcomes: Sequence[Outcome]) -> None:
        self._source.learn(outcomes)

    async def _state(self, is_complete: bool) -> dict[str, Any]:
        unfinished = [] if is_complete else self._latest
        alive = [*unfinished, *self._ready, *(group for group in self._running.values() if not group.dropped)]
        again = [(group.place, group.is_retry) for group in sorted(alive, key=lambda group: group.number)]
        return {
            "source": self._source.state(),
            "batch": self._batch - (not is_complete),
            "begun": self._begun,
            "again": [[*place, is_retry] for place, is_retry in [*again, *self._again]],
        }

    async def _end(self) -> None:
        running, self._running = list(self._running), {}
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        ready, self._ready = self._ready, []
        for group in ready:
            group.dropped = UNUSED
            self._finish(group)
        self._failure = self._failure or ConfigError("the scheduler is closed")


def write_state(checkpoint: Path, state: dict[str, Any], shard: int, shards: int, source: str) -> None:
    """Write a scheduler's state into a checkpoint's folder."""
    path = checkpoint / f"scheduler_{shard}.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**state, "shards": shards, "kind": source}))
    partial.replace(path)


def read_state(checkpoint: Path, shard: int, shards: int, source: str) -> dict[str, Any]:
    """Read what `write_state` wrote.

    Raises:
        ConfigError: It is missing or damaged, or belongs to a run with another number of processes or another source.
    """
    path = checkpoint / f"scheduler_{shard}.json"
    try:
        state = dict(json.loads(path.read_text()))
        written = state["shards"], state["kind"]
    except (OSError, ValueError, TypeError, KeyError):
        raise ConfigError(
            f"{str(path)!r} is missing or damaged, so that the order of tasks cannot go on; start a new run from the "
            "checkpoint's weights (--model_name_or_path) in another --output_dir"
        ) from None
    if written != (shards, source):
        raise ConfigError(
            f"{str(checkpoint)!r} was written by {written[0]} process(es) with a {written[1].lower()}, but this run "
            f"has {shards} with a {source.lower()}; resume with the same processes, --per_device_train_batch_size and "
            "--curriculum"
        )
    return state
