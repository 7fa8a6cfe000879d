"""Small suites that are enough: a few tasks of a large set, by which models are measured as by all of them.

Tasks are divided into strata by how often models that played all of them succeeded; more are drawn where outcomes vary
(Neyman 1934, "On the two different aspects of the representative method"), and within a stratum evenly over the kinds
of tasks. Each stratum's mean counts by its share of all tasks, so that the estimate has no bias whatever the model, and
its error is known. An item response model would fit two numbers to each task; the few models that have usually played a
set do not determine them, and it misjudges a model of another kind without a sign.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy
import yaml
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt, TypeAdapter, ValidationError

from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError, TaskError
from toolrl.evaluation.compare import means_by_task
from toolrl.support.outputs import writing
from toolrl.tasks import TaskSet

if TYPE_CHECKING:
    import pandas

VERSION = 1
STRATA = 5
_LEAST = 2  # tasks of a stratum, without which its variance is unknown
_FLOOR = 0.04  # the smallest variance that is expected of a stratum: a new model may do what no other did


@dataclass(frozen=True)
class Stratum:
    """Some tasks of a suite.

    Attributes:
        share: The share of all tasks that they stand for.
        tasks: Their ids.
    """

    share: float
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Suite:
    """Tasks of an environment, and how they are played.

    Attributes:
        name: The suite's name.
        env: The environment's id.
        strata: The tasks.
        of: The number of tasks that they stand for.
        settings: Of the environment.
        split: "train" or "test".
        samples: Episodes per task.
        temperature: Of sampling.
        max_turn_tokens: The most tokens of a turn.
        seed: Of sampling, where the policy takes one.
        prompts: A hash of the ids and prompts, by which changed tasks are noticed; empty until `with_prompts`.
        made_from: The names of the sides that the strata are from.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    env: str
    strata: tuple[Stratum, ...]
    of: PositiveInt
    settings: dict[str, Any] = field(default_factory=dict)
    split: Literal["train", "test"] = "test"
    samples: PositiveInt = 1
    temperature: NonNegativeFloat = 1.0
    max_turn_tokens: PositiveInt = 512
    seed: int = 0
    prompts: str = ""
    made_from: tuple[str, ...] = ()

    @property
    def tasks(self) -> list[str]:
        """The ids of all tasks."""
        return [task for stratum in self.strata for task in stratum.tasks]

    def open(self) -> ToolEnv:
        """The environment with the suite's tasks; close it when done.

        Raises:
            TaskError: The environment has other tasks now.
        """
        env = make(self.env, **{"split": self.split, **self.settings})
        try:
            env.tasks = TaskSet([env.tasks.by_id(task) for task in self.tasks])
            if self.prompts and self.prompts != _fingerprint(env.tasks):
                raise TaskError(f"the prompts of {self.env} have changed since the suite {self.name!r} was made")
        except TaskError:
            env.close()
            raise
        return env

    def with_prompts(self) -> Suite:
        """The suite with the hash of its prompts.

        Raises:
            TaskError: The environment does not have these tasks.
        """
        env = replace(self, prompts="").open()
        try:
            return replace(self, prompts=_fingerprint(env.tasks))
        finally:
            env.close()

    def estimate(self, successes: Mapping[str, Sequence[float]], level: float = 0.95) -> Estimate:
        """Success on all tasks from that on the suite's.

        Args:
            successes: The successes of each task's scored samples, by its id.
            level: Of the interval.

        Raises:
            ConfigError: A stratum has no scored sample.
        """
        from scipy import stats

        value = variance = 0.0
        played = 0
        for stratum in self.strata:
            rates = [sum(successes[task]) / len(successes[task]) for task in stratum.tasks if successes.get(task)]
            if not rates:
                raise ConfigError(f"no task of a stratum of the suite {self.name!r} was scored")
            played += len(rates)
            mean = sum(rates) / len(rates)
            # Half a success and half a failure more, so that strata without either have an error.
            padded = (sum(rates) + 0.5) / (len(rates) + 1)
            spread = max(float(numpy.var(rates, ddof=1)) if len(rates) > 1 else 0.25, padded * (1 - padded) / 2)
            unseen = max(0.0, 1 - len(rates) / (stratum.share * self.of))
            value += stratum.share * mean
            variance += stratum.share**2 * unseen * spread / len(rates)
        half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt(variance)
        return Estimate(value, (max(0.0, value - half), min(1.0, value + half)), played, self.of)

    def write(self, path: Path) -> None:
        """Write the suite as a YAML file."""
        about = {name: value for name, value in vars(self).items() if name != "strata"}
        about["made_from"] = list(self.made_from)
        strata = [{"share": stratum.share, "tasks": list(stratum.tasks)} for stratum in self.strata]
        text = yaml.safe_dump({"toolrl_suite": VERSION, **about, "strata": strata}, sort_keys=False, width=120)
        with writing(path):
            path.write_text(text, "utf-8")

    @classmethod
    def read(cls, path: Path) -> Suite:
        """Read a suite's file.

        Raises:
            ConfigError: It cannot be read, or is not a suite.
        """
        try:
            found = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from None
        except (ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{str(path)!r} is not a suite: {error}") from None
        if not isinstance(found, dict) or found.pop("toolrl_suite", None) != VERSION:
            raise ConfigError(f"{str(path)!r} is not a suite of version {VERSION}; `toolrl suite` writes one")
        try:
            suite = TypeAdapter(cls).validate_python(found)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{str(path)!r} is not a suite: {place}: {first['msg']}") from None
        if not suite.tasks or abs(sum(stratum.share for stratum in suite.strata) - 1) > 1e-6:
            raise ConfigError(f"{str(path)!r} has no tasks, or the shares of its strata do not add up to 1")
        return suite


@dataclass(frozen=True, slots=True)
class Estimate:
    """Success on all tasks, from a part of them.

    Attributes:
        value: The estimate.
        interval: Its 95 % interval.
        played: Tasks that were played and scored.
        of: Tasks that they stand for.
    """

    value: float
    interval: tuple[float, float]
    played: int
    of: int

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}] on all {self.of:,} tasks, from {self.played:,} of them"


def choose(
    sides: Mapping[str, pandas.DataFrame], count: int, *, name: str = "suite", strata: int = STRATA, seed: int = 0,
    **about: Any,
) -> Suite:  # fmt: skip
    """Choose tasks of one environment.

    Args:
        sides: The scored episodes of each side, by its name: `env`, `task`, `success`, and perhaps `kind`.
        count: Tasks of the suite.
        name: The suite's name.
        strata: The most strata.
        seed: Of the draw.
        about: Other attributes of the suite.

    Raises:
        ConfigError: There are several environments, or fewer tasks played by all sides than are wanted.
    """
    import pandas

    if not sides:
        raise ConfigError("a suite is chosen from the episodes of models that played all tasks; name at least one")
    means = pandas.concat([means_by_task(frame, "success") for frame in sides.values()], axis=1, join="inner")
    envs = sorted(set(means.index.get_level_values("env")))
    if len(envs) != 1:
        raise ConfigError(f"a suite is of one environment that all sides played, got {', '.join(envs) or 'none'}")
    kinds: dict[str, str] = {}
    for frame in sides.values():
        if "kind" in frame:
            kinds |= dict(zip(frame["task"].astype(str), frame["kind"].astype(str), strict=True))
    rates = {str(task): float(rate) for (_, task), rate in means.mean(axis=1).items()}
    if not _LEAST <= count <= len(rates):
        raise ConfigError(f"a suite has from {_LEAST} to {len(rates)} tasks, those that all sides played; got {count}")
    parts = _strata(rates, min(strata, count // _LEAST))
    sizes = _sizes([[rates[task] for task in part] for part in parts], count)
    rng = random.Random(seed)
    chosen = [
        Stratum(len(part) / len(rates), tuple(_spread(part, kinds, size, rng)))
        for part, size in zip(parts, sizes, strict=True)
    ]
    return Suite(name, envs[0], tuple(chosen), len(rates), made_from=tuple(sides), seed=seed, **about)


def _strata(rates: Mapping[str, float], most: int) -> list[list[str]]:
    """Tasks by rising pass rate, in parts of about equal numbers, where tasks of the same rate stay together."""
    by_rate: dict[float, list[str]] = defaultdict(list)
    for task, rate in rates.items():
        by_rate[round(rate, 9)].append(task)
    parts: list[list[str]] = [[]]
    for rate in sorted(by_rate):
        if len(parts[-1]) >= len(rates) / most and len(parts) < most:
            parts.append([])
        parts[-1] += by_rate[rate]
    if len(parts) > 1 and len(parts[-1]) < _LEAST:
        parts[-2] += parts.pop()
    return parts


def _sizes(rates: Sequence[Sequence[float]], count: int) -> list[int]:
    """Tasks of each stratum: by its number and the spread of its outcomes, at least two, at most all."""
    weights = [
        len(part) * math.sqrt(max(_FLOOR, sum(rate * (1 - rate) for rate in part) / len(part) + float(numpy.var(part))))
        for part in rates
    ]
    sizes = [min(_LEAST, len(part)) for part in rates]
    while sum(sizes) < count:
        # The stratum that lacks most of what its weight gives it.
        lacking = [
            weight * count / sum(weights) - size if size < len(part) else -math.inf
            for weight, size, part in zip(weights, sizes, rates, strict=True)
        ]
        sizes[lacking.index(max(lacking))] += 1
    return sizes


def _spread(tasks: Sequence[str], kinds: Mapping[str, str], size: int, rng: random.Random) -> list[str]:
    """Tasks at equal distances, from a random start, in the order of their kinds."""
    ordered = sorted(tasks, key=lambda task: (kinds.get(task, ""), rng.random()))
    start = rng.random()
    return [ordered[int((start + place) * len(ordered) / size) % len(ordered)] for place in range(size)]


def _fingerprint(tasks: TaskSet) -> str:
    text = "\n".join(f"{task.id}\t{task.prompt}" for task in tasks)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
