"""The environment under test, what it declares to its audit, and a sample of its tasks."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError
from toolrl.types import Task

Environment = str | ToolEnv | Callable[..., ToolEnv]


class Subject:
    """An environment by id, class, function or instance.

    Attributes:
        name: Its name in reports.
        can_be_made_again: Whether it can be made again, which an instance cannot.
    """

    def __init__(self, environment: Environment, settings: Mapping[str, Any] | None = None):
        """Take an environment, without making it yet.

        Raises:
            ConfigError: It is not an environment, or an instance comes with settings.
        """
        self._environment = environment
        self._settings = dict(settings or {})
        self.can_be_made_again = not isinstance(environment, ToolEnv)
        if not self.can_be_made_again and self._settings:
            raise ConfigError("settings go with an id or a class, and this environment is already made")
        if not (isinstance(environment, str) or callable(environment) or isinstance(environment, ToolEnv)):
            raise ConfigError(f"expected an environment's id, class or instance, got {environment!r}")
        if isinstance(environment, str):
            self.name = environment
        else:
            self.name = getattr(environment, "__name__", type(environment).__name__)

    @contextmanager
    def open(self, **settings: Any) -> Iterator[ToolEnv]:
        """Make the environment and close it afterwards; an instance is used as it is and left open.

        Raises:
            EnvironmentNotFound: No environment has this id.
            ConfigError: It does not take these settings.
        """
        if isinstance(self._environment, ToolEnv):
            yield self._environment
            return
        settings = {**self._settings, **settings}
        if isinstance(self._environment, str):
            env = make(self._environment, **settings)
        else:
            made = self._environment(**settings)
            unwrapped = getattr(made, "unwrapped", made)
            if not isinstance(unwrapped, ToolEnv):
                raise ConfigError(f"{self.name} made a {type(made).__name__}, not a toolrl.ToolEnv")
            env = unwrapped
        try:
            yield env
        finally:
            env.close()

    @property
    def has_splits(self) -> bool:
        """Whether it can be made with `split=`; by id it always can, since `make` divides the tasks if need be."""
        creator = self._environment
        if isinstance(creator, (ToolEnv, str)):
            return isinstance(creator, str)
        parameters = inspect.signature(creator).parameters.values()
        return any(p.name == "split" or p.kind is p.VAR_KEYWORD for p in parameters)


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What an environment declares as its class attribute `audit_options`; the default allows nothing.

        class QuizEnv(ToolEnv):
            audit_options = AuditOptions(chance=0.25, answer_in_prompt="the options are listed")

    Attributes:
        chance: Mean reward that an exploit may get, for environments where wrong answers earn a part, or where the
            answers are few enough to guess. Exact guesses of the right answer are recognised without it.
        answer_in_prompt: Why the answer may be in the prompt; empty if it may not.
        excused: Names of exploits and checks that do not count here, with the reason.
    """

    chance: float = 0.0
    answer_in_prompt: str = ""
    excused: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.chance < 1:
            raise ConfigError(f"AuditOptions.chance must be within [0, 1), got {self.chance!r}")
        for name, reason in self.excused.items():
            if not reason.strip():
                raise ConfigError(f"AuditOptions.excused[{name!r}] needs a reason")


def options_of(env: ToolEnv) -> AuditOptions:
    """Return what an environment declares, or the default."""
    options = getattr(env, "audit_options", None)
    if options is None:
        return AuditOptions()
    if not isinstance(options, AuditOptions):
        raise ConfigError(f"{type(env).__name__}.audit_options must be AuditOptions, got {options!r}")
    return options


def sample_tasks(env: ToolEnv, count: int, seed: int = 0) -> list[Task]:
    """Sample at most `count` tasks: one of each kind first, then others.

    Raises:
        ConfigError: `count` is below 1.
    """
    if count < 1:
        raise ConfigError(f"at least one task is needed, got {count}")
    tasks = random.Random(seed).sample(list(env.tasks), len(env.tasks))
    kinds = {task.kind: index for index, task in reversed(list(enumerate(tasks)))}
    first = sorted(kinds.values())[:count]
    others = [index for index in range(len(tasks)) if index not in set(first)]
    return [tasks[index] for index in [*first, *others][:count]]
