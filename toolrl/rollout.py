"""The rollout engine: many episodes in flight, each at its own turn, none waiting for another's tool.

Every episode is a coroutine. Those that generate share the policy's batch, whatever turn they are at; those that wait
for a tool cost nothing. `toolrl.episode.play_episode` is the loop of one episode, a `TokenPlayer` its model.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import math
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession, Player, play_episode
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.players import ChatPlayer, TokenPlayer, renderer_of
from toolrl.policy.base import ChatPolicy, Policy
from toolrl.policy.watchdog import Watchdog
from toolrl.support.event_loop import run_sync
from toolrl.support.usage import Usage, counting
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS, contained, together
from toolrl.tools.resources import add_up
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Episode, Message, SamplingParams, Score, StopReason, Task, ToolResult

Prompts = dict[tuple[int, str], list[int]]  # (P,) ids by environment and task, of episodes that are played together


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to play.

    Attributes:
        env: The environment; any number of requests may share it.
        task: The task.
        env_id: The name under which it is recorded.
        id: Unique within a run.
        policy: Plays this episode instead of the engine's policy.
        info: Recorded with the trajectory.
        group: Requests with the same name here are a group, whose episodes are of one task; see
            `RolloutEngine.play_group`. Those without one stand alone.
    """

    env: ToolEnv
    task: Task
    env_id: str = ""
    id: str = ""
    policy: Policy | ChatPolicy | None = None
    info: dict[str, Any] = field(default_factory=dict)
    group: str = ""


@dataclass
class Played:
    """The conversation of an episode, as far as it was played, and what else is known of it; see `Trajectory`."""

    prompt: tuple[Message, ...]
    prompt_ids: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    branches: list[Played] = field(default_factory=list)
    results: tuple[ToolResult, ...] | None = None
    info: dict[str, Any] = field(default_factory=dict)


class RolloutEngine:
    """Plays episodes with a policy."""

    def __init__(
        self,
        policy: Policy | ChatPolicy,
        renderer: Renderer | None,
        *,
        sampling: SamplingParams | None = None,
        max_completion_tokens: int | None = None,
        concurrency: int = 256,
        retries: int = 2,
        backoff_seconds: float = 0.5,
        policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS,
        on_trajectory: Callable[[Trajectory], None] | None = None,
    ):
        """Create an engine.

        Args:
            policy: Generates turns.
            renderer: Turns messages into tokens and back; a `ChatPolicy` needs none.
            sampling: How to sample; the environment's limits also bound `max_tokens`.
            max_completion_tokens: Bounds the sampled and observed tokens of an episode, as the environment's limits
                do: the trainer pads every episode of a batch to the longest.
            concurrency: Maximum number of episodes in flight, over all groups that are being played.
            retries: Further attempts at an episode that an infrastructure fault ended.
            backoff_seconds: Delay before the first retry; doubled for each further one, with jitter.
            policy_timeout_seconds: A policy that does nothing for any episode for this long while it is asked is a
                fault. Answers count as activity, and so does progress if it `ShowsProgress`; how long one answer takes
                or waits in a queue does not matter.
            on_trajectory: Called with each trajectory as it finishes, on the engine's event loop, which it blocks.

        Raises:
            ConfigError: `policy_timeout_seconds` is not positive, or `on_trajectory` is async.
        """
        if inspect.iscoroutinefunction(on_trajectory):
            raise ConfigError(f"on_trajectory must be a plain function, got {on_trajectory!r}")
        if not policy_timeout_seconds > 0:
            raise ConfigError(f"policy_timeout_seconds must be positive, got {policy_timeout_seconds!r}")
        self.policy = policy
        self.renderer = renderer
        self.sampling = sampling or SamplingParams()
        self._max_completion_tokens = max_completion_tokens or math.inf
        self._concurrency = concurrency
        self._retries = retries
        self._backoff_seconds = backoff_seconds
        self._policy_timeout_seconds = policy_timeout_seconds
        # An asyncio primitive belongs to one event loop, and `run_sync` replaces a loop that is blocked.
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()
        # Shared by all episodes in flight; gone with the last that asks the policy.
        self._watches: WeakValueDictionary[int, Watchdog] = WeakValueDictionary()
        self._on_trajectory = on_trajectory

    def run(self, requests: Sequence[RolloutRequest]) -> list[Trajectory]:
        """Play all episodes and return their trajectories in the order of the requests.

        An exception that is not an `InfrastructureError` is a bug in a tool, a reward or toolrl: it stops the run and
        is raised once all episodes have closed what they opened.

        Raises:
            ConfigError: A group has several tasks.
        """
        prompts: Prompts = {}
        with ExitStack() as stack:
            for policy in {id(p): p for p in (self.policy, *(r.policy for r in requests if r.policy))}.values():
                if not isinstance(policy, ChatPolicy):
                    stack.enter_context(policy.generating())
            return run_sync(in_groups(requests, lambda group: self._play_group(group, prompts)))

    async def play_group(self, requests: Sequence[RolloutRequest], *, record: bool = True) -> list[Trajectory]:
        """Play the episodes of one task together, and return their trajectories in the order of the requests.

        If the environment has a `group_reward`, it scores them when all have ended, and then they are recorded.
        Otherwise each is recorded as it ends.

        Any number of groups can be played at the same time, on one event loop (`toolrl.support.event_loop`);
        `concurrency` bounds their episodes together. The caller holds the policy's `generating()` meanwhile, which
        `run` does itself.

        Args:
            requests: Of one environment and one task; `RolloutRequest.group` is not read.
            record: Whether `on_trajectory` gets the trajectories; otherwise the caller records them.

        Raises:
            ConfigError: The requests are of several tasks.
            Exception: A bug in a tool, a reward or toolrl, once all episodes have closed what they opened.
        """
        _check_group(requests)
        return await self._play_group(requests, {}, record)

    async def _play_group(
        self, requests: Sequence[RolloutRequest], prompts: Prompts, record: bool = True
    ) -> list[Trajectory]:
        slots = self._slots.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency))
        in_group = bool(requests) and requests[0].env.grader.group_reward is not None

        async def play(request: RolloutRequest) -> tuple[Trajectory, EpisodeSession]:
            async with slots:
                played = await self._play_with_retries(request, prompts)
            if record and not in_group:
                self._record(played[0])
            return played

        played = await together([play(request) for request in requests])
        trajectories = [trajectory for trajectory, _ in played]
        if in_group:
            trajectories = await _scored_together(played, requests[0].env)
            for trajectory in trajectories if record else ():
                self._record(trajectory)
        return trajectories

    def _record(self, trajectory: Trajectory) -> None:
        if self._on_trajectory is not None:
            with contained(f"on_trajectory, with episode {trajectory.id!r}"):
                self._on_trajectory(trajectory)

    async def _play_with_retries(self, request: RolloutRequest, prompts: Prompts) -> tuple[Trajectory, EpisodeSession]:
        usage: dict[str, float] = {}
        for attempt in range(1, self._retries + 2):
            start = time.perf_counter()
            error = ""
            session = request.env.open_episode(request.task, request.env_id)
            played = Played(tuple(session.messages))
            try:
                stop, score = await self._play(request, session, played, prompts)
            except InfrastructureError as fault:
                error = f"{type(fault).__name__}: {fault}"
                stop, score = StopReason.FAULT, Score(None, reason=error)
            seconds = time.perf_counter() - start
            usage = add_up((usage, session.usage))
            if not error or attempt > self._retries:
                break
            await asyncio.sleep(self._backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
        trajectory = Trajectory(
            request.id, request.env_id, request.task.id, played.prompt, played.prompt_ids, tuple(played.turns), score,
            stop, error=error, attempts=attempt, seconds=seconds, info=request.info | played.info, usage=usage,
            ending=session.ended.reason if session.ended else "", results=played.results,
        )  # fmt: skip
        branches = [
            replace(
                trajectory, prompt=branch.prompt, prompt_ids=branch.prompt_ids, turns=tuple(branch.turns), results=None
            )
            for branch in played.branches
        ]
        return replace(trajectory, branches=tuple(branches)), session

    async def _play(
        self, request: RolloutRequest, session: EpisodeSession, played: Played, prompts: Prompts
    ) -> tuple[StopReason, Score]:
        """Play an episode, and note its tokens in `played`, as far as it comes."""
        player = self.player(request, session, prompts)
        if isinstance(player, TokenPlayer):
            played.prompt_ids = player.prompt_ids
        return await play_episode(session, player, played.turns, in_group=True)

    def player(self, request: RolloutRequest, session: EpisodeSession, prompts: Prompts | None = None) -> Player:
        """The player of a new episode, within the limits of its environment and of this engine.

        Args:
            request: What it plays.
            session: The episode.
            prompts: Rendered prompts, to which its own is added.

        Raises:
            ConfigError: The policy generates tokens and the engine has no renderer, or the model's turns offer no
                place to end the thinking that `thinking_tokens` bounds.
        """
        policy, env, task = request.policy or self.policy, request.env, request.task
        watch = self._watches.get(id(policy))
        if watch is None:
            watch = self._watches[id(policy)] = Watchdog(policy, self._policy_timeout_seconds)
        prompts = {} if prompts is None else prompts
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, env.limits.turn_tokens))
        room = int(min(env.limits.completion_tokens, self._max_completion_tokens))
        tools = env.toolbox.schemas
        if watch.is_chat:
            return ChatPlayer(watch, tools, sampling, room)
        if self.renderer is None:
            raise ConfigError("a policy that generates tokens needs a renderer; pass RolloutEngine(policy, renderer)")
        renderer = renderer_of(self.renderer, env, task)
        thinking = env.limits.thinking_tokens if task.thinking_tokens is None else task.thinking_tokens
        if thinking and not renderer.dialect.end_of_thinking:
            raise ConfigError(
                f"thinking_tokens={thinking}: in the dialect {renderer.dialect.name!r} thinking cannot be ended for "
                "the model; set it to 0"
            )
        key = (id(env), task.id)
        if key not in prompts:  # a group shares its prompt
            prompts[key] = renderer.prompt_ids(session.messages, tools)
        return TokenPlayer(watch, renderer, tools, prompts[key], sampling, room, thinking)


async def in_groups(
    requests: Sequence[RolloutRequest],
    play: Callable[[Sequence[RolloutRequest]], Coroutine[Any, Any, list[Trajectory]]],
) -> list[Trajectory]:
    """Play each group of the requests at the same time as the others; in the order of the requests.

    Raises:
        ConfigError: A group has several tasks.
    """
    groups: dict[str | int, list[int]] = {}
    for place, request in enumerate(requests):
        groups.setdefault(request.group or place, []).append(place)
    for places in groups.values():
        _check_group([requests[place] for place in places])
    played = await together([play([requests[place] for place in places]) for places in groups.values()])
    by_place = dict(zip(itertools.chain(*groups.values()), itertools.chain(*played), strict=True))
    return [by_place[place] for place in range(len(requests))]


def _check_group(requests: Sequence[RolloutRequest]) -> None:
    """Reject a group of several tasks, or of several environments."""
    for request in requests[1:]:
        if request.env is not requests[0].env or request.task.id != requests[0].task.id:
            raise ConfigError(
                f"a group is of one task, but {request.id or request.group!r} is of {request.task.id!r} and the first "
                f"of {requests[0].task.id!r}, or of another environment; give each task a group of its own"
            )


async def _scored_together(played: Sequence[tuple[Trajectory, EpisodeSession]], env: ToolEnv) -> list[Trajectory]:
    """The trajectories of a group with their final scores; each has its share of what scoring them used."""
    episodes = [replace(session.episode or Episode(None), score=trajectory.score) for trajectory, session in played]
    session, limit = played[0][1], env.limits.reward_seconds
    with counting(used := Usage()):
        scores = await env.grader.score_group(session.task, episodes, session.where, limit)
    share = {name: amount / len(played) for name, amount in used.amounts().items()}
    return [
        replace(trajectory, score=score, usage=add_up((trajectory.usage, share)))
        for (trajectory, _), score in zip(played, scores, strict=True)
    ]
