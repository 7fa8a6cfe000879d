"""Plays a script against an environment's real tools and grader: one `EpisodeSession`, no policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

from toolrl.env import ToolEnv
from toolrl.episode import EpisodeSession
from toolrl.errors import InfrastructureError
from toolrl.support.event_loop import run_sync
from toolrl.types import Message, Score, StopReason, Task, ToolResult

Turn = str | Message
Script = Iterable[Turn] | Generator[Turn, list[Message], None]


@dataclass(frozen=True, slots=True)
class Played:
    """One episode.

    Attributes:
        task_id: The task.
        messages: The whole conversation.
        results: Every call with its result.
        score: The verdict; unscored after a fault of the infrastructure.
        stop: Why it ended.
        crash: The exception that a tool or the grader raised though it should not have; empty if none.
        turns: Those of the script that were taken, as it gave them.
    """

    task_id: str
    messages: tuple[Message, ...]
    results: tuple[ToolResult, ...]
    score: Score
    stop: StopReason
    crash: str = ""
    turns: tuple[Turn, ...] = ()

    @property
    def reward(self) -> float:
        """The reward; 0 where there is none."""
        return self.score.value or 0.0

    @property
    def final(self) -> str | None:
        """Text of the final message, if the episode ended with one."""
        return self.messages[-1].content if self.stop is StopReason.ANSWER else None


class Count:
    """Episodes that are played, and those to come."""

    def __init__(self, show: Callable[[int, int], None] | None = None):
        """Show them at each change."""
        self._show = show
        self._done = self._total = 0

    def expect(self, more: int) -> None:
        """There are more to come."""
        self._total += more
        self._tell()

    def add_one(self) -> None:
        """One is over."""
        self._done += 1
        self._tell()

    def _tell(self) -> None:
        if self._show is not None:
            self._show(self._done, self._total)


async def play(env: ToolEnv, task: Task, script: Script) -> Played:
    """Play one episode to its end.

    Texts are read in the environment's dialect, as a policy's are. A script that ends without an answer
    is followed by an empty message. A generator is sent the tool messages that its last turn brought.
    """
    session = env.open_episode(task)
    stop, score, crash, turns = StopReason.FAULT, Score(None), "", list[Turn]()
    try:
        async with session:
            stop = await _advance(env, session, script, turns)
            score = await session.score(stop)
    except InfrastructureError as error:
        stop, score = StopReason.FAULT, Score(None, reason=f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - that hostile turns raise nothing is what is being examined
        crash = f"{type(error).__name__}: {error}"
    return Played(task.id, tuple(session.messages), tuple(session.results), score, stop, crash, tuple(turns))


async def _advance(env: ToolEnv, session: EpisodeSession, script: Script, taken: list[Turn]) -> StopReason:
    turns = iter(script)
    observations: list[Message] | None = None
    while True:
        try:
            if isinstance(turns, Generator) and observations is not None:
                turn = turns.send(observations)
            else:
                turn = next(turns)
        except StopIteration:
            turn = ""
        taken.append(turn)
        step = await session.advance(env.dialect.parse(turn, env.toolbox.schemas) if isinstance(turn, str) else turn)
        if step.stop is not None:
            return step.stop
        observations = step.messages


def play_all(
    env: ToolEnv,
    scripts: Sequence[tuple[Task, Script]],
    concurrency: int = 8,
    count: Count | None = None,
) -> list[Played]:
    """Play episodes, several at a time; the results stand in the order of the scripts."""
    count = count or Count()
    count.expect(len(scripts))

    async def run() -> list[Played]:
        slots = asyncio.Semaphore(concurrency)

        async def one(task: Task, script: Script) -> Played:
            async with slots:
                played = await play(env, task, script)
            count.add_one()
            return played

        return list(await asyncio.gather(*(one(task, script) for task, script in scripts)))

    return run_sync(run())
