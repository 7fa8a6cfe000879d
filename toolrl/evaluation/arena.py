"""An arena: sides that played the same tasks, ordered by who gets the higher reward.

A task on which two sides get the same reward is half a win for each, or a judge's share. Strengths are those of
Bradley and Terry (1952, "Rank analysis of incomplete block designs"): a side of strength s beats one of strength t
with the chance 1 / (1 + 10^((t - s) / 400)), as in Elo's ratings. They are fitted by Hunter's algorithm (2004, "MM
algorithms for generalized Bradley-Terry models"), with one more tied task for each pair, so that they stay finite
where a side wins all. Their doubt is that about the tasks: whole tasks are drawn again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from rich.table import Table

from toolrl.errors import ConfigError
from toolrl.evaluation.compare import SAME, means_by_task

if TYPE_CHECKING:
    import pandas

    from toolrl.evaluation.preferences import Preferences

_DRAWS = 1_000
_CENTRE, _SCALE = 1_000.0, 400 / math.log(10)
_ITERATIONS, _CLOSE = 10_000, 1e-7
_EQUAL = 1e-3  # of ratings


@dataclass(frozen=True, slots=True)
class Standing:
    """A side of an arena.

    Attributes:
        name: The side.
        tasks: Tasks that it shares with any other side.
        strength: Its rating; all sides' ratings have the mean 1000.
        interval: Its 95 % interval.
        ranks: The best and the worst rank that 95 % of the draws give it, from 1.
        wins: Its share of wins in comparisons, ties as halves.
        ties: Its share of ties.
    """

    name: str
    tasks: int
    strength: float
    interval: tuple[float, float]
    ranks: tuple[int, int]
    wins: float
    ties: float


@dataclass(frozen=True, slots=True)
class Arena:
    """The order of some sides, the strongest first.

    Attributes:
        standings: The sides.
        wins: One row and column per side: the share of common tasks on which the row's side wins, ties as halves.
        preferences: What decided ties, if a judge did.
    """

    standings: tuple[Standing, ...]
    wins: pandas.DataFrame
    preferences: Preferences | None = None

    def table(self) -> Table:
        """The order, for a terminal."""
        title = "arena: who gets the higher reward on the same tasks"
        table = Table(title=title, caption=None if self.preferences is None else str(self.preferences))
        for column in ("rank", "side", "tasks", "rating [95 %]", "wins", "ties"):
            table.add_column(column, overflow="fold")
        for row in self.standings:
            best, worst = row.ranks
            low, high = row.interval
            table.add_row(
                str(best) if best == worst else f"{best} to {worst}",
                row.name,
                f"{row.tasks:,}",
                f"{row.strength:.0f} [{low:.0f}, {high:.0f}]",
                f"{row.wins:.2f}",
                f"{row.ties:.2f}",
            )
        return table


def arena(
    sides: Mapping[str, pandas.DataFrame],
    *,
    value: str = "reward",
    preferences: Preferences | None = None,
    seed: int = 0,
) -> Arena:
    """Order sides by the value that they get on the same tasks.

    Args:
        sides: The scored episodes of each side, by its name: `env`, `task` and the value.
        value: The column that decides; more is better.
        preferences: What decides ties; see `toolrl.evaluation.judge_ties`.
        seed: Of the draws of tasks.

    Raises:
        ConfigError: There is one side only, or a side shares no task with another.
    """
    import pandas

    if len(sides) < 2:
        raise ConfigError(f"an arena needs two sides, got {', '.join(sides) or 'none'}")
    means = pandas.concat([means_by_task(frame, value) for frame in sides.values()], axis=1, keys=sides)
    means = means[means.notna().sum(axis=1) > 1]
    values = means.to_numpy()  # (N, S), NaN where a side did not play
    alone = [name for name, played in zip(sides, (~numpy.isnan(values)).any(0), strict=True) if not played]
    if alone:
        raise ConfigError(f"{alone[0]!r} shares no task with another side")
    gaps = values[:, :, None] - values[:, None, :]  # (N, S, S)
    both = ~numpy.isnan(gaps)
    tied = numpy.abs(gaps) <= SAME
    won = numpy.where(tied, _decided(means, preferences), (gaps > 0).astype(float))
    for matrix in (both, won):
        matrix[:, range(len(sides)), range(len(sides))] = 0
    counts, wins = both.sum(0).astype(float), won.sum(0)  # (S, S)
    # Tasks with the same outcomes count alike: there are few kinds of outcomes (K), however many tasks.
    outcomes = numpy.stack([won, both.astype(float)], 1).reshape(len(values), -1)  # (N, 2SS)
    distinct, repeated = numpy.unique(outcomes, axis=0, return_counts=True)
    draws = numpy.random.default_rng(seed).multinomial(len(values), repeated / len(values), _DRAWS)  # (D, K)
    sampled = (draws @ distinct).reshape(_DRAWS, 2, len(sides), len(sides))
    strengths = _strengths(wins[None], counts[None])[0]
    drawn = _strengths(sampled[:, 0], sampled[:, 1])  # (D, S)
    above = drawn[:, None, :] - drawn[:, :, None]  # (D, S, S)
    best, worst = 1 + (above > _EQUAL).sum(2), (above > -_EQUAL).sum(2)  # (D, S) each; equal ratings share their ranks
    ties = tied.astype(float)
    ties[:, range(len(sides)), range(len(sides))] = 0
    standings = [
        Standing(
            name=name,
            tasks=int((~numpy.isnan(values[:, side])).sum()),
            strength=float(strengths[side]),
            interval=(float(numpy.quantile(drawn[:, side], 0.025)), float(numpy.quantile(drawn[:, side], 0.975))),
            ranks=(
                int(numpy.quantile(best[:, side], 0.025, method="lower")),
                int(numpy.quantile(worst[:, side], 0.975, method="higher")),
            ),
            wins=float(wins[side].sum() / counts[side].sum()),
            ties=float(ties.sum(0)[side].sum() / counts[side].sum()),
        )
        for side, name in enumerate(sides)
    ]
    order = sorted(standings, key=lambda standing: -standing.strength)
    names = [standing.name for standing in order]
    with numpy.errstate(invalid="ignore"):
        shares = pandas.DataFrame(wins / counts, list(sides), list(sides))
    return Arena(tuple(order), shares.loc[names, names], preferences)


def _decided(means: pandas.DataFrame, preferences: Preferences | None) -> Any:
    """The share of each tie (N, S, S) that the row's side gets."""
    shares = numpy.full((len(means), means.shape[1], means.shape[1]), 0.5)
    if preferences is not None:
        task_places = {key: place for place, key in enumerate(means.index)}
        side_places = {name: place for place, name in enumerate(means.columns)}
        for (key, one, other), share in preferences.shares.items():
            shares[task_places[key], side_places[one], side_places[other]] = share
    return shares


def _strengths(wins: Any, counts: Any) -> Any:
    """Ratings (D, S) from wins (D, S, S), of rows over columns, and the numbers of comparisons (D, S, S)."""
    size = wins.shape[-1]
    prior = 1.0 - numpy.eye(size)
    won, counts = (wins + prior / 2).sum(2), counts + prior  # (D, S) and (D, S, S)
    weights = numpy.ones_like(won)
    for _ in range(_ITERATIONS):
        following = won / (counts / (weights[:, :, None] + weights[:, None, :])).sum(2)
        following /= numpy.exp(numpy.log(following).mean(1, keepdims=True))
        change = numpy.abs(numpy.log(following / weights)).max()
        weights = following
        if change < _CLOSE:
            break
    return _CENTRE + _SCALE * numpy.log(weights)
