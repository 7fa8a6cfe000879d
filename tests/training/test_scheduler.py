"""Promises of the scheduler: what is in a batch, what is dropped, and that a kill and a resume lose nothing."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import Score, StopReason
from toolrl.training.mixture import Mixture
from toolrl.training.scheduler import NO_VARIANCE, STALE, Group, Scheduler, has_variance
from toolrl.trajectory import Trajectory

IDS = [f"t{number}" for number in range(40)]


def episode(value: float | None) -> Trajectory:
    return Trajectory("id", "env", "task", (), [], (), Score(value), StopReason.ANSWER)


def mixture(ids: Sequence[str] = IDS, **options: Any) -> Mixture:
    return Mixture({"env": list(ids)}, {}, 0, **options)


def differ(group: Group) -> list[float | None]:
    return [0.0, 1.0]


class Play:
    """Plays groups: each takes a number of turns of the event loop, and has rewards."""

    def __init__(
        self, turns: Callable[[Group], int] = lambda group: 1, rewards: Callable[[Group], list[float | None]] = differ
    ):
        self.turns, self.rewards = turns, rewards
        self.begun: list[str] = []
        self.now = self.most = 0

    async def __call__(self, group: Group) -> list[Trajectory]:
        self.begun.append(group.place.task_id)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for _ in range(self.turns(group)):
                await asyncio.sleep(0)
            return [episode(value) for value in self.rewards(group)]
        finally:
            self.now -= 1


@pytest.fixture
def scheduler() -> Iterator[Callable[..., Scheduler]]:
    made: list[Scheduler] = []

    def make(play: Any, size: int = 4, **options: Any) -> Scheduler:
        made.append(Scheduler(options.pop("source", mixture()), play, size, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def tasks(groups: Sequence[Group]) -> list[str]:
    return [group.place.task_id for group in groups]


# --- the sequence of tasks


def test_a_mixture_takes_environments_by_weight_and_each_ones_tasks_in_shuffled_rounds() -> None:
    source = Mixture({"a": IDS[:10], "b": IDS[10:15]}, {"a": 3.0}, seed=1)
    drawn = [source.draw() for _ in range(400)]
    counts = Counter(place.env_id for place in drawn)
    assert 2.2 < counts["a"] / counts["b"] < 4.0
    of_b = [place.task_id for place in drawn if place.env_id == "b"]
    rounds = [of_b[start : start + 5] for start in range(0, len(of_b) - 4, 5)]
    assert all(sorted(each) == IDS[10:15] for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3


def test_a_mixture_of_a_size_repeats_its_first_tasks_in_shuffled_rounds() -> None:
    source = mixture(size=6)
    rounds = [[source.draw() for _ in range(6)] for _ in range(4)]
    assert all(sorted(each) == sorted(rounds[0]) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1


def test_processes_share_one_sequence() -> None:
    whole = mixture()
    parts = [mixture(shard=shard, shards=3) for shard in range(3)]
    assert [whole.draw() for _ in range(30)] == [part.draw() for _ in range(10) for part in parts]


@given(st.integers(0, 100), st.integers(0, 7), st.integers(1, 3))
def test_a_restored_mixture_goes_on_with_the_same_tasks(drawn: int, size: int, shards: int) -> None:
    source = mixture(size=size, shards=shards)
    for _ in range(drawn):
        source.draw()
    restored = mixture(size=size, shards=shards)
    restored.restore(json.loads(json.dumps(source.state())))
    assert [source.draw() for _ in range(50)] == [restored.draw() for _ in range(50)]


# --- batches


def test_on_policy_a_batch_is_the_next_tasks_and_nothing_is_played_between_batches(
    scheduler: Callable[..., Scheduler],
) -> None:
    play = Play(lambda group: random.Random(group.number).randrange(9))
    plan, source = scheduler(play), mixture()
    for _ in range(3):
        assert tasks(plan.next_batch()) == [source.draw().task_id for _ in range(4)]
        assert play.now == 0
    assert play.most == 4
    assert all(group.staleness == 0 and not group.dropped for group in plan.take_played())


def test_groups_without_variance_are_replaced_within_the_bound(scheduler: Callable[..., Scheduler]) -> None:
    flat = Play(rewards=lambda group: [1.0, 1.0] if group.number % 2 else [0.0, 1.0])
    recorded: list[Group] = []
    plan = scheduler(flat, refill=2, record=recorded.append)
    for _ in range(3):
        assert all(has_variance(group.episodes) for group in plan.next_batch())
    dropped = [group for group in recorded if group.dropped]
    assert dropped
    assert {group.dropped for group in dropped} == {NO_VARIANCE}
    assert [group.number for group in plan.take_played()] == [group.number for group in recorded]

    hopeless = scheduler(Play(rewards=lambda group: [0.0, 0.0]), refill=2)
    assert len(hopeless.next_batch()) == 4
    assert Counter(bool(group.dropped) for group in hopeless.take_played()) == {True: 8, False: 4}


@pytest.mark.parametrize(
    ("values", "varies"),
    [
        ([0.0, 1.0], True),
        ([1.0, 1.0, None], False),
        ([0.0, None, 1.0], True),
        ([None, 1.0], False),
        ([None, None], False),
        ([0.0, -0.0], False),
    ],
)
def test_variance_is_that_of_the_scored_episodes(values: list[float | None], varies: bool) -> None:
    assert has_variance([episode(value) for value in values]) is varies


def test_a_bug_ends_everything_and_is_raised(scheduler: Callable[..., Scheduler]) -> None:
    play = Play(lambda group: 1 if group.number == 2 else 10_000)
    play.rewards = lambda group: [][0]
    plan = scheduler(play)
    with pytest.raises(IndexError):
        plan.next_batch()
    assert play.now == 0
    with pytest.raises(IndexError):
        plan.next_batch()


# --- asynchrony


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 1000), st.booleans())
def test_whatever_the_durations_no_batch_holds_a_group_that_is_too_old(
    staleness: int, size: int, seed: int, refills: bool
) -> None:
    def turns(group: Group) -> int:
        return min(int(random.Random(f"{seed}/{group.number}").paretovariate(0.7)), 200)

    play = Play(turns, lambda group: [0.0, float(random.Random(group.number).random() < 0.5 or not refills)])
    plan = Scheduler(mixture(), play, size, max_staleness=staleness, refill=3 * refills)
    try:
        for _ in range(6):
            batch = plan.next_batch()
            assert len(batch) == size
            assert all(0 <= group.staleness <= staleness and not group.dropped for group in batch)
            assert len({group.number for group in batch}) == size
        played = plan.take_played()
        assert all(group.staleness > staleness for group in played if group.dropped == STALE)
        alive = play.now - sum(group.dropped == STALE for group in plan._running.values())
        assert alive <= (staleness + 1) * size
    finally:
        plan.close()
    assert play.now == 0


def test_slow_tasks_are_not_starved(scheduler: Callable[..., Scheduler]) -> None:
    # Two of the tasks need far longer than all others, whenever they are played.
    slow = {"t3", "t7"}

    class Slow(Play):
        async def __call__(self, group: Group) -> list[Trajectory]:
            if group.place.task_id in slow:
                for _ in range(300):
                    await asyncio.sleep(0.001)
            return await super().__call__(group)

    plan = scheduler(Slow(), size=2, max_staleness=1, source=mixture(IDS[:10]))
    trained: Counter[str] = Counter()
    for _ in range(20):
        trained.update(tasks(plan.next_batch()))
    assert slow <= set(trained)
    stale = [group for group in plan.take_played() if group.dropped == STALE]
    assert set(tasks(stale)) <= slow


def test_without_a_capacity_nothing_runs_ahead(scheduler: Callable[..., Scheduler]) -> None:
    play = Play()
    plan = scheduler(play, size=3, max_staleness=2)
    for batch in range(1, 5):
        plan.next_batch()
        assert len(play.begun) == 3 * (batch + 2)


# --- kill and resume


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2), st.integers(0, 5), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_after_a_kill_no_task_is_skipped(staleness: int, saved: int, lost: int, complete: bool, seed: int) -> None:
    def start() -> Scheduler:
        turns = lambda group: random.Random(seed + group.number).randrange(20)
        return Scheduler(mixture(), Play(turns), 3, max_staleness=staleness)

    first, second = start(), start()
    try:
        delivered: list[str] = []
        for _ in range(saved):
            delivered += tasks(first.next_batch())
        if not complete:
            delivered = delivered[: -3 or None]
        state = json.loads(json.dumps(first.state(complete or not saved)))
        for _ in range(lost):  # trained on, but not in the checkpoint
            first.next_batch()
        second.restore(state)
        while len(delivered) < 30:
            delivered += tasks(second.next_batch())
        source = mixture()
        expected = [source.draw().task_id for _ in range(30 + 3 * (staleness + 1))]
        if staleness == 0:
            assert delivered[:30] == expected[:30]
        assert len(set(delivered)) == len(delivered)  # 40 tasks in a round: each once
        assert set(delivered) <= set(expected)
        assert set(expected[: 30 - 3 * (staleness + 1)]) <= set(delivered)
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_resumed_run_generates_too(scheduler: Callable[..., Scheduler], staleness: int) -> None:
    depth: list[int] = []
    inside = [0]

    @contextmanager
    def generating() -> Iterator[None]:
        inside[0] += 1
        yield
        inside[0] -= 1

    def rewards(group: Group) -> list[float | None]:
        depth.append(inside[0])
        return differ(group)

    first = scheduler(Play(), max_staleness=staleness)
    first.next_batch()
    plan = scheduler(Play(rewards=rewards), max_staleness=staleness, generating=generating)
    plan.restore(first.state())
    plan.next_batch()
    plan.next_batch()
    plan.close()
    assert set(depth) == {1}
    assert inside == [0]


def test_what_is_still_played_at_the_end_is_recorded(scheduler: Callable[..., Scheduler]) -> None:
    recorded: list[Group] = []
    plan = scheduler(Play(), size=2, max_staleness=2, record=recorded.append)
    plan.next_batch()
    plan.next_batch()
    plan.close()
    plan.close()
    assert len(recorded) >= 4
    assert {group.dropped for group in recorded} <= {"", "the run ended"}
    assert plan._running == {}
