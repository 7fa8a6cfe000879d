"""Score saved episodes with the current reward."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession, Step, play_episode
from toolrl.errors import InfrastructureError, TaskError
from toolrl.support.event_loop import run_sync
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Episode, Message, Score, StopReason, Task

_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Regraded:
    """An episode and its new score.

    Attributes:
        trajectory: As it was played, with the new score if there is one.
        before: The old score.
        problem: Why there is no new score; empty if there is one.
    """

    trajectory: Trajectory
    before: Score
    problem: str = ""

    @property
    def changed(self) -> bool:
        """Whether the reward has changed."""
        old, new = self.before.value, self.trajectory.score.value
        if self.problem:
            return False
        return old is not new if old is None or new is None else abs(old - new) > _SAME


def regrade(trajectories: Iterable[Trajectory], environment_of: Callable[[Trajectory], ToolEnv]) -> Iterator[Regraded]:
    """Score saved episodes again, without generating.

    The calls of an episode are run again, and its user is asked again, to restore the state that the reward inspects (a
    sandbox, a database). If a tool or the user says something else than before, the episode keeps its score. Episodes
    that ended in a fault stay unscored. Where the environment has a `group_reward`, the saved episodes of a group are
    scored together, after all others, or not at all.

    Args:
        trajectories: The episodes.
        environment_of: The environment of an episode, with the current reward and the task's id.
    """
    groups: dict[Hashable, list[Trajectory]] = {}
    for trajectory in trajectories:
        env = environment_of(trajectory)
        if env.grader.group_reward is None:
            yield from run_sync(_regrade([trajectory], env))
        else:
            played = tuple(trajectory.info.get(name) for name in ("session", "mode", "step", "group"))
            groups.setdefault((trajectory.env_id, trajectory.task_id, *played), []).append(trajectory)
    for members in groups.values():
        yield from run_sync(_regrade(members, environment_of(members[0])))


async def _regrade(members: Sequence[Trajectory], env: ToolEnv) -> list[Regraded]:
    """Score the episodes of a group, or a single one."""
    sessions = [await _replayed(member, env) for member in members]
    unknown = [
        found
        for found, member in zip(sessions, members, strict=True)
        if isinstance(found, str) and member.stop is not StopReason.FAULT
    ]
    if unknown and len(members) > 1:
        sessions = [
            found if isinstance(found, str) else f"of another episode of its group: {unknown[0]}" for found in sessions
        ]
    played = [session for session in sessions if isinstance(session, EpisodeSession)]
    scores = iter(list[Score]())
    if played:
        first, episodes = played[0], [session.episode or Episode(None) for session in played]
        scores = iter(await env.grader.score_group(first.task, episodes, first.where, env.limits.reward_seconds))
    return [
        Regraded(member, member.score, found)
        if isinstance(found, str)
        else Regraded(replace(member, score=next(scores)), member.score)
        for member, found in zip(members, sessions, strict=True)
    ]


async def _replayed(trajectory: Trajectory, env: ToolEnv) -> EpisodeSession | str:
    """The episode, played again and scored by itself; or why it cannot be."""
    if trajectory.stop is StopReason.FAULT:
        return "it ended in a fault"
    if trajectory.results is not None:
        return "a program played it, and what it answered is not among its turns"
    task = _task_of(env, trajectory)
    if task is None:
        return f"the environment has no task {trajectory.task_id!r} with this prompt; does it need --env_settings?"
    session = env.open_episode(task)
    try:
        await play_episode(session, _Replay(trajectory), [], in_group=True)
    except _Diverged as difference:
        return str(difference)
    except InfrastructureError as error:
        return f"{type(error).__name__}: {error}"
    return session


class _Diverged(Exception):
    """A tool returned another result than when the episode was played."""


class _Replay:
    """Plays the turns of a trajectory again, and stops where it stopped."""

    def __init__(self, trajectory: Trajectory):
        self._turns = list(trajectory.turns)
        self._stop = trajectory.stop

    async def speak(self, messages: Sequence[Message]) -> Turn | None:
        return self._turns.pop(0) if self._turns else None

    def observe(self, turn: Turn, step: Step) -> tuple[list[int], StopReason | None]:
        for before, now in zip(turn.results, step.results, strict=False):
            if before.content != now.content:
                name = before.call.name
                raise _Diverged(f"{name} now returns {now.content[:60]!r}, not {before.content[:60]!r}")
        if turn.reply != step.reply:
            raise _Diverged(f"the user now says {str(step.reply)[:60]!r}, not {str(turn.reply)[:60]!r}")
        return [], None if self._turns else self._stop


def _task_of(env: ToolEnv, trajectory: Trajectory) -> Task | None:
    try:
        task = env.tasks.by_id(trajectory.task_id)
    except TaskError:
        return None
    question = next((message.content for message in reversed(trajectory.prompt) if message.role == "user"), "")
    return task if task.prompt == question else None


def summary(results: Iterable[Regraded]) -> list[dict[str, Any]]:
    """A row per environment: episodes, mean rewards before and after, how many rose, fell or have no new score."""
    rows: dict[str, dict[str, Any]] = {}
    for result in results:
        row = rows.setdefault(
            result.trajectory.env_id,
            {"episodes": 0, "before": 0.0, "after": 0.0, "scored": 0, "up": 0, "down": 0, "without": 0},
        )
        row["episodes"] += 1
        old, new = result.before.value, result.trajectory.score.value
        if result.problem or old is None or new is None:
            row["without"] += 1
            continue
        row["scored"] += 1
        row["before"] += old
        row["after"] += new
        if result.changed:
            row["up" if new > old else "down"] += 1
    for row in rows.values():
        for name in ("before", "after"):
            row[name] = row[name] / row["scored"] if row["scored"] else None
    return [{"env": env, **row} for env, row in rows.items()]
