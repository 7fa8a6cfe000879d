"""Plays scripts against an environment's real tools and grader, as messages or token by token."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession, Player, Step, play_episode
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.players import renderer_of
from toolrl.policy import ScriptedPolicy
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.event_loop import run_sync
from toolrl.trajectory import Turn
from toolrl.types import Episode, Message, Sample, Score, StopReason, Task, ToolResult

ScriptTurn = str | Message
Script = Iterable[ScriptTurn] | Generator[ScriptTurn, list[Message], None]


@dataclass(frozen=True, slots=True)
class Played:
    """One episode.

    Attributes:
        task_id: The task.
        messages: The whole conversation.
        results: Every call with its result.
        score: The verdict; unscored after an infrastructure fault.
        stop: Why it ended.
        crash: The unexpected exception that a tool, the grader or the renderer raised; empty if none did.
        script: The turns taken from the script; empty if tokens were played.
        episode: As its group's reward sees it; None if it was not scored.
    """

    task_id: str
    messages: tuple[Message, ...]
    results: tuple[ToolResult, ...]
    score: Score
    stop: StopReason
    crash: str = ""
    script: tuple[ScriptTurn, ...] = ()
    episode: Episode | None = None

    @property
    def reward(self) -> float:
        """The reward; 0 if unscored."""
        return self.score.value or 0.0

    @property
    def final(self) -> str | None:
        """What the policy said last, if the episode ended with its words."""
        if self.stop not in (StopReason.ANSWER, StopReason.USER):
            return None
        return next(message.content for message in reversed(self.messages) if message.role == "assistant")


@dataclass
class EpisodeCounter:
    """Counts episodes, done and planned, and reports both numbers at each change."""

    on_progress: Callable[[int, int], None] | None = None
    done: int = 0
    planned: int = 0

    def add(self, *, done: int = 0, planned: int = 0) -> None:
        """Count further episodes."""
        self.done += done
        self.planned += planned
        if self.on_progress is not None:
            self.on_progress(self.done, self.planned)


class ScriptPlayer:
    """Follows a script; texts are read in the environment's dialect, as a policy's are.

    A script that runs out is followed by empty messages. A generator is sent the messages of tools or the user that its
    last turn brought.

    Attributes:
        taken: The turns so far.
    """

    def __init__(self, env: ToolEnv, script: Script):
        """Begin the script."""
        self.taken: list[ScriptTurn] = []
        self._env = env
        self._turns = iter(script)
        self._observations: list[Message] | None = None

    async def speak(self, messages: Sequence[Message]) -> Turn:
        """Take the next turn of the script."""
        try:
            if isinstance(self._turns, Generator) and self._observations is not None:
                turn = self._turns.send(self._observations)
            else:
                turn = next(self._turns)
        except StopIteration:
            turn = ""
        self.taken.append(turn)
        message = self._env.dialect.parse(turn, self._env.toolbox.schemas) if isinstance(turn, str) else turn
        return Turn(Sample([], []), message)

    def observe(self, turn: Turn, step: Step) -> tuple[list[int], StopReason | None]:
        """Keep what came back for the script."""
        self._observations = step.messages
        return [], step.stop


def play_all(
    env: ToolEnv,
    scripts: Sequence[tuple[Task, Script]],
    concurrency: int = 8,
    counter: EpisodeCounter | None = None,
) -> list[Played]:
    """Play scripts as messages, several at a time; the results are in the order of the scripts."""
    players = [ScriptPlayer(env, script) for _, script in scripts]

    def player(index: int, session: EpisodeSession) -> Player:
        return players[index]

    episodes = [(task, partial(player, index)) for index, (task, _) in enumerate(scripts)]
    played = _play_all(env, episodes, concurrency, counter)
    return [replace(one, script=tuple(player.taken)) for one, player in zip(played, players, strict=True)]


def play_on_tokens(
    env: ToolEnv,
    scripts: Sequence[tuple[Task, Sequence[ScriptTurn]]],
    renderer: Renderer,
    counter: EpisodeCounter | None = None,
) -> list[list[Played]]:
    """Play turns as a policy samples them, within the limits of training.

    Returns:
        For each script one episode, or two if a text contains those of control tokens; see `token_scripts`.
    """
    engine = RolloutEngine(ScriptedPolicy([]), renderer)

    def player(task: Task, turns: Sequence[Sequence[int]], session: EpisodeSession) -> Player:
        remaining = iter(turns)  # by their order, not by what was said: an exploit can repeat the prompt
        policy = ScriptedPolicy(lambda prompt_ids: next(remaining, [renderer.end_of_turn_id]))
        return engine.player(RolloutRequest(env, task, policy=policy), session)

    variants = [token_scripts(turns, env, renderer_of(renderer, env, task)) for task, turns in scripts]
    episodes = [
        (task, partial(player, task, ids)) for (task, _), found in zip(scripts, variants, strict=True) for ids in found
    ]
    played = iter(_play_all(env, episodes, 8, counter))
    return [[next(played) for _ in found] for found in variants]


def token_scripts(turns: Sequence[ScriptTurn], env: ToolEnv, renderer: Renderer) -> list[list[list[int]]]:
    """The ids (T,) of each turn; twice if a text contains those of control tokens: spelled out, and as such tokens."""
    spelled, control = ([_ids(turn, env, renderer, control) for turn in turns] for control in (False, True))
    return [spelled] if spelled == control else [spelled, control]


def _ids(turn: ScriptTurn, env: ToolEnv, renderer: Renderer, control: bool) -> list[int]:
    try:
        if not isinstance(turn, str):
            return renderer.assistant_ids(turn)
        if env.dialect.name != renderer.dialect.name:  # the same turn in this model's dialect
            return renderer.assistant_ids(env.dialect.parse(turn, env.toolbox.schemas))
    except ConfigError:  # the dialect cannot write it; a model can still try
        turn = turn if isinstance(turn, str) else _lenient_calls(turn)
    ids = [*renderer.text_ids(turn, control=control), renderer.end_of_turn_id]
    end = next(place for place, token in enumerate(ids) if token in renderer.stop_token_ids)
    return ids[: end + 1]  # nothing is sampled after it


def _lenient_calls(turn: Message) -> str:
    """Calls as a model could write them that does not know JSON's rules."""
    calls = [{"name": call.name, "arguments": dict(call.arguments)} for call in turn.tool_calls]
    return "\n".join(f"<tool_call>\n{json.dumps(call, default=repr)}\n</tool_call>" for call in calls)


def _play_all(
    env: ToolEnv,
    episodes: Sequence[tuple[Task, Callable[[EpisodeSession], Player]]],
    concurrency: int,
    counter: EpisodeCounter | None,
) -> list[Played]:
    counter = counter or EpisodeCounter()
    counter.add(planned=len(episodes))

    async def run() -> list[Played]:
        slots = asyncio.Semaphore(concurrency)

        async def play(task: Task, player: Callable[[EpisodeSession], Player]) -> Played:
            async with slots:
                played = await _play(env.open_episode(task), player)
            counter.add(done=1)
            return played

        return list(await asyncio.gather(*(play(*episode) for episode in episodes)))

    return run_sync(run())


async def _play(session: EpisodeSession, player: Callable[[EpisodeSession], Player]) -> Played:
    stop, score, crash, turns = StopReason.FAULT, Score(None), "", list[Turn]()
    try:
        stop, score = await play_episode(session, player(session), turns)
    except InfrastructureError as error:
        score = Score(None, reason=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - whether hostile turns raise something is what is being examined
        crash = f"{type(error).__name__}: {error}"
    cut = [turn.message for turn in turns if turn.sample.finish == "length"]  # never reached the environment
    messages = (*session.messages, *cut)
    return Played(session.task.id, messages, tuple(session.results), score, stop, crash, episode=session.episode)
