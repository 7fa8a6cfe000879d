"""Rewards with weighted shaping terms, which pay only for right answers."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from toolrl.errors import ConfigError
from toolrl.types import Episode, Score, Task

Term = Callable[[Task, Episode], Score | float | None]

_RESERVED = ("correct", "answered", "economy")


def shaped_reward(
    correct: Callable[[Task, Episode], Score], terms: Mapping[str, tuple[float, Term]]
) -> Callable[[Task, Episode], Score]:
    """Add shaping terms to a reward: `correct * (1 + sum(weight * term)) / (1 + sum(weight))`.

    The terms pay only for a success: shaping ranks right answers and never puts a wrong one above a right one. The
    reward stays within the range of `correct`. A cost per call belongs in `correct`, as in
    `math_reward(call_cost=0.1)`.

    Every term is evaluated in every episode, wrong answers included, so that a judge that is down leaves right and
    wrong answers unscored alike. Write a penalty as a term that rewards its absence.

    Args:
        correct: Any reward that returns a `Score`.
        terms: For each name, a weight above 0 and a function that returns a number (or a `Score`) within [0, 1].
            None means that it cannot tell, and leaves the episode unscored.

    Raises:
        ConfigError: A weight is not positive, a name is reserved, or a term is not a plain function. In an episode:
            a term returned anything but a number within [0, 1] or None.
    """
    for name, (weight, term) in terms.items():
        if not 0 < weight < math.inf:
            raise ConfigError(f"the weight of {name!r} must be positive and finite, got {weight}")
        if name in _RESERVED:
            raise ConfigError(f"a term cannot be called {name!r}; reserved names: {', '.join(_RESERVED)}")
        if not callable(term) or inspect.iscoroutinefunction(term):
            raise ConfigError(f"the term {name!r} must be a plain function of (task, episode), got {term!r}")
    total = sum(weight for weight, _ in terms.values())

    def reward(task: Task, episode: Episode) -> Score:
        verdict = correct(task, episode)
        if not isinstance(verdict, Score):
            raise ConfigError(f"the first argument of shaped_reward() must return a Score, got {verdict!r}")
        values = {name: _number(name, term(task, episode)) for name, (_, term) in terms.items()}
        missing = [name for name, value in values.items() if value is None]
        known = {name: value for name, value in values.items() if value is not None}
        parts = {**verdict.parts, **known}
        if verdict.value is None:
            return Score(None, parts, verdict.answer, verdict.reason or "the verdict is missing")
        parts.setdefault("correct", float(bool(verdict.success)))
        if missing:
            return Score(None, parts, verdict.answer, f"no value for {', '.join(missing)}")
        shaping = 0.0
        if verdict.success and verdict.value > 0:
            shaping = sum(terms[name][0] * value for name, value in known.items())
        value = verdict.value * (1.0 + shaping) / (1.0 + total)
        return Score(value, parts, verdict.answer, verdict.reason)

    return reward


def _number(name: str, value: Any) -> float | None:
    if isinstance(value, Score):
        value = value.value
    if value is None:
        return None
    if isinstance(value, bool | int | float) and 0 <= value <= 1:
        return float(value)
    raise ConfigError(f"the term {name!r} returned {value!r}; it must be a number within [0, 1], or None")
