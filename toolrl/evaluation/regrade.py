"""Score saved episodes with the current reward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolrl.env import ToolEnv
from toolrl.episode import Step, play_episode
from toolrl.errors import InfrastructureError, TaskError
from toolrl.support.event_loop import run_sync
from toolrl.trajectory import Trajectory, Turn
from toolrl.types import Message, Score, StopReason, Task

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
    that ended in a fault stay unscored.

    Args:
        trajectories: The episodes.
        environment_of: The environment of an episode, with the current reward and the task's id.
    """
    for trajectory in trajectories:
        yield run_sync(_regrade(trajectory, environment_of(trajectory)))


async def _regrade(trajectory: Trajectory, env: ToolEnv) -> Regraded:
    def unchanged(problem: str) -> Regraded:
        return Regraded(trajectory, trajectory.score, problem)

    if trajectory.stop is StopReason.FAULT:
        return unchanged("it ended in a fault")
    task = _task_of(env, trajectory)
    if task is None:
        return unchanged(
            f"the environment has no task {trajectory.task_id!r} with this prompt; does it need --env-settings?"
        )
    try:
        _, score = await play_episode(env.open_episode(task), _Replay(trajectory), [])
    except _Diverged as difference:
        return unchanged(str(difference))
    except InfrastructureError as error:
        return unchanged(f"{type(error).__name__}: {error}")
    return Regraded(replace(trajectory, score=score), trajectory.score)


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
