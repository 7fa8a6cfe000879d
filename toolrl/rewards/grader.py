"""How an environment scores: each episode by its reward, the episodes of a task together, and a gold reward beside."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from toolrl.errors import ConfigError, InfrastructureError
from toolrl.rewards.confidence import read_confidence, with_confidence
from toolrl.support.waiting import TookTooLong, in_thread, noting, within
from toolrl.types import Episode, Score, Task

T = TypeVar("T")
RewardValue = Score | float | None
Reward = Callable[[Task, Episode], RewardValue | Awaitable[RewardValue]]
GroupReward = Callable[[Task, Sequence[Episode]], Sequence[RewardValue] | Awaitable[Sequence[RewardValue]]]

GOLD, HACK = "gold", "hack"  # parts of a score that no reward sees
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grader:
    """The rewards of an environment; see `ToolEnv`.

    A fault, or a function that does not end in time, leaves unscored what it was to score, and never makes it zero.

    Attributes:
        reward: Scores an episode.
        group_reward: Has the last word on the scores of a task's episodes; None leaves them as they are.
        gold: A reward that is recorded as the part `gold` of a score, and never trained on.
        confidence: Not None where answers state how sure they are: no reward sees that, it is noted in the score, and
            costs this weight times its Brier score; see `toolrl.rewards.confidence`.
    """

    reward: Reward
    group_reward: GroupReward | None = None
    gold: Reward | None = None
    confidence: float | None = None

    async def score(self, task: Task, episode: Episode, where: str, seconds: float) -> Score:
        """Score an episode by itself, while its resources are open.

        Args:
            task: The task.
            episode: As the reward sees it.
            where: Names the environment and the task, for messages.
            seconds: Time limit of each function.
        """
        episode, stated = self._without_confidence(episode)
        try:
            score = await _call("reward", self.reward, task, episode, _score, where, seconds)
        except _Unscored as reason:
            return Score(None, reason=str(reason))
        if self.confidence is not None:
            score = with_confidence(score, stated, self.confidence)
        if self.gold is None or score.value is None:
            return score
        try:
            gold = await _call("gold reward", self.gold, task, episode, _score, where, seconds)
        except _Unscored as reason:
            gold = Score(None, reason=str(reason))
        if gold.value is None:
            _log.warning("an episode has no gold reward: %s (%s)", gold.reason, where)
            return score
        hack = float(bool(score.success) and not gold.success)
        return replace(score, parts={HACK: hack, **score.parts, GOLD: gold.value})

    async def score_group(self, task: Task, episodes: Sequence[Episode], where: str, seconds: float) -> list[Score]:
        """The final scores (G,) of a task's episodes, each of which has its `score`.

        Unscored episodes stay unscored, and are not shown to the function. A plain number replaces the value of a score
        and leaves its success as it was; a `Score` replaces all of it.

        Raises:
            ConfigError: The function did not return one score for each episode that it was given.
        """
        scores = [episode.score or Score(None) for episode in episodes]
        members = [place for place, score in enumerate(scores) if score.value is not None]
        if self.group_reward is None or not members:
            return scores
        shown = [
            replace(self._without_confidence(episodes[place])[0], state={}, score=_without_gold(scores[place]))
            for place in members
        ]

        def read(verdicts: Any) -> list[Score]:
            if not isinstance(verdicts, Iterable) or len(given := list(verdicts)) != len(members):
                raise ConfigError(
                    f"group_reward must return a list with a score for each of the {len(members)} episodes that it is "
                    f"given, got {verdicts!r:.80}"
                )
            return [_final(scores[place], verdict) for place, verdict in zip(members, given, strict=True)]

        try:
            finals = await _call("group_reward", self.group_reward, task, shown, read, where, seconds)
        except _Unscored as reason:
            finals = [replace(scores[place], value=None, reason=str(reason)) for place in members]
        for place, final in zip(members, finals, strict=True):
            scores[place] = final
        return scores

    def _without_confidence(self, episode: Episode) -> tuple[Episode, float | None]:
        """The episode as rewards see it, and the confidence that its answer states."""
        if self.confidence is None or episode.answer is None:
            return episode, None
        answer, stated = read_confidence(episode.answer)
        return replace(episode, answer=answer), stated


class _Unscored(Exception):
    """A function gave no verdict, for this reason."""


async def _call(
    what: str,
    function: Callable[..., Any],
    task: Task,
    played: Any,
    read: Callable[[Any], T],
    where: str,
    seconds: float,
) -> T:
    """Call a reward on its own thread, or await it, and read what it returns.

    Raises:
        _Unscored: It failed through no fault of the model's, or took too long.
    """

    async def call() -> T:
        if inspect.iscoroutinefunction(function):
            return read(await function(task, played))
        verdict = await in_thread(lambda: function(task, played))
        return read(await verdict if inspect.isawaitable(verdict) else verdict)  # an object with an async __call__

    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        with noting(f"in {where}"):
            return await within(seconds, f"{what} {name!r}", call)
    except InfrastructureError as error:
        raise _Unscored(f"the grader failed: {error}") from error
    except TookTooLong as error:
        # No retry, since it would hang again; no zero, since the model did not cause it.
        reason = f"{error} ({where})"
        _log.warning("%s; the episode is unscored. Limits(reward_seconds=) sets the limit", reason)
        raise _Unscored(reason) from error


def _score(verdict: Any) -> Score:
    return verdict if isinstance(verdict, Score) else Score(verdict)


def _without_gold(score: Score) -> Score:
    return replace(score, parts={name: part for name, part in score.parts.items() if name not in (GOLD, HACK)})


def _final(own: Score, verdict: Any) -> Score:
    """The final score, with the gold reward that its own score has."""
    if not isinstance(verdict, Score):
        reason = "group_reward left it unscored" if verdict is None else own.reason
        return replace(own, value=verdict, parts={"correct": float(bool(own.success)), **own.parts}, reason=reason)
    kept = {name: own.parts[name] for name in (GOLD, HACK) if name in own.parts}
    return replace(verdict, parts={**verdict.parts, **kept})
