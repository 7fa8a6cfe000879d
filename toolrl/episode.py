"""One episode: the state machine behind Gymnasium's `step`, and the loop that plays a whole episode."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from toolrl.errors import ConfigError
from toolrl.rewards.grader import Grader
from toolrl.support.usage import counting
from toolrl.support.waiting import in_thread, noting
from toolrl.tools.awards import collecting
from toolrl.tools.dispatch import Toolbox
from toolrl.tools.resources import ResourceScope, add_up, close_all
from toolrl.trajectory import Turn
from toolrl.types import (
    Award,
    Ended,
    Episode,
    Limits,
    Message,
    Score,
    StopReason,
    Task,
    ToolCall,
    ToolFailure,
    ToolResult,
)
from toolrl.users.definition import User

MAX_NESTING = 100  # of a call's arguments; Python's JSON encoder fails at about 1,000


@dataclass(frozen=True, slots=True)
class Step:
    """The outcome of one assistant message.

    Attributes:
        messages: One tool message per call that ran, or the user's message; empty after an answer.
        results: The calls' results, in order.
        stop: Why the episode ended; None if it continues.
        reply: What the user said; None if nobody spoke.
        awards: What tools or the user awarded the turn.
    """

    messages: list[Message]
    results: list[ToolResult]
    stop: StopReason | None = None
    reply: str | None = None
    awards: tuple[Award, ...] = ()


class Player(Protocol):
    """Plays the assistant in one episode: a policy with tokens, a chat model, a script."""

    async def speak(self, messages: Sequence[Message]) -> Turn | None:
        """Take the next turn of the conversation; None if no tokens are left for it.

        Raises:
            PolicyFault: The model failed or is unreachable.
        """
        ...

    def observe(self, turn: Turn, step: Step) -> tuple[list[int], StopReason | None]:
        """Take in what came back.

        Returns:
            (O,) the ids appended after the turn, none if it plays without tokens; and why the episode stops here:
            `step.stop`, or a limit of its own.
        """
        ...


class EpisodeSession:
    """One task in progress. Use it as an async context manager, or call `close`.

    Attributes:
        task: The task.
        where: Names the environment and the task, for messages.
        messages: The conversation so far, the system message first if there is one.
        results: Every tool result so far.
        awards: Every award so far.
        said: What the agent has said to the user, in order.
        turns: Number of assistant messages so far.
        ended: What the tool or the user returned that ended the episode.
        episode: As the reward saw it, without its state and with its score; None before it is scored.
    """

    def __init__(
        self,
        task: Task,
        toolbox: Toolbox,
        grader: Grader,
        limits: Limits,
        system_prompt: str,
        run_scope: ResourceScope,
        env_id: str = "",
        user: User | None = None,
    ):
        """Set up the conversation; resources open when a call first needs them.

        Exceptions raised by a tool, a resource or the reward get a note that names it, `env_id` and the task.
        """
        self.task = task
        self.where = f"environment {env_id!r}, task {task.id!r}"
        self.messages: list[Message] = [Message("system", system_prompt)] if system_prompt else []
        self.messages.append(Message("user", task.prompt))
        self.results: list[ToolResult] = []
        self.awards: list[Award] = []
        self.said: list[str] = []
        self.turns = 0
        self.ended: Ended | None = None
        self.episode: Episode | None = None
        self._used: dict[str, float] = {}
        self._ids: set[str] = set()
        self._toolbox = toolbox
        self._grader = grader
        self._user = user
        self._limits = limits
        self._scope = ResourceScope(task, run_scope)

    async def advance(self, message: Message) -> Step:
        """Take the model's next message: run its calls in order, or let the user answer, or end with its answer.

        Raises:
            InfrastructureError: A tool or the user failed, and the model did not cause it.
        """
        self.turns += 1
        calls = tuple(
            replace(_bounded(call), id=self._unused_id(call.id or f"call_{self.turns}_{index}"))
            for index, call in enumerate(message.tool_calls)
        )
        self.messages.append(replace(message, tool_calls=calls))
        step = await self._run(calls) if calls else await self._speak(message.content)
        self.messages.extend(step.messages)
        if step.stop is None and self.turns >= self._limits.turns:
            step = replace(step, stop=StopReason.TURNS)
        return step

    async def _run(self, calls: Sequence[ToolCall]) -> Step:
        """Run calls until one ends the episode."""
        results: list[ToolResult] = []
        awards: list[Award] = []
        for call in calls:
            result = await self._call(call, awards)
            results.append(result)
            if result.ended is not None:
                self.ended = result.ended
                break
        messages = [
            Message("tool", result.content, name=result.call.name, tool_call_id=result.call.id) for result in results
        ]
        return Step(messages, results, StopReason.TOOL if self.ended else None, awards=tuple(awards))

    async def _speak(self, said: str) -> Step:
        """Say something to the user; without one it is the answer."""
        self.said.append(said)
        if self._user is None:
            return Step([], [], StopReason.ANSWER)
        given: list[Award] = []
        with collecting(given), noting(f"in {self.where}"):
            reply = await self._user.reply(self.task, said, self._scope, self._limits.user_seconds)
        awards = tuple(self._within_bound(given))
        if isinstance(reply, Ended):
            self.ended = reply if reply.answer is not None else replace(reply, answer=said)
            text = str(reply.text)
            return Step([Message("user", text)] * bool(text), [], StopReason.USER, text or None, awards)
        return Step([Message("user", reply)], [], None, reply, awards)

    def _within_bound(self, given: Sequence[Award]) -> list[Award]:
        """Keep awards, cut to what the bound of their sum leaves."""
        kept: list[Award] = []
        for award in given:
            so_far = sum(earlier.value for earlier in self.awards)
            total = min(max(so_far + award.value, -self._limits.awards), self._limits.awards)
            kept.append(replace(award, value=total - so_far) if total != so_far + award.value else award)
            self.awards.append(kept[-1])
        return kept

    @property
    def usage(self) -> dict[str, float]:
        """Usage by its calls, its reward and its closed resources, by name; see `toolrl.tools.resources`."""
        return add_up((self._used, self._scope.usage.amounts()))

    def counting_usage(self) -> AbstractContextManager[None]:
        """Attribute what `toolrl.support.usage.count_usage` counts inside to this episode."""
        return counting(self._scope.usage)

    @property
    def last_turn(self) -> Message:
        """The last assistant message, with unique ids for its calls."""
        return next(message for message in reversed(self.messages) if message.role == "assistant")

    def _unused_id(self, id: str) -> str:
        """Return the id, numbered if an earlier call of the episode has it: results are matched to calls by id."""
        unused, number = id, 1
        while unused in self._ids:
            number += 1
            unused = f"{id}_{number}"
        self._ids.add(unused)
        return unused

    async def _call(self, call: ToolCall, awards: list[Award]) -> ToolResult:
        """Run one call; what it awards is added to `awards`, unless it is still running at its time limit."""
        if len(self.results) >= self._limits.tool_calls:
            content = f"error: no more than {self._limits.tool_calls} tool calls are allowed; answer now"
            result = ToolResult(call, content, ToolFailure.LIMIT)
        else:
            given: list[Award] = []
            with collecting(given), noting(f"in {self.where}"):
                result = await self._toolbox.call(call, self._scope)
            if result.failure is not ToolFailure.TIMEOUT:
                awards += self._within_bound(given)
        self.results.append(result)
        return result

    async def score(self, stop: StopReason, *, in_group: bool = False) -> Score:
        """Call the reward function, once, while resources are still open.

        An infrastructure fault gives an unscored `Score`, never a zero; so does a reward that does not finish within
        `Limits.reward_seconds`.

        Args:
            stop: Why the episode ended.
            in_group: The caller scores it with others of its task. Otherwise it is a group of one.
        """
        if stop is StopReason.FAULT:
            return Score(None, reason="the episode ended in an infrastructure fault")
        answer = self.last_turn.content if stop is StopReason.ANSWER else None
        ended = self.ended or Ended(answer=answer)
        episode = Episode(
            ended.answer,
            tuple(self.results),
            stop,
            self._scope.state,
            tuple(self.said),
            tuple(self.awards),
            ended.reason,
        )
        with self.counting_usage():  # a judge's usage
            limit = self._limits.reward_seconds
            score = await self._grader.score(self.task, episode, self.where, limit)
            self.episode = replace(episode, state={}, score=score)
            if not in_group:
                (score,) = await self._grader.score_group(self.task, [self.episode], self.where, limit)
        return score

    def earned(self, step: Step, score: Score | None) -> float:
        """What a turn earned: its awards, and at the end whatever is missing to the score; all of them sum up to it."""
        awarded = sum((award.value for award in step.awards), 0.0)
        if score is None:
            return awarded
        before = sum(award.value for award in self.awards) - awarded
        return 0.0 if score.value is None else score.value - before

    async def close(self) -> None:
        """Close the episode's resources."""
        opened = self._scope.retire()  # empty the second time
        if not opened:  # a thread would cost more than everything else here
            return

        def close() -> None:
            closed = opened
            try:
                closed = close_all(opened, self.where)
            finally:
                self._used = add_up((self._used, *(getattr(resource, "usage", {}) for resource in closed)))

        with noting(f"in {self.where}"):
            await in_thread(close)

    async def __aenter__(self) -> EpisodeSession:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


async def play_episode(
    session: EpisodeSession, player: Player, turns: list[Turn], *, in_group: bool = False
) -> tuple[StopReason, Score]:
    """Play an episode to its end, score it and close it. Every episode but Gymnasium's is played here.

    Args:
        session: A new episode.
        player: Plays the assistant.
        turns: Finished turns are appended here, so that they are known even if a later one raises.
        in_group: The caller scores it with others of its task, by `session.episode`.

    Raises:
        InfrastructureError: The player, a tool or a resource failed; this is not the model's mistake.
    """
    async with session:
        stop = await _play_turns(session, player, turns)
        return stop, await session.score(stop, in_group=in_group)


async def _play_turns(session: EpisodeSession, player: Player, turns: list[Turn]) -> StopReason:
    loop = asyncio.get_running_loop()
    while True:
        with session.counting_usage():
            turn = await player.speak(session.messages)
        if turn is None:
            return StopReason.TOKENS
        if turn.sample.finish == "length":
            turns.append(turn)
            return StopReason.TOKENS
        started = loop.time()
        step = await session.advance(turn.message)
        seconds = loop.time() - started if step.messages else 0.0
        observation_ids, stop = player.observe(turn, step)
        turns.append(
            replace(
                turn,
                message=session.last_turn,
                results=tuple(step.results),
                observation_ids=tuple(observation_ids),
                tool_seconds=seconds,
                reply=step.reply,
                awards=step.awards,
            )
        )
        if stop is not None:
            return stop


def _bounded(call: ToolCall) -> ToolCall:
    """Mark a call as malformed if its arguments are nested too deeply to be serialised."""
    level: list[Any] = list(call.arguments.values())
    for _ in range(MAX_NESTING):
        level = [
            inner
            for value in level
            if isinstance(value, (dict, list, tuple))
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return call
    error = f"the arguments are nested more than {MAX_NESTING} levels deep"
    return replace(call, arguments={}, error=call.error or error)


def check_parts(grader: Any, oracle: Any, system_prompt: Any, limits: Any) -> None:
    """Reject parts of an environment that would fail in the middle of a run.

    Raises:
        ConfigError: A part has the wrong type, or a function takes the wrong arguments.
    """
    wanted = (
        ("reward", grader.reward, "a task and an episode", 2),
        ("group_reward", grader.group_reward, "a task and its episodes", 2),
        ("gold", grader.gold, "a task and an episode", 2),
        ("oracle", oracle, "a task", 1),
    )
    for name, function, given, count in wanted:
        if name != "reward" and function is None:
            continue
        if not callable(function):
            raise ConfigError(f"{name} must be a function of {given}, got {function!r:.80}")
        try:
            inspect.signature(function).bind(*range(count))
        except TypeError as error:
            raise ConfigError(f"{name} is called with {given}: {error}") from None
        except ValueError:  # some builtins have no signature
            pass
    if not isinstance(system_prompt, str):
        raise ConfigError(f"system_prompt must be text, got {system_prompt!r:.80}")
    if not isinstance(limits, Limits | None):
        raise ConfigError(f"limits must be Limits(turns=..., ...), got {limits!r:.80}")


def check_solution(messages: Any, task: Task) -> list[Message]:
    """Return an oracle's messages as a list.

    Raises:
        ConfigError: They are not a list of assistant messages.
    """
    listed = isinstance(messages, Iterable) and not isinstance(messages, (str, Mapping))
    solution: list[Any] = list(messages) if listed else []
    if not solution or not all(isinstance(message, Message) and message.role == "assistant" for message in solution):
        raise ConfigError(
            "an oracle must return a list of assistant messages, as call(...) and say(...) make them, got "
            f"{(solution or messages)!r:.80} for task {task.id!r}"
        )
    return solution
