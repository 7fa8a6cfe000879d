"""How sure an agent says it is: read from its answer, and rewarded by a proper scoring rule.

The agent writes `<confidence>0.8</confidence>` beside its answer. A weight w takes w times the Brier score, the squared
distance of its confidence from the truth (1 or 0), from the reward, as Damani et al. 2025 do ("Beyond Binary Rewards:
Training LMs to Reason About Their Uncertainty"): the best confidence to state is the chance of being right. Right
answers are worth at least `toolrl.rewards.economy.FLOOR`, wrong ones at most 0, and w is smaller than that, so no wrong
answer comes to lie above a right one by modesty.
"""

from __future__ import annotations

import re
from dataclasses import replace

from toolrl.errors import ConfigError
from toolrl.rewards.economy import FLOOR
from toolrl.types import Score

CONFIDENCE, CALIBRATION = "confidence", "calibration"  # parts of a score
REQUEST = "Beside it, give the chance that it is right: <confidence>0.0 to 1.0</confidence>."

_tag = re.compile(r"[ \t]*<confidence>(.*?)</confidence>", re.DOTALL | re.IGNORECASE)
_number = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", re.ASCII)


def read_confidence(text: str) -> tuple[str, float | None]:
    """The text without its tags of confidence, and the confidence.

    Returns:
        The confidence is None without a tag, with two different ones, or if it is not a number from 0 to 1, or from 0 %
        to 100 %.
    """
    stated = set()
    for content in _tag.findall(text):
        match = _number.fullmatch(content)
        value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
        stated.add(value if 0 <= value <= 1 else None)
    rest = _tag.sub("", text)
    return (rest.strip() if stated else text), next(iter(stated)) if len(stated) == 1 else None


def check_confidence(weight: float) -> None:
    """Reject a weight that would reorder right and wrong answers.

    Raises:
        ConfigError: It is not from 0 up to, and without, `FLOOR`.
    """
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < FLOOR:
        raise ConfigError(f"confidence must be a weight from 0 to less than {FLOOR}, got {weight!r}; 0 asks only")


def with_confidence(score: Score, confidence: float | None, weight: float) -> Score:
    """Note a confidence, and deduct `weight` times its Brier score.

    Args:
        score: The score before.
        confidence: What was stated; None, where nothing was, costs as much as the worst.
        weight: From 0, which only notes it.
    """
    if score.value is None:
        return score
    loss = 1.0 if confidence is None else (confidence - float(bool(score.success))) ** 2
    parts = score.parts or {"correct": float(bool(score.success))}
    noted = {} if confidence is None else {CONFIDENCE: confidence}
    return replace(score, value=score.value - weight * loss, parts={**parts, **noted, CALIBRATION: 1.0 - loss})
