"""A rollout worker: an engine, its policy and its environments, in a process of its own on some node."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import traceback
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from toolrl.distributed.engine import RemotePolicy
from toolrl.distributed.host import PolicyHost, about_here
from toolrl.distributed.work import Played, Playing, Surroundings, Work, digest_of
from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError, TaskError, UserError
from toolrl.evaluation.evaluate import oracle_policy
from toolrl.gateway import ProgramEngine, parse_agent
from toolrl.policy import ChatPolicy, Policy, ScriptedChatPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.event_loop import on_background_loop
from toolrl.types import Task


class RolloutWorker(PolicyHost):
    """Plays episodes."""

    def __init__(self, playing: Playing, concurrency: int = 64, variables: Mapping[str, str] | None = None):
        """Note how to play; `start` opens everything.

        Args:
            playing: How to play.
            concurrency: Episodes in flight.
            variables: Of the driver's environment, for what is opened here.
        """
        super().__init__(playing, variables)
        self._concurrency = concurrency
        self._environments: dict[str, ToolEnv] = {}
        self._making = asyncio.Lock()  # one environment at a time, each once
        self._engine: RolloutEngine | None = None
        self._remote = RemotePolicy()
        self._alive = 0

    async def start(
        self, weights: Mapping[str, Any] | None = None, version: int = 0, around: Surroundings | None = None
    ) -> dict[str, Any]:
        """Open the policy, with the given weights if there are any and it is opened here; see `about_here`."""
        await self.surround(around or Surroundings())
        await asyncio.to_thread(self._start)
        if weights is not None and not self._playing.elsewhere:
            await self.load(weights, version)
        return about_here()

    def _start(self) -> None:
        playing = self._playing
        renderer = playing.open_renderer()
        policy: Policy | ChatPolicy = ScriptedChatPolicy([])  # unused: each episode has its own oracle
        if playing.elsewhere:
            policy = self._remote
        elif playing.policy is not None:
            policy = self._open_policy(renderer)
        options: dict[str, Any] = {
            "sampling": playing.sampling,
            "max_completion_tokens": playing.max_completion_tokens,
            "concurrency": self._concurrency,
            "retries": playing.retries,
            "policy_timeout_seconds": playing.policy_timeout_seconds,
        }
        if playing.agent is None:
            self._engine = RolloutEngine(policy, renderer, **options)
        else:
            name, settings = playing.agent
            self._engine = engine = ProgramEngine(parse_agent(name, **settings), policy, renderer, **options)
            self._open.callback(engine.close)

    async def surround(self, around: Surroundings) -> None:
        """Use these engines and services from now on."""
        os.environ.update(around.variables)
        self._remote.set_engines(around.engines)

    async def play(self, works: Sequence[Work]) -> AsyncIterator[tuple[int, Played]]:
        """Play, and yield the place of each work with what came of it, as they end."""
        tasks = {asyncio.create_task(self._play(work)): place for place, work in enumerate(works)}
        try:
            pending = set(tasks)
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield tasks[task], task.result()
        finally:
            for task in tasks:
                task.cancel()

    async def _play(self, work: Work) -> Played:
        assert self._engine is not None
        self._alive += len(work.episodes)
        try:
            async with self._making:
                env = await asyncio.to_thread(self._environment, work)
            task = _task_of(env, work)
            policy = oracle_policy(env, task, self._engine.renderer) if self._playing.policy is None else None
            requests = [RolloutRequest(env, task, work.env_id, id, policy, info) for id, info in work.episodes]
            return Played(await on_background_loop(self._engine.play_group(requests)))
        except UserError as error:
            return Played(error=error)
        except Exception as error:  # noqa: BLE001 - a bug in a tool or a reward, raised where the run is
            return Played(error=_sendable(error))
        finally:
            self._alive -= len(work.episodes)

    def _environment(self, work: Work) -> ToolEnv:
        env_id, settings = work.made_from
        key = json.dumps([env_id, settings], sort_keys=True, default=repr)
        if key not in self._environments:
            try:
                self._environments[key] = env = make(env_id, **settings)
            except (UserError, ImportError) as error:
                raise ConfigError(f"on node {socket.gethostname()}, {env_id} cannot be made: {error}") from None
            self._open.callback(env.close)
        return self._environments[key]

    async def alive(self) -> int:
        """Episodes in flight."""
        return self._alive


def _task_of(env: ToolEnv, work: Work) -> Task:
    """The task of some work.

    Raises:
        ConfigError: The worker has another version of the environment.
    """
    with suppress(TaskError):
        task = env.tasks.by_id(work.task_id)
        if digest_of(task) == work.digest:
            return task
    raise ConfigError(
        f"on node {socket.gethostname()}, {work.env_id} has no task {work.task_id!r} with the same prompt; install the "
        "same version of the environment's package there"
    )


def _sendable(error: Exception) -> Exception:
    """The error itself, or its text if it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever its class does
        return RuntimeError("".join(traceback.format_exception(error)))
    error.add_note(f"on node {socket.gethostname()}:\n" + "".join(traceback.format_tb(error.__traceback__)))
    return error
