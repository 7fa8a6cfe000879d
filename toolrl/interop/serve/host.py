"""Environments and the sessions that clients have with them, whatever the protocol. Grading happens here."""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
import re
import secrets
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession, Step
from toolrl.errors import ConfigError, InfrastructureError, TaskError, UserError
from toolrl.support.waiting import in_thread
from toolrl.types import Message, Score, StopReason, Task

SPLITS = ("train", "test")
_log = logging.getLogger(__name__)


class NotServed(Exception):
    """What a client asks for is not here: an environment, a task or a session."""


class Busy(Exception):
    """No session is free."""


class EpisodeEnded(Exception):
    """A turn was taken where no episode is in progress."""


@dataclass(frozen=True, slots=True)
class ServeLimits:
    """Bounds of a server. An episode's own are its environment's.

    Attributes:
        sessions: Open at once; further ones are refused.
        idle_seconds: A session that is not used for this long is closed, and what its episode opened with it.
    """

    sessions: int = 64
    idle_seconds: float = 900.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: One is not positive.
        """
        for name in ("sessions", "idle_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"ServeLimits.{name} must be positive, got {getattr(self, name)!r}")


class Outcome(NamedTuple):
    """What followed a turn.

    Attributes:
        step: Results of its calls, or the user's reply; None if the episode was ended without a turn.
        reward: What it earned; at the end with whatever is missing to the score.
        stop: Why the episode ended; None while it goes on.
        score: At the end.
    """

    step: Step | None
    reward: float
    stop: StopReason | None
    score: Score | None


class Session:
    """A client's place at an environment, where it plays one episode after the other.

    Attributes:
        id: What the client names it by; whoever knows it may use it.
        name: The environment's.
        task: Of the episode in progress, or of the last one.
        split: The task's.
        turns: Taken in that episode.
        total: What they earned.
        outcome: The last turn's, in that episode.
        is_attached: Whether a connection uses it.
        label: What the client calls the episode.
        used_at: When it was last used, in seconds of the event loop's clock.
    """

    def __init__(self, name: str, env_of: Callable[[str, str], Coroutine[Any, Any, ToolEnv]]):
        """Open a place.

        Args:
            name: The environment's.
            env_of: Gives an environment by name and split.
        """
        self.id = secrets.token_urlsafe(24)
        self.name = name
        self.task: Task | None = None
        self.split = ""
        self.turns = 0
        self.total = 0.0
        self.outcome: Outcome | None = None
        self.is_attached = False
        self.label = self.id
        self.used_at = asyncio.get_running_loop().time()
        self._env_of = env_of
        self._episode: EpisodeSession | None = None
        self._one_turn = asyncio.Lock()
        self._is_closed = False

    @property
    def is_playing(self) -> bool:
        """Whether an episode is in progress."""
        return self._episode is not None

    @property
    def is_working(self) -> bool:
        """Whether a turn is being taken."""
        return self._one_turn.locked()

    async def begin(
        self, *, split: str = "train", task_id: str | None = None, index: int | None = None, seed: int | None = None
    ) -> list[Message]:
        """Begin an episode; one in progress is given up.

        Args:
            split: Where the task is from.
            task_id: Which task; else
            index: which by its place; else
            seed: chosen by this, or by chance.

        Returns:
            The conversation's beginning.

        Raises:
            NotServed: There is no such split or task, or the session is closed.
        """
        async with self._one_turn:
            if self._is_closed:
                raise NotServed("this session is closed; open another")
            env = await self._env_of(self.name, split)
            task = _chosen(env, task_id, index, seed)
            await self._end()
            self.task, self.split, self.turns, self.total, self.outcome = task, split, 0, 0.0, None
            self._episode = env.open_episode(task, self.name)
            self._used()
            return list(self._episode.messages)

    async def take(self, message: Message) -> Outcome:
        """Take a turn.

        Raises:
            EpisodeEnded: No episode is in progress.
            InfrastructureError: A tool or the user failed, and the client did not cause it; the episode is over, and
                has no score.
        """
        async with self._one_turn:
            episode = self._playing()
            try:
                step = await episode.advance(message)
                score = await episode.score(step.stop) if step.stop is not None else None
            except BaseException as error:
                await self._fail(error)
                raise
            self.turns += 1
            return await self._note(Outcome(step, episode.earned(step, score), step.stop, score))

    async def verify(self) -> Outcome:
        """Grade the episode as it stands, without an answer; if it has ended already, this is its last outcome.

        Raises:
            EpisodeEnded: None has begun.
        """
        async with self._one_turn:
            if self._episode is None and self.outcome is not None:
                return self.outcome
            episode = self._playing()
            try:
                score = await episode.score(StopReason.TURNS)
            except BaseException as error:
                await self._fail(error)
                raise
            return await self._note(Outcome(None, episode.earned(Step([], []), score), StopReason.TURNS, score))

    async def close(self) -> None:
        """Give up the episode in progress, and close what it opened."""
        async with self._one_turn:
            self._is_closed = True
            await self._end()

    def _playing(self) -> EpisodeSession:
        if self._episode is None:
            state = "the episode has ended" if self.outcome is not None else "no episode has begun"
            raise EpisodeEnded(f"{state}; begin one, with reset or with a new session")
        return self._episode

    async def _note(self, outcome: Outcome) -> Outcome:
        """Keep what followed a turn; an episode that has ended is closed."""
        self.outcome = outcome
        self.total += outcome.reward
        self._used()
        if outcome.stop is not None:
            await self._end()
        return outcome

    async def _fail(self, error: BaseException) -> None:
        """End the episode without a score."""
        reason = str(error) if isinstance(error, InfrastructureError) else "the server failed"
        self.outcome = Outcome(None, 0.0, StopReason.FAULT, Score(None, reason=reason))
        self._used()
        await self._end()

    def _used(self) -> None:
        self.used_at = asyncio.get_running_loop().time()

    async def _end(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            await episode.close()


def _chosen(env: ToolEnv, task_id: str | None, index: int | None, seed: int | None) -> Task:
    if task_id is not None:
        try:
            return env.tasks.by_id(task_id)
        except TaskError as error:
            raise NotServed(str(error)) from None
    place = random.Random(seed).randrange(len(env.tasks)) if index is None else index
    if not 0 <= place < len(env.tasks):
        raise NotServed(f"no task has the index {place}; there are {len(env.tasks)}")
    return env.tasks[place]


class Host:
    """Environments by name, and the sessions of their clients. Use it on one event loop.

    Attributes:
        names: The environments' names, by what stands for them in addresses.
        limits: Its bounds.
    """

    def __init__(self, names: Sequence[str], make: Callable[[str, str], ToolEnv], limits: ServeLimits):
        """Serve environments.

        Args:
            names: Their names.
            make: Makes one by name and split, the same one each time; whoever passes it closes them.
            limits: Bounds.

        Raises:
            ConfigError: There is none, or two have the same name in addresses.
        """
        self.names = {slug(name): name for name in names}
        if not names or len(self.names) < len(names):
            raise ConfigError(f"name one environment or more, each once, got {list(names)!r}")
        self.limits = limits
        self._make = make
        self._making = asyncio.Lock()
        self._made: dict[tuple[str, str], ToolEnv | UserError] = {}
        self._sessions: dict[str, Session] = {}

    async def env(self, name: str, split: str) -> ToolEnv:
        """An environment with the tasks of a split.

        Raises:
            NotServed: It is not served, or has no task of this split.
        """
        if name not in self.names.values():
            raise NotServed(f"no environment {name!r} is served here; there are {', '.join(self.names.values())}")
        if split not in SPLITS:
            raise NotServed(f"no split {split!r}; there are {' and '.join(SPLITS)}")
        async with self._making:  # two requests must not make the same one
            if (name, split) not in self._made:
                try:
                    self._made[name, split] = await in_thread(lambda: self._make(name, split))
                except UserError as error:  # many environments have one split, and are asked for both
                    self._made[name, split] = error
            made = self._made[name, split]
        if isinstance(made, UserError):
            raise NotServed(f"{name} has no tasks of the split {split!r}: {made}")
        return made

    async def any_env(self, name: str) -> ToolEnv:
        """An environment with the tasks of the first split that it has, for what all splits share.

        Raises:
            NotServed: It is not served, or has no tasks at all.
        """
        try:
            return await self.env(name, SPLITS[0])
        except NotServed:
            return await self.env(name, SPLITS[1])

    async def splits(self, name: str) -> dict[str, int]:
        """The splits that an environment has, with the number of their tasks."""
        sizes = {}
        for split in SPLITS:
            with suppress(NotServed):
                sizes[split] = len((await self.env(name, split)).tasks)
        return sizes

    def open(self, name: str) -> Session:
        """A new session.

        Raises:
            NotServed: The environment is not served.
            Busy: As many as are allowed are open.
        """
        if name not in self.names.values():
            raise NotServed(f"no environment {name!r} is served here; there are {', '.join(self.names.values())}")
        if len(self._sessions) >= self.limits.sessions:
            raise Busy(f"{self.limits.sessions} sessions are open, and no more are allowed; close one, or try later")
        session = Session(name, self.env)
        self._sessions[session.id] = session
        return session

    def session(self, id: str) -> Session:
        """An open session.

        Raises:
            NotServed: There is none with this id; it may have been idle for too long.
        """
        if id not in self._sessions:
            raise NotServed(
                f"no session {id[:80]!r} is open; idle ones are closed after {self.limits.idle_seconds:g} s"
            )
        return self._sessions[id]

    @property
    def number_of_sessions(self) -> int:
        """How many are open."""
        return len(self._sessions)

    async def close(self, session: Session) -> None:
        """Close a session. Safe to call twice."""
        self._sessions.pop(session.id, None)
        await session.close()

    async def sweep(self) -> None:
        """Close sessions that are idle for too long, until cancelled."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.idle_seconds / 4))
            oldest = asyncio.get_running_loop().time() - self.limits.idle_seconds
            idle = [one for one in self._sessions.values() if one.used_at < oldest and not one.is_working]
            await _closed([self.close(session) for session in idle])

    async def close_all(self) -> None:
        """Close all sessions."""
        await _closed([self.close(session) for session in list(self._sessions.values())])


async def _closed(closings: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for sessions to close; one that fails does not keep the others open."""
    for failure in await asyncio.gather(*closings, return_exceptions=True):
        if isinstance(failure, Exception):
            _log.warning("a session did not close as it should: %s", failure)


def slug(name: str) -> str:
    """A name as a part of an address: `toolrl/PythonMath-v0` becomes `toolrl-PythonMath-v0`."""
    return re.sub(r"[^\w.@-]+", "-", name).strip("-")


def summary(env: ToolEnv) -> str:
    """The first line of what an environment's class says; empty for one that is made of parts."""
    return "" if type(env) is ToolEnv else inspect.cleandoc(type(env).__doc__ or "").partition("\n")[0]


def described(task: Task) -> dict[str, Any]:
    """What clients may know of a task: neither its answer nor its metadata."""
    known: Mapping[str, Any] = {"kind": task.kind, "difficulty": task.difficulty, "needs_tool": task.needs_tool}
    return {"id": task.id, "prompt": task.prompt, **{k: v for k, v in known.items() if v not in ("", None)}}


def judged(score: Score) -> dict[str, Any]:
    """What clients may know of a score: not its reason, which may quote the answer, unless it has no value."""
    shown: dict[str, Any] = {"value": score.value, "parts": dict(score.parts)}
    return {**shown, "reason": score.reason} if score.value is None else shown
