"""Tool economy: what a call costs, once the answer is right."""

from __future__ import annotations

import math
from dataclasses import replace

from toolrl.errors import ConfigError
from toolrl.types import Episode, Score


def with_call_cost(score: Score, episode: Episode, cost: float, floor: float = 0.5) -> Score:
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
