"""A curriculum: tasks are drawn by how likely a group of their episodes is to differ in reward.

A group whose episodes are rewarded alike teaches nothing. The pass rate p of a task is believed to follow a beta
distribution, so that the chance that n episodes differ in success, 1 - E[p^n] - E[(1 - p)^n], is known in closed form,
with the doubt about p in it: a task that nobody has tried is worth a try. Tasks share a prior, a beta-binomial fitted
by moments (Griffiths 1973): its mean is the pass rate of tasks of the same kind and difficulty, its spread how much
such tasks differ, in all kinds alike. Where all succeed, or all fail, rewards may still differ, by the cost of a call
or by partial credit: how often they do is counted for each kind. Without that, nothing would be drawn to teach when a
tool is *not* needed. What was seen is forgotten, since the policy changes.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray

from toolrl.evaluation import short_name
from toolrl.training.mixture import Mixture, Outcome, Place
from toolrl.types import Task

Numbers = NDArray[numpy.float64]

# The share of draws that the mixture makes, whatever is known: each task comes up again.
FLOOR = 0.1
# Batches after which an outcome counts half.
HALF_LIFE = 6.0
# Tasks are drawn by this power of their chance of use: 1 would draw tasks of half the use half as often.
_SHARPNESS = 3
# Before anything is known, the episodes of a task are believed to be this much alike, with the weight of some groups;
# and a kind to be like all kinds, with the weight of some episodes. These predicted recorded runs best.
_CORRELATION, _CORRELATION_GROUPS = 0.5, 8.0
_KIND_WEIGHT = 4.0
_MOST_LEVELS, _QUANTILES = 12, numpy.linspace(0, 1, 7)[:-1]  # of difficulties that are told apart
_LARGEST_TABLE = 64  # kinds that are logged


class Curriculum:
    """Draws tasks by their expected use; see `TaskSource`."""

    def __init__(
        self, mixture: Mixture, tasks: Mapping[Place, Task], weights: Mapping[str, float], group_size: int, seed: int
    ):
        """Know nothing yet.

        Args:
            mixture: Makes `FLOOR` of the draws; its tasks are those that are drawn.
            tasks: Every task of the mixture.
            weights: Relative frequency of each environment, as far as its tasks are of equal use.
            group_size: Episodes of a group, n.
            seed: Seeds the draws.
        """
        self._mixture, self._rng, self._size = mixture, random.Random(seed), group_size
        self._places = list(dict.fromkeys(mixture.places))
        self._index = {place: number for number, place in enumerate(self._places)}
        kinds = _kinds({place: tasks[place] for place in self._places})
        self.kinds = list(dict.fromkeys(kinds))
        numbers = {kind: number for number, kind in enumerate(self.kinds)}
        self._kind = numpy.array([numbers[kind] for kind in kinds])
        counts: dict[str, int] = {}
        for place in self._places:
            counts[place.env_id] = counts.get(place.env_id, 0) + 1
        self._weight = numpy.array([weights.get(env_id, 1.0) / counts[env_id] for env_id, _ in self._places])
        self._passed, self._failed = numpy.zeros((2, len(self._places)))
        # Of the groups of each kind: their number, episodes, and sums of pass rates and of their squares.
        self._groups, self._episodes, self._rates, self._squares = numpy.zeros((4, len(self.kinds)))
        # Of those whose episodes all failed, and all passed: their number, and how many varied in reward all the same.
        self._alike, self._varied = numpy.zeros((2, 2, len(self.kinds)))

    def draw(self, busy: Collection[Place] = ()) -> Place:
        """The next task: not one that is being played, if there is another of any use."""
        if self._rng.random() < FLOOR:
            return self._mixture.draw()
        weight = self._weight * self.usefulness() ** _SHARPNESS
        weight[[self._index[place] for place in busy if place in self._index]] = 0.0
        total = weight.cumsum()
        if not total[-1] > 0:
            return self._mixture.draw()
        return self._places[min(int(total.searchsorted(self._rng.random() * total[-1], "right")), len(total) - 1)]

    def learn(self, outcomes: Sequence[Outcome]) -> None:
        """Forget a little, then count groups."""
        keep = 0.5 ** (1 / HALF_LIFE)
        known = (self._passed, self._failed, self._groups, self._episodes, self._rates, self._squares)
        for counts in (*known, self._alike, self._varied):
            counts *= keep
        for outcome in outcomes:
            if not outcome.scored or outcome.place not in self._index:
                continue
            task = self._index[outcome.place]
            kind, rate = self._kind[task], outcome.passed / outcome.scored
            self._passed[task] += outcome.passed
            self._failed[task] += outcome.scored - outcome.passed
            self._groups[kind] += 1
            self._episodes[kind] += outcome.scored
            self._rates[kind] += rate
            self._squares[kind] += rate**2
            if rate in (0, 1):
                self._alike[int(rate), kind] += 1
                self._varied[int(rate), kind] += outcome.varied

    def usefulness(self) -> Numbers:
        """The chance that the episodes of a group differ in reward, for each task (T,)."""
        passes, fails = self._beliefs()
        alike = numpy.ones((2, len(passes)))
        for number in range(self._size):
            alike *= (numpy.stack([fails, passes]) + number) / (passes + fails + number)
        usual = self._varied.sum(1, keepdims=True) / (self._alike.sum(1, keepdims=True) + 1)
        varied = (self._varied + usual) / (self._alike + 1)
        return numpy.clip(1 - (alike * (1 - varied[:, self._kind])).sum(0), 0.0, 1.0)

    def pass_rates(self) -> Numbers:
        """The expected pass rate of each task (T,)."""
        passes, fails = self._beliefs()
        return passes / (passes + fails)

    def metrics(self) -> dict[str, float]:
        """The expected pass rate of each kind, as `curriculum/ENV/KIND`, and the expected share of useful groups."""
        rates, useful = self.pass_rates(), self.usefulness()
        found = {}
        for number, (env_id, name) in enumerate(self.kinds[:_LARGEST_TABLE]):
            found[f"curriculum/{short_name(env_id)}/{name}"] = float(rates[self._kind == number].mean())
        weight = self._weight * useful**_SHARPNESS
        if weight.sum():
            found["curriculum/useful"] = float((weight * useful).sum() / weight.sum())
        return found

    def state(self) -> dict[str, Any]:
        """The beliefs, and the state of what is random."""
        seen = numpy.flatnonzero(self._passed + self._failed)
        version, numbers, gauss = self._rng.getstate()
        return {
            "mixture": self._mixture.state(),
            "random": [version, list(numbers), gauss],
            "tasks": [[*self._places[task], self._passed[task], self._failed[task]] for task in seen],
            "kinds": numpy.stack([self._groups, self._episodes, self._rates, self._squares]).tolist(),
            "varied": numpy.stack([self._alike, self._varied]).tolist(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with these beliefs, except about tasks that are there no more."""
        self._mixture.restore(state["mixture"])
        version, numbers, gauss = state["random"]
        self._rng.setstate((version, tuple(numbers), gauss))
        for env_id, task_id, passed, failed in state["tasks"]:
            if (place := Place(env_id, task_id)) in self._index:
                self._passed[self._index[place]], self._failed[self._index[place]] = passed, failed
        if len(state["kinds"][0]) == len(self.kinds):
            self._groups, self._episodes, self._rates, self._squares = numpy.array(state["kinds"])
            self._alike, self._varied = numpy.array(state["varied"])

    def _beliefs(self) -> tuple[Numbers, Numbers]:
        """The parameters of each task's beta distribution, (T,) and (T,)."""
        overall = (self._rates.sum() + 0.5) / (self._groups.sum() + 1)
        groups = numpy.maximum(self._groups, 1e-9)
        size, rate = numpy.maximum(self._episodes / groups, 1.0), self._rates / groups
        mean = _shrunk(rate, self._groups, overall)
        variance = numpy.maximum(self._squares / groups - rate**2, 0.0)
        variance *= groups / numpy.maximum(groups - 1, 1.0)  # Bessel's correction
        # Var(rate) = mean (1 - mean) (1 + (size - 1) correlation) / size, summed over kinds with several groups
        known = self._groups * (self._groups > 1)
        independent = mean * (1 - mean)
        unit = _CORRELATION_GROUPS * (self._size - 1) * overall * (1 - overall)
        excess = (known * (variance * size - independent)).sum() + _CORRELATION * unit
        correlation = numpy.clip(excess / ((known * (size - 1) * independent).sum() + unit), 0.02, 0.98)
        # The episodes of a group tell as much as this many that are independent of each other.
        mean = _shrunk(rate, self._episodes / (1 + (size - 1) * correlation), overall)[self._kind]
        concentration = 1 / correlation - 1
        return concentration * mean + self._passed, concentration * (1 - mean) + self._failed


def _shrunk(rate: Numbers, weight: Numbers, overall: float) -> Numbers:
    """Pass rates (K,), drawn towards that of all kinds where little is known."""
    return (rate * weight + overall * _KIND_WEIGHT) / (weight + _KIND_WEIGHT)


def _kinds(tasks: Mapping[Place, Task]) -> list[tuple[str, str]]:
    """The environment and the name of each task's kind, with its difficulty; of many difficulties, ranges."""
    levels: dict[tuple[str, str], set[float]] = {}
    for place, task in tasks.items():
        if isinstance(task.difficulty, (int, float)):
            levels.setdefault((place.env_id, task.kind), set()).add(task.difficulty)
    steps = {
        kind: sorted(found) if len(found) <= _MOST_LEVELS else numpy.quantile(list(found), _QUANTILES).tolist()
        for kind, found in levels.items()
    }
    names = []
    for place, task in tasks.items():
        level = str(task.difficulty or "")
        if isinstance(task.difficulty, (int, float)):
            level = f"{max(step for step in steps[place.env_id, task.kind] if step <= task.difficulty):g}"
        names.append((place.env_id, " ".join(part for part in (task.kind, level) if part) or "all"))
    return names
