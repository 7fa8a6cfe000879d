"""Tool economy: the cost of tool calls, charged only to right answers."""

from __future__ import annotations

import math
from dataclasses import replace

from toolrl.errors import ConfigError
from toolrl.types import Episode, Score

FLOOR = 0.5
"""The share of its value that a right answer always keeps, regardless of the number of calls."""


def with_call_cost(score: Score, episode: Episode, cost: float, floor: float = FLOOR) -> Score:
    """Deduct `cost` per tool call from a right answer, down to `floor` times its value.

    A wrong answer (value 0 or less) costs nothing, so calling never looks worse than failing, and right answers stay
    above wrong ones. A flat cost would teach the model not to call at all.

    Args:
        score: The score before the cost.
        episode: All its tool calls count, failed ones included.
        cost: Cost of one call, as a share of the value, at least 0.
        floor: The smallest share that remains, above 0.

    Raises:
        ConfigError: `cost` is negative or infinite, or `floor` is not within (0, 1].
    """
    if not 0 <= cost < math.inf or not 0 < floor <= 1:
        raise ConfigError(f"call cost must be >= 0 and floor within (0, 1], got cost={cost}, floor={floor}")
    if score.value is None or score.value <= 0 or cost == 0:
        return score
    share = max(floor, 1.0 - cost * episode.tool_calls)
    return replace(score, value=score.value * share, parts={**score.parts, "economy": share})


def check_call_cost(cost: float) -> None:
    """Reject an invalid cost when the reward is made, not at the first right answer.

    Raises:
        ConfigError: `cost` is negative or infinite.
    """
    with_call_cost(Score(0.0), Episode(None), cost)


def partial_value(share: float, cost: float) -> float:
    """The value of a partly right answer: its share, kept below every right answer if calls have a cost.

    Args:
        share: The share that is right, within [0, 1].
        cost: Cost per call of right answers. Partly right ones pay none: going on is never worse than giving up.
    """
    return share * FLOOR if cost > 0 else share
