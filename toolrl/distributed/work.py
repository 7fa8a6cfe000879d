"""What goes to workers and comes back."""

from __future__ import annotations

import platform
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

from toolrl.chat import Renderer
from toolrl.errors import ConfigError
from toolrl.policy import PolicySettings
from toolrl.rollout import RolloutRequest
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.trajectory import Trajectory
from toolrl.types import SamplingParams, Task

# A worker must have the versions of these that the driver has.
_COMPARED = ("toolrl", "transformers", "torch")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a worker knows of the other actors.

    Attributes:
        engines: The number and the handle of each engine that is ready.
        variables: Of its environment, by which tools find services.
    """

    engines: tuple[tuple[int, Any], ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Playing:
    """How a worker plays; what `RolloutEngine` takes, in a form that can be sent.

    Attributes:
        policy: Opened by each worker, or by engines; None replays each task's oracle.
        renderer: The tokenizer and the arguments of `Renderer`; None for policies without tokens.
        sampling: How to sample.
        max_completion_tokens: Bounds an episode.
        retries: Further attempts at an episode that an infrastructure fault ended.
        policy_timeout_seconds: See `RolloutEngine`.
        elsewhere: Whether engines sample, and not the worker itself.
        agent: What `toolrl.gateway.parse_agent` makes the program of that plays; None for the policy itself.
    """

    policy: PolicySettings | None
    renderer: tuple[Any, dict[str, Any]] | None
    sampling: SamplingParams
    max_completion_tokens: int | None = None
    retries: int = 2
    policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS
    elsewhere: bool = False
    agent: tuple[str, dict[str, Any]] | None = None

    def of_worker(self, number: int) -> Playing:
        """The same with a seed of its own, so that no two of them draw the same numbers."""
        if self.policy is None or self.policy.seed is None:
            return self
        return replace(self, policy=replace(self.policy, seed=self.policy.seed + number))

    def open_renderer(self) -> Renderer | None:
        """The same renderer."""
        if self.renderer is None:
            return None
        tokenizer, arguments = self.renderer
        return Renderer(tokenizer, **arguments)


@dataclass(frozen=True, slots=True)
class Work:
    """The episodes of one task that a worker plays together.

    Attributes:
        env_id: The name under which they are recorded.
        made_from: What `toolrl.make` makes their environment of.
        task_id: The task.
        digest: Of the task's prompt, which shows whether the worker has the same environment.
        episodes: The id and the facts of each.
    """

    env_id: str
    made_from: tuple[str, dict[str, Any]]
    task_id: str
    digest: int
    episodes: tuple[tuple[str, dict[str, Any]], ...]

    @classmethod
    def of(cls, requests: Sequence[RolloutRequest]) -> Work:
        """The work of requests for one task.

        Raises:
            ConfigError: Their environment was not made by `toolrl.make`, or one has a policy of its own.
        """
        first = requests[0]
        if first.env.made_from is None:
            raise ConfigError(
                f"{type(first.env).__name__} was not made by toolrl.make, so a worker cannot make it too; register it, "
                "and pass its id"
            )
        if any(request.policy is not None for request in requests):
            raise ConfigError("an episode with a policy of its own cannot be sent to a worker")
        episodes = tuple((request.id, request.info) for request in requests)
        return cls(first.env_id, first.env.made_from, first.task.id, digest_of(first.task), episodes)


@dataclass(frozen=True, slots=True)
class Played:
    """What came of a `Work`: its trajectories, or the bug that ended it."""

    trajectories: list[Trajectory] = field(default_factory=list)
    error: BaseException | None = None


def digest_of(task: Task) -> int:
    """Tells apart two versions of a task."""
    return zlib.crc32(task.prompt.encode("utf-8", "replace"))


def versions() -> dict[str, str]:
    """Versions that driver and workers must share."""
    return {"python": ".".join(platform.python_version_tuple()[:2]), **{name: version(name) for name in _COMPARED}}
