"""Promises about limits: each ends an episode for its own reason, and what was cut can be told from what was said."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import Any

import pytest

from toolrl import Message, Renderer, Sample, Sampling, StopReason, ToolCall, ToolFailure, call, per_episode, say, tool

PATIENCE = 20.0  # of what hangs: reached only if the promise is broken


def test_an_episode_ends_at_the_limit_of_turns(renderer: Renderer, make_player: Any, make_env: Any, play: Any) -> None:
    (trajectory,) = play(make_player(call("lookup", key="a")), make_env(turns=3))
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.value) == (StopReason.TURNS, 3, 0.0)
    assert trajectory.completion_ids[-1] != renderer.end_of_turn_id


def test_calls_beyond_the_limit_are_refused_and_the_model_may_still_answer(
    make_player: Any, make_env: Any, play: Any
) -> None:
    policy = make_player(call("lookup", key="a"), call("lookup", key="b"), say("4"))
    (trajectory,) = play(policy, make_env(tool_calls=1))
    assert [result.failure for result in trajectory.tool_results] == [None, ToolFailure.LIMIT]
    assert (trajectory.stop, trajectory.score.value) == (StopReason.ANSWER, 1.0)


@pytest.mark.parametrize(("turn_tokens", "max_tokens"), [(7, 4096), (512, 7)], ids=["environment", "sampling"])
def test_a_turn_is_cut_at_the_limit_of_its_tokens(
    make_player: Any, make_env: Any, play: Any, turn_tokens: int, max_tokens: int
) -> None:
    env, sampling = make_env(turn_tokens=turn_tokens), Sampling(max_tokens=max_tokens)
    (trajectory,) = play(make_player(say("a long answer")), env, sampling=sampling)
    assert (trajectory.stop, len(trajectory.completion_ids)) == (StopReason.TOKENS, 7)
    assert (trajectory.turns[0].sample.finish, trajectory.score.value) == ("length", 0.0)


def test_an_episode_cut_at_any_number_of_tokens_keeps_to_it_and_ends_on_no_end_of_turn(
    renderer: Renderer, make_player: Any, make_env: Any, play: Any
) -> None:
    policy = make_player(call("lookup", key="a"), say("4"))
    (whole,) = play(policy, make_env())
    length, first_turn = len(whole.completion_ids), len(whole.turns[0].sample.token_ids)
    for limit in range(1, length):
        (cut,) = play(policy, make_env(completion_tokens=limit))
        assert (cut.stop, cut.score.value) == (StopReason.TOKENS, 0.0)
        assert cut.completion_ids == whole.completion_ids[: len(cut.completion_ids)]
        # What ends on an end of turn would pass for complete: one token more behind the turn, one less elsewhere.
        assert cut.completion_ids[-1] != renderer.end_of_turn_id
        ends_turn = whole.completion_ids[limit - 1] == renderer.end_of_turn_id
        assert len(cut.completion_ids) - limit == (0 if not ends_turn else 1 if limit == first_turn else -1)
    (exact,) = play(policy, make_env(completion_tokens=length))
    assert (exact.stop, exact.completion_ids) == (StopReason.ANSWER, whole.completion_ids)


def test_generation_that_hangs_is_abandoned_at_the_limit_of_time(
    renderer: Renderer, make_player: Any, make_env: Any, play: Any
) -> None:
    hanging: Future[Sample] = Future()
    policy = make_player(call("lookup", key="a"), instead=lambda turn: hanging if turn == 2 else None)
    (trajectory,) = play(policy, make_env(seconds=0.2))
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.value) == (StopReason.SECONDS, 1, 0.0)
    assert hanging.cancelled()
    assert trajectory.completion_ids[-1] != renderer.end_of_turn_id


@pytest.mark.parametrize("name", ["hang", "hang_politely"])
def test_a_tool_that_hangs_is_abandoned_at_the_limit_of_time(
    renderer: Renderer, make_player: Any, make_env: Any, play: Any, name: str
) -> None:
    released = threading.Event()

    def hang() -> str:
        """Wait for ever."""
        released.wait()
        return ""

    async def hang_politely() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return ""

    calls = (ToolCall("lookup", {"key": "a"}), ToolCall(name), ToolCall("lookup", {"key": "b"}))
    policy = make_player(Message("assistant", "", calls))
    (trajectory,) = play(policy, make_env(hang, hang_politely, seconds=0.3))
    released.set()
    assert (trajectory.stop, trajectory.score.value) == (StopReason.SECONDS, 0.0)
    assert [result.failure for result in trajectory.tool_results] == [None, ToolFailure.TIMEOUT, ToolFailure.TIMEOUT]
    assert renderer.observation_ids(trajectory.messages[-3:]) == list(trajectory.turns[0].observation_ids)
    assert trajectory.completion_ids[-1] != renderer.end_of_turn_id


def test_a_policy_s_own_timeout_error_is_not_taken_for_the_limit_of_time(
    make_player: Any, make_env: Any, play: Any
) -> None:
    def late(_: int) -> None:
        raise TimeoutError("socket")

    with pytest.raises(TimeoutError, match="socket"):
        play(make_player(instead=late), make_env())


@pytest.mark.parametrize("keeps_time", [False, True])
def test_an_episode_whose_time_ends_while_a_resource_opens_is_a_fault(
    make_player: Any, make_env: Any, play: Any, keeps_time: bool
) -> None:
    release = threading.Event()

    def open_never() -> str:
        release.wait(PATIENCE)
        return ""

    @tool(keeps_time=keeps_time)
    def use(handle: str = per_episode(open_never)) -> str:
        """Use it."""
        return handle

    [trajectory] = play(make_player(call("use"), say("4")), make_env(use, seconds=0.2), retries=1)
    release.set()
    assert (trajectory.stop, trajectory.score.value, trajectory.attempts) == (StopReason.FAULT, None, 2)
    assert "kept the episode waiting" in trajectory.error


@pytest.mark.parametrize(("limit", "stop"), [(0.01, StopReason.FAULT), (30.0, StopReason.SECONDS)])
def test_an_episode_whose_time_ends_in_a_tool_that_should_have_ended_by_itself_is_a_fault(
    make_player: Any, make_env: Any, play: Any, limit: float, stop: StopReason
) -> None:
    release = threading.Event()

    @tool(timeout_seconds=limit, keeps_time=True)
    def work() -> str:
        """Work."""
        release.wait(PATIENCE)
        return ""

    [trajectory] = play(make_player(call("work"), say("4")), make_env(work, seconds=0.2), retries=0)
    release.set()
    assert trajectory.stop is stop
