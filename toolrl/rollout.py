"""The rollout engine: many episodes in flight, each at its own turn, none waiting for another's tool.

Every episode is a coroutine. Those that generate share the policy's batch, whatever turn they are
at; those that wait for a tool cost nothing. Follow `_play` to see one episode from top to bottom.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv, run_sync
from toolrl.episode import EpisodeSession
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.policy.base import ChatPolicy, Policy
from toolrl.policy.watchdog import Watchdog
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS, contained
from toolrl.tools.resources import add_up
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Message, Sample, SamplingParams, Score, StopReason, Task


@dataclass(frozen=True)
class RolloutRequest:
    """One episode to play.

    Attributes:
        env: The environment; any number of requests may share it.
        task: What to ask.
        env_id: The name it is recorded under.
        id: Unique within a run.
        policy: Plays this episode in place of the engine's policy.
        info: Recorded with the trajectory.
    """

    env: ToolEnv
    task: Task
    env_id: str = ""
    id: str = ""
    policy: Policy | ChatPolicy | None = None
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
        """Put an engine together.

        Args:
            policy: Generates turns.
            renderer: Turns messages into tokens and back; a `ChatPolicy` needs none.
            sampling: How to draw; `max_tokens` bounds a turn together with the environment's limits.
            max_completion_tokens: Bounds sampled and observed tokens of an episode together with the
                environment's limits: the trainer pads every episode of a batch to the longest.
            concurrency: Episodes in flight; the others wait for their start.
            retries: Further attempts at an episode that an infrastructure fault ended.
            backoff_seconds: Wait before the first retry; doubled for each further one, with jitter.
            policy_timeout_seconds: A policy that was asked and does nothing for so long, for whomever, is taken for
                dead: a fault. What it does is told by its answers and, if it `ShowsProgress`, by that. How long one
                answer takes, or waits in a queue, does not matter.
            on_trajectory: Called with each trajectory as it finishes, on the engine's thread, where all wait for it.

        Raises:
            ConfigError: `policy_timeout_seconds` is no number of seconds, or `on_trajectory` is async.
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
        self._watches: dict[int, Watchdog] = {}
        self._on_trajectory = on_trajectory

    def run(self, requests: Sequence[RolloutRequest]) -> list[Trajectory]:
        """Play all episodes and return their trajectories in the order of the requests.

        An exception that is not an `InfrastructureError` is a bug in a tool, a reward or toolrl: it
        stops the run and is raised, after all episodes have closed what they opened.
        """
        with ExitStack() as stack:
            for policy in {id(p): p for p in (self.policy, *(r.policy for r in requests if r.policy))}.values():
                if not isinstance(policy, ChatPolicy):
                    stack.enter_context(policy.generating())
            return run_sync(self._run_all(requests))

    async def _run_all(self, requests: Sequence[RolloutRequest]) -> list[Trajectory]:
        self._watches = {}
        slots = asyncio.Semaphore(self._concurrency)
        prompts = _Prompts(self)

        async def play(request: RolloutRequest) -> Trajectory:
            async with slots:
                trajectory = await self._play_with_retries(request, prompts)
            if self._on_trajectory is not None:
                with contained(f"on_trajectory, with episode {trajectory.id!r}"):
                    self._on_trajectory(trajectory)
            return trajectory

        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(play(request)) for request in requests]
        except BaseExceptionGroup as failures:
            failure = failures.exceptions[0]
        if failure is not None:
            raise failure  # out here, so that it keeps its own cause and context
        return [task.result() for task in tasks]

    async def _play_with_retries(self, request: RolloutRequest, prompts: _Prompts) -> Trajectory:
        usage: dict[str, float] = {}
        for attempt in range(1, self._retries + 2):
            start = time.perf_counter()
            turns: list[Turn] = []
            session = request.env.open_episode(request.task, request.env_id)
            opening = tuple(session.messages)
            prompt_ids = prompts.render(request, opening)
            trajectory = Trajectory(
                request.id, request.env_id, request.task.id, opening, prompt_ids, (), Score(None), StopReason.FAULT,
                attempts=attempt, info=request.info,
            )  # fmt: skip
            try:
                async with session:
                    policy = request.policy or self.policy
                    if isinstance(policy, ChatPolicy):
                        stop = await self._play_chat(session, request, policy, turns)
                    else:
                        renderer = prompts.renderer(request)
                        stop = await self._play(session, request, policy, renderer, prompt_ids, turns)
                    score = await session.score(stop)
            except InfrastructureError as error:
                seconds = time.perf_counter() - start
                score = Score(None, reason=f"{type(error).__name__}: {error}")
                usage = add_up((usage, session.usage))
                trajectory = replace(
                    trajectory, turns=tuple(turns), score=score, error=score.reason, seconds=seconds, usage=usage
                )
                if attempt <= self._retries:
                    await asyncio.sleep(self._backoff_seconds * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            else:
                seconds = time.perf_counter() - start
                usage = add_up((usage, session.usage))
                return replace(trajectory, turns=tuple(turns), score=score, stop=stop, seconds=seconds, usage=usage)
        return trajectory

    async def _play(
        self,
        session: EpisodeSession,
        request: RolloutRequest,
        policy: Policy,
        renderer: Renderer,
        prompt_ids: list[int],
        turns: list[Turn],
    ) -> StopReason:
        """Play one episode; finished turns are appended to `turns`. Returns why it ended."""
        tools, watch = request.env.toolbox.schemas, self._watch(policy)
        thinking = _thinking_tokens(request, renderer)
        loop = asyncio.get_running_loop()
        ids = list(prompt_ids)  # (P + C,) grows by appending only
        while True:
            room = self._token_limit(request) - (len(ids) - len(prompt_ids))
            if room <= 0:
                return StopReason.TOKENS
            sampling = self._sampling_within(room, request)
            started = loop.time()
            sample = await _sample(watch, renderer, ids, sampling, thinking, after_tools=bool(turns))
            sampled = loop.time()
            message = renderer.parse(sample.token_ids, tools, after_tools=bool(turns))
            turn = Turn(sample, message, generation_seconds=sampled - started)
            ids += sample.token_ids
            if sample.finish == "length":
                turns.append(turn)
                return StopReason.TOKENS
            step = await session.advance(message)
            stop, observation = step.stop, list[int]()
            if step.results:
                observation = renderer.observation_ids(step.messages, after=sample.token_ids[-1])
                room -= len(sample.token_ids)
                if len(observation) >= room:
                    stop = stop or StopReason.TOKENS
                if stop is not None:
                    observation = _cut(observation, room, renderer)
            turns.append(
                replace(
                    turn,
                    message=session.last_turn,
                    results=tuple(step.results),
                    observation_ids=tuple(observation),
                    tool_seconds=loop.time() - sampled if step.results else 0.0,
                )
            )
            ids += observation
            if stop is not None:
                return stop

    async def _play_chat(
        self, session: EpisodeSession, request: RolloutRequest, policy: ChatPolicy, turns: list[Turn]
    ) -> StopReason:
        """`_play` without tokens: those of the conversation are counted by the policy, if it does."""
        tools, watch = request.env.toolbox.schemas, self._watch(policy)
        loop = asyncio.get_running_loop()
        room, prompt_tokens = self._token_limit(request), None
        while room > 0:
            sampling = self._sampling_within(room, request)
            with session.counting_usage():
                reply = await watch.reply(session.messages, tools, sampling)
            replied = loop.time()
            if reply.input_tokens is not None and reply.output_tokens is not None:
                prompt_tokens = reply.input_tokens if prompt_tokens is None else prompt_tokens
                room = self._token_limit(request) - (reply.input_tokens + reply.output_tokens - prompt_tokens)
            turn = Turn(Sample([], [], reply.finish), reply.message, generation_seconds=reply.seconds)
            if reply.finish == "length":
                turns.append(turn)
                return StopReason.TOKENS
            step = await session.advance(reply.message)
            seconds = loop.time() - replied if step.results else 0.0
            turns.append(replace(turn, message=session.last_turn, results=tuple(step.results), tool_seconds=seconds))
            if step.stop is not None:
                return step.stop
        return StopReason.TOKENS

    def _watch(self, policy: Policy | ChatPolicy) -> Watchdog:
        return self._watches.setdefault(id(policy), Watchdog(policy, self._policy_timeout_seconds))

    def _token_limit(self, request: RolloutRequest) -> int:
        return int(min(request.env.limits.completion_tokens, self._max_completion_tokens))

    def _sampling_within(self, room: int, request: RolloutRequest) -> SamplingParams:
        return replace(self.sampling, max_tokens=min(self.sampling.max_tokens, request.env.limits.turn_tokens, room))


async def _sample(
    watch: Watchdog,
    renderer: Renderer,
    ids: list[int],
    sampling: SamplingParams,
    thinking: int,
    *,
    after_tools: bool,
) -> Sample:
    """A turn. If it still thinks after `thinking` tokens (0: never), the thinking is ended, and the turn goes on."""

    def submit(ids: list[int], max_tokens: int) -> Awaitable[Sample]:
        return watch.sample(ids, replace(sampling, max_tokens=max_tokens))

    if not 0 < thinking < sampling.max_tokens:
        return await submit(ids, sampling.max_tokens)
    first = await submit(ids, thinking)
    end = renderer.end_of_thinking_ids(first.token_ids, after_tools=after_tools)
    begun = [*first.token_ids, *end]
    room = sampling.max_tokens - len(begun)
    if first.finish == "stop" or len(first.token_ids) < thinking or room < 1:
        return first
    rest = await submit([*ids, *begun], room)
    logprobs = [*first.logprobs, *([0.0] * len(end)), *rest.logprobs]
    forced = (len(first.token_ids), len(begun)) if end else (0, 0)
    return Sample([*begun, *rest.token_ids], logprobs, rest.finish, rest.policy_version, forced)


def _thinking_tokens(request: RolloutRequest, renderer: Renderer) -> int:
    """The budget of an episode; 0 for none.

    Raises:
        ConfigError: The model's turns have no place where thinking could be ended.
    """
    own = request.task.thinking_tokens
    tokens = request.env.limits.thinking_tokens if own is None else own
    if tokens and not renderer.dialect.end_of_thinking:
        raise ConfigError(
            f"thinking_tokens={tokens}: in the dialect {renderer.dialect.name!r} thinking cannot be ended for the "
            "model; set it to 0"
        )
    return tokens


def _cut(observation: list[int], room: int, renderer: Renderer) -> list[int]:
    """Cut an observation to the room left, so that a truncated episode does not end on an end-of-turn token.

    Trainers tell truncated completions by their last token; at least one token is kept.
    """
    observation = observation[: max(room, 1)]
    while len(observation) > 1 and observation[-1] in renderer.closing_ids:
        observation.pop()
    return observation


def renderer_of(renderer: Renderer, env: ToolEnv, task: Task) -> Renderer:
    """The renderer with the template's variables of an episode: the environment's, and over them the task's."""
    return renderer.with_options({**env.template_options, **task.template_options})


class _Prompts:
    """Renders what episodes share only once: a group's prompt, an environment's tools."""

    def __init__(self, engine: RolloutEngine):
        self._engine = engine
        self._schemas: dict[int, list[dict[str, Any]]] = {}
        self._ids: dict[tuple[int, str], list[int]] = {}

    def render(self, request: RolloutRequest, opening: Sequence[Message]) -> list[int]:
        """The prompt's ids (P,); none for a `ChatPolicy`.

        Raises:
            ConfigError: The policy wants tokens, and the engine has no renderer.
        """
        if isinstance(request.policy or self._engine.policy, ChatPolicy):
            return []
        key = (id(request.env), request.task.id)
        if key not in self._ids:
            self._ids[key] = self.renderer(request).prompt_ids(opening, self._schemas_of(request.env))
        return self._ids[key]

    def renderer(self, request: RolloutRequest) -> Renderer:
        """The renderer with the template's variables of the episode."""
        if self._engine.renderer is None:
            raise ConfigError("a policy that generates tokens needs a renderer; pass RolloutEngine(policy, renderer)")
        return renderer_of(self._engine.renderer, request.env, request.task)

    def _schemas_of(self, env: ToolEnv) -> list[dict[str, Any]]:
        if id(env) not in self._schemas:
            self._schemas[id(env)] = env.toolbox.schemas
        return self._schemas[id(env)]
