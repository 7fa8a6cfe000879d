"""Promises about one episode: calls in order, resources alive until scored, failures kept apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolrl import (
    Episode,
    InfrastructureError,
    Limits,
    Message,
    SandboxFault,
    Score,
    StopReason,
    Task,
    ToolCall,
    ToolFailure,
    per_episode,
    per_run,
    say,
    tool,
)
from toolrl.episode import EpisodeSession, Step
from toolrl.rewards.grader import Grader, Reward
from toolrl.support.event_loop import run_sync
from toolrl.tools import Toolbox
from toolrl.tools.resources import ResourceScope

TASK = Task("t", "Go.", "42")


class Log(list[str]):
    """A resource that logs what happens to it."""

    def close(self) -> None:
        self.append("closed")


LOGS: list[Log] = []


def open_log() -> Log:
    LOGS.append(Log())
    return LOGS[-1]


@tool
async def note(text: str, delay: float = 0.0, log: Log = per_episode(open_log)) -> str:
    """Note a text.

    Args:
        text: What to note.
        delay: After how many seconds.
    """
    await asyncio.sleep(delay)
    log.append(text)
    return f"noted {text}"


@tool
def break_down(run_log: Log = per_run(open_log)) -> str:
    """Fail through no fault of the model's."""
    raise SandboxFault("sandbox gone")


def calls(*texts: str, **arguments: Any) -> Message:
    return Message("assistant", "", tuple(ToolCall("note", {"text": text, **arguments}) for text in texts))


@pytest.fixture(autouse=True)
def logs() -> list[Log]:
    LOGS.clear()
    return LOGS


def session_with(reward: Reward = lambda task, episode: 1.0, **limits: Any) -> EpisodeSession:
    return EpisodeSession(
        TASK, Toolbox([note, break_down]), Grader(reward), Limits(**limits), "Be brief.", ResourceScope()
    )


def remembering(seen: list[Episode]) -> Reward:
    """A reward that records the episodes it sees."""

    def reward(task: Task, episode: Episode) -> float:
        seen.append(episode)
        return 1.0

    return reward


async def play(session: EpisodeSession, messages: Sequence[Message]) -> tuple[list[Step], Score]:
    async with session:
        steps = [await session.advance(message) for message in messages]
        return steps, await session.score(steps[-1].stop or StopReason.TURNS)


# ---- the conversation


def test_the_conversation_grows_by_each_message_and_its_results() -> None:
    session = session_with()
    steps, _ = run_sync(play(session, [calls("a"), say("done")]))
    assert [message.role for message in session.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert session.messages[0].content == "Be brief."
    assert session.messages[3] == steps[0].messages[0]
    assert session.last_turn.content == "done"
    assert session.turns == 2


def test_without_a_system_prompt_there_is_no_system_message() -> None:
    session = EpisodeSession(TASK, Toolbox([]), Grader(lambda task, episode: 1.0), Limits(), "", ResourceScope())
    assert session.messages == [Message("user", "Go.")]


def test_calls_run_one_after_the_other_in_the_order_in_which_they_were_written(logs: list[Log]) -> None:
    first = ToolCall("note", {"text": "a", "delay": 0.02})
    second = ToolCall("note", {"text": "b"})
    steps, _ = run_sync(play(session_with(), [Message("assistant", "", (first, second)), say("x")]))
    assert logs[0][:2] == ["a", "b"]
    assert [result.content for result in steps[0].results] == ["noted a", "noted b"]


def test_each_result_carries_the_id_of_its_call_unique_in_the_episode() -> None:
    session = session_with()
    own = Message("assistant", "", (ToolCall("note", {"text": "c"}, id="mine"),))
    steps, _ = run_sync(play(session, [calls("a", "b"), own, say("x")]))
    results = [result for step in steps for result in step.results]
    messages = [message for step in steps for message in step.messages]
    ids = [result.call.id for result in results]
    assert len(set(ids)) == 3
    assert ids[2] == "mine"
    assert [message.tool_call_id for message in messages] == ids
    assert [call.id for message in session.messages for call in message.tool_calls] == ids


@pytest.mark.parametrize("depth", [1, 99, 100, 500, 5000])
@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"a": inner}])
def test_arguments_nested_too_deeply_are_a_malformed_call(depth: int, wrap: Callable[[Any], Any]) -> None:
    nested: Any = "x"
    for _ in range(depth):
        nested = wrap(nested)
    session = session_with()
    steps, _ = run_sync(play(session, [Message("assistant", "", (ToolCall("note", {"text": nested}),)), say("x")]))
    (result,) = steps[0].results
    deep = depth > 99
    assert result.failure is (ToolFailure.MALFORMED if deep else ToolFailure.INVALID_ARGUMENTS)
    assert ("nested more than 100 levels" in result.content) == deep
    assert bool(session.messages[2].tool_calls[0].arguments) != deep


def test_further_calls_than_allowed_are_refused_and_counted(logs: list[Log]) -> None:
    seen: list[Episode] = []
    session = session_with(remembering(seen), tool_calls=2)
    steps, _ = run_sync(play(session, [calls("a", "b", "c"), calls("d"), say("x")]))
    assert logs[0][:2] == ["a", "b"]
    assert steps[0].results[2].failure is ToolFailure.LIMIT
    assert steps[1].results[0].content == "error: no more than 2 tool calls are allowed; answer now"
    assert seen[0].tool_calls == 4


def test_the_last_allowed_turn_truncates_unless_it_answers() -> None:
    steps, _ = run_sync(play(session_with(turns=2), [calls("a"), calls("b")]))
    assert [step.stop for step in steps] == [None, StopReason.TURNS]
    assert steps[1].results[0].content == "noted b"
    steps, _ = run_sync(play(session_with(turns=1), [say("42")]))
    assert steps[0].stop is StopReason.ANSWER


# ---- the reward


def test_a_reward_sees_the_final_answer_and_the_state_and_no_transcript() -> None:
    seen: list[Episode] = []

    def reward(task: Task, episode: Episode) -> float:
        assert task is TASK
        seen.append(episode)
        assert episode.state["log"] == ["a"], "a resource is open, with its content, while the episode is scored"
        return 1.0

    before = Message("assistant", "<answer>early</answer>", calls("a").tool_calls)
    run_sync(play(session_with(reward), [before, say("<answer>42</answer>")]))
    (episode,) = seen
    assert episode.answer == "<answer>42</answer>"
    assert episode.stop is StopReason.ANSWER
    assert "early" not in repr(episode)


def test_an_episode_that_was_cut_has_no_answer() -> None:
    seen: list[Episode] = []
    last = Message("assistant", "<answer>42</answer>", calls("a").tool_calls)
    run_sync(play(session_with(remembering(seen), turns=1), [last]))
    assert seen[0].answer is None
    assert seen[0].stop is StopReason.TURNS


async def async_reward(task: Task, episode: Episode) -> float:
    await asyncio.sleep(0)
    return 0.5


class AsyncReward:
    async def __call__(self, task: Task, episode: Episode) -> Score:
        return Score(0.5)


@pytest.mark.parametrize(
    ("reward", "value"),
    [
        (lambda task, episode: Score(0.5, {"style": 1.0}), 0.5),
        (lambda task, episode: 0.5, 0.5),
        (lambda task, episode: True, 1.0),
        (lambda task, episode: 1, 1.0),
        (async_reward, 0.5),
        (AsyncReward(), 0.5),
        (lambda task, episode: async_reward(task, episode), 0.5),
    ],
    ids=["score", "float", "bool", "int", "async", "async object", "awaitable"],
)
def test_a_reward_may_be_a_score_or_a_number_sync_or_async(reward: Reward, value: float) -> None:
    _, score = run_sync(play(session_with(reward), [say("x")]))
    assert score.value == value
    assert isinstance(score.value, float)


def test_none_means_unscorable_and_not_zero() -> None:
    _, score = run_sync(play(session_with(lambda task, episode: None), [say("x")]))
    assert score.value is None
    assert score.success is None


def test_a_grader_that_breaks_down_leaves_the_episode_unscored() -> None:
    def reward(task: Task, episode: Episode) -> float:
        raise InfrastructureError("judge unreachable")

    _, score = run_sync(play(session_with(reward), [say("x")]))
    assert score == Score(None, reason="the grader failed: judge unreachable")


@pytest.mark.parametrize("verdict", [float("nan"), float("inf")])
def test_a_reward_that_is_not_finite_is_a_bug(verdict: float) -> None:
    with pytest.raises(ValueError, match="must be finite"):
        run_sync(play(session_with(lambda task, episode: verdict), [say("x")]))


def test_a_reward_that_tries_to_end_the_program_is_a_bug_too() -> None:
    def reward(task: Task, episode: Episode) -> float:
        raise SystemExit(0)

    with pytest.raises(RuntimeError, match="function raised SystemExit"):
        run_sync(play(session_with(reward), [say("x")]))


def test_a_bug_in_a_reward_propagates(logs: list[Log]) -> None:
    def reward(task: Task, episode: Episode) -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        run_sync(play(session_with(reward), [calls("a"), say("x")]))
    assert logs == [["a", "closed"]]


def test_an_episode_that_ended_in_a_fault_is_not_shown_to_the_reward() -> None:
    def reward(task: Task, episode: Episode) -> float:
        raise AssertionError("asked about a fault")

    async def fail() -> Score:
        async with session_with(reward) as session:
            return await session.score(StopReason.FAULT)

    assert run_sync(fail()).value is None


# ---- resources


def test_resources_close_after_the_reward_and_belong_to_one_episode(logs: list[Log]) -> None:
    for text in ("a", "b"):
        run_sync(
            play(
                session_with(lambda task, episode: float("closed" not in episode.state["log"])), [calls(text), say("x")]
            )
        )
    assert logs == [["a", "closed"], ["b", "closed"]]


def test_an_episode_without_calls_opens_nothing(logs: list[Log]) -> None:
    seen: list[Episode] = []
    run_sync(play(session_with(remembering(seen)), [say("x")]))
    assert logs == []
    assert seen[0].state == {}


def test_resources_close_when_a_tool_breaks_down(logs: list[Log]) -> None:
    broken = Message("assistant", "", (*calls("a").tool_calls, ToolCall("break_down")))
    with pytest.raises(SandboxFault, match="sandbox gone"):
        run_sync(play(session_with(), [broken]))
    assert logs[0] == ["a", "closed"]


def test_closing_twice_does_nothing(logs: list[Log]) -> None:
    async def twice() -> None:
        session = session_with()
        await session.advance(calls("a"))
        await session.close()
        await session.close()

    run_sync(twice())
    assert logs == [["a", "closed"]]
