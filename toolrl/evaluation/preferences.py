"""What a judge prefers where verifiable rewards do not tell two answers apart."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from toolrl.evaluation.compare import SAME
from toolrl.evaluation.statistics import mean, success_interval
from toolrl.rewards.group import RankingJudge, preference
from toolrl.support.event_loop import run_sync
from toolrl.support.waiting import together
from toolrl.trajectory import Trajectory
from toolrl.types import Task

_AT_ONCE = 16  # tasks

Key = tuple[str, str]  # an environment and a task


@dataclass(frozen=True, slots=True)
class Preferences:
    """Verdicts on ties, each in both orders.

    Attributes:
        shares: By task and two sides: the first side's share, 1 if its answers are better, 0 if they are worse.
        pairs: Pairs of different answers that were judged.
        first: How often the judge preferred the answer that came first, ties as halves: 0.5 without a bias for a
            position. It cancels out in `shares`. None without pairs.
        first_interval: Its 95 % interval over tasks.
        contradicted: The share of pairs in which the judge preferred the same position in both orders. None without
            pairs.
    """

    shares: dict[tuple[Key, str, str], float] = field(repr=False)
    pairs: int
    first: float | None
    first_interval: tuple[float, float]
    contradicted: float | None

    def __str__(self) -> str:
        if self.first is None:
            return "the judge was not asked: no tie has two different answers"
        low, high = self.first_interval
        return (
            f"the judge decided ties, {self.pairs:,} pairs of answers, each in both orders: it preferred the first of "
            f"two in {self.first:.2f} [{low:.2f}, {high:.2f}], and contradicted itself on {self.contradicted:.2f}"
        )

    def summary(self) -> dict[str, Any]:
        """All but the shares, for JSON."""
        return {name: getattr(self, name) for name in ("pairs", "first", "first_interval", "contradicted")}


def judge_ties(sides: Mapping[str, Iterable[Trajectory]], judge: RankingJudge) -> Preferences:
    """Have a judge compare answers on the tasks where two sides have the same mean reward.

    Args:
        sides: The episodes of each side, by its name. Where sides have several of a task, the first is compared with
            the first, and so on. Unscored ones are left out.
        judge: Compares final messages, or what a tool submitted; it sees the question, and no reference.

    Raises:
        JudgeFault: The judge failed. Verdicts that it gave are in its cache, if it has one.
        ConfigError: The server rejects the key, or does not know the model.
    """
    tasks: dict[Key, Task] = {}
    played: dict[Key, dict[str, _Played]] = defaultdict(lambda: defaultdict(_Played))
    for name, episodes in sides.items():
        for episode in episodes:
            if episode.score.value is not None:
                key = episode.env_id, episode.task_id
                question = "\n\n".join(message.content for message in episode.prompt if message.role == "user")
                tasks.setdefault(key, Task(episode.task_id, question))
                played[key][name].rewards.append(episode.score.value)
                played[key][name].answers.append(judge.readable(_final(episode)))
    return run_sync(_judge_ties(tasks, played, judge))


async def _judge_ties(
    tasks: Mapping[Key, Task], played: Mapping[Key, Mapping[str, _Played]], judge: RankingJudge
) -> Preferences:
    shares: dict[tuple[Key, str, str], float] = {}
    judged: list[list[tuple[float, float]]] = []  # by task, the verdicts on a pair in both orders
    free = asyncio.Semaphore(_AT_ONCE)

    async def decide(key: Key) -> None:
        sides = played[key]
        ties = [(a, b) for a, b in combinations(sides, 2) if abs(sides[a].reward - sides[b].reward) <= SAME]
        paired = [list(zip(sides[a].answers, sides[b].answers, strict=False)) for a, b in ties]
        async with free:
            verdicts = await judge.verdicts(tasks[key], [pair for pairs in paired for pair in pairs])
        for (a, b), pairs in zip(ties, paired, strict=True):
            share = sum(preference(*pair, verdicts) for pair in pairs) / len(pairs)
            shares[key, a, b], shares[key, b, a] = share, 1 - share
        if verdicts:
            judged.append([(score, verdicts[two, one]) for (one, two), score in verdicts.items() if one < two])

    await together([decide(key) for key in played])
    firsts = [[(one + other) / 2 for one, other in pairs] for pairs in judged]
    return Preferences(
        shares=shares,
        pairs=sum(map(len, judged)),
        first=mean(sum(found) / len(found) for found in firsts),
        first_interval=success_interval(firsts),
        # It says "the first" in both orders, or "the second".
        contradicted=mean((one - 0.5) * (other - 0.5) > 0 for pairs in judged for one, other in pairs),
    )


@dataclass(slots=True)
class _Played:
    """A side's episodes of a task."""

    rewards: list[float] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    @property
    def reward(self) -> float:
        return sum(self.rewards) / len(self.rewards)


def _final(episode: Trajectory) -> str | None:
    """What the episode said at its end, or submitted by a tool."""
    last = episode.turns[-1].message if episode.turns else None
    return last.content if last is not None and not last.tool_calls else episode.score.answer
