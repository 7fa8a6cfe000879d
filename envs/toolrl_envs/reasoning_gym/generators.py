"""Problems from reasoning-gym's generators, with their scorers."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from toolrl import ConfigError, MissingExtra, Task, is_held_out
from toolrl_envs.common import Split, check_split
from toolrl_envs.reasoning_gym.guards import is_safe_to_score

# Item i of a generator with seed s uses seed s + i: each split and seed has its own range.
_RANGE = 10_000_000
_FRUITLESS_DRAWS = 500


@dataclass(frozen=True)
class Problem:
    """A task, and the generator that scores it.

    Attributes:
        task: The task.
        dataset: The generator.
        entry: The generated entry.
    """

    task: Task
    dataset: Any
    entry: Mapping[str, Any]

    def score(self, answer: str) -> float:
        """The score of the generator, clipped to [0, 1]."""
        credit = float(self.dataset.score_answer(answer=answer, entry=self.entry))
        return min(1.0, max(0.0, credit)) if math.isfinite(credit) else 0.0


def make_problems(split: Split, configs: Mapping[str, Mapping[str, Any]], size: int, seed: int) -> list[Problem]:
    """Draw problems with distinct questions, cycling through the generators.

    Args:
        split: The splits use different seeds, and a hash of each question decides which split it belongs to.
        configs: Settings of the generators, by their names.
        size: Maximum number of problems.
        seed: Fixes the draw.

    Raises:
        MissingExtra: reasoning-gym is not installed.
        ConfigError: The generator does not exist, rejects the settings, or has no problems.
    """
    check_split(split, size)
    streams = [_stream(split, name, config, seed) for name, config in configs.items()]
    problems: list[Problem] = []
    while streams and len(problems) < size:
        for stream in list(streams):
            if len(problems) == size:
                break
            if (problem := next(stream, None)) is None:
                streams.remove(stream)
            else:
                problems.append(problem)
    if not problems:
        raise ConfigError(f"{', '.join(configs)} has no problem for split={split!r}; change its settings")
    return problems


def _stream(split: Split, name: str, config: Mapping[str, Any], seed: int) -> Iterator[Problem]:
    base = (2 * seed + (split == "test")) * _RANGE
    return _distinct(split, name, _create(name, {**config, "seed": base, "size": _RANGE}))


def _distinct(split: Split, name: str, dataset: Any) -> Iterator[Problem]:
    seen: set[str] = set()
    fruitless = 0
    for index in itertools.count():
        if fruitless == _FRUITLESS_DRAWS or index == _RANGE:
            return
        fruitless += 1
        entry = dataset[index]
        question = entry["question"].strip()
        answer = str(entry["answer"] or "")
        if question in seen or is_held_out(question) != (split == "test"):
            continue
        if not answer.strip() or not is_safe_to_score(name, answer):  # e.g. an unsolved integral
            continue
        seen.add(question)
        fruitless = 0
        key = f"{name}-{hashlib.sha256(question.encode()).hexdigest()[:12]}"
        # In principle these can be solved without a tool; which a model can is unknown.
        yield Problem(Task(key, question, answer, kind=name, needs_tool=False), dataset, dict(entry))


def _create(name: str, settings: dict[str, Any]) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingExtra(
            "reasoning-gym" if error.name == "reasoning_gym" else f"{error.name} (for reasoning-gym)", "reasoning-gym"
        ) from None
    if name not in DATASETS:
        raise ConfigError(f"reasoning-gym has no generator {name!r}; it has: {', '.join(sorted(DATASETS))}")
    try:
        return reasoning_gym.create_dataset(name, **settings)
    except (AssertionError, TypeError, ValueError) as error:
        shown = {key: value for key, value in settings.items() if key not in ("seed", "size")}
        raise ConfigError(f"reasoning-gym's {name} rejects the settings {shown}: {error}") from None
