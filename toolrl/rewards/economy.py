"""Tool economy: what a call costs, once the answer is right."""

from __future__ import annotations

import math
from dataclasses import replace

from toolrl.errors import ConfigError
from toolrl.types import Episode, Score

FLOOR = 0.5
"""The least share of its value that a right answer keeps, however many calls it took."""


def with_call_cost(score: Score, episode: Episode, cost: float, floor: float = FLOOR) -> Score:
    """Take `cost` per tool call off a right answer, down to `floor` times its value.

    A wrong answer (value 0 or less) is left alone, so the cost never makes calling look worse than
    failing, and never reorders right and wrong. A flat cost would teach not to call at all.

    Args:
        score: The verdict without the cost.
        episode: Its tool calls are counted, failed ones included.
        cost: Per call, as a share of the value, at least 0.
        floor: The least share that is left, above 0.

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
    """Refuse a cost when a reward is made, not at the first right answer.

    Raises:
        ConfigError: It is negative or infinite.
    """
    with_call_cost(Score(0.0), Episode(None), cost)


def partial_value(share: float, cost: float) -> float:
    """What a part of an answer earns: its share, but with a cost per call less than any whole answer.

    Args:
        share: Of what is right, within [0, 1].
        cost: Per call, of whole answers; parts pay none, so that going on is never worse than giving up.
    """
    return share * FLOOR if cost > 0 else share
