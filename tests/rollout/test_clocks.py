"""Promises about time: tokens, turns and calls bound the model; it never pays for what is slow around it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from toolrl import (
    Message,
    Renderer,
    RolloutEngine,
    RolloutRequest,
    Sample,
    SamplingParams,
    StopReason,
    ToolEnv,
    ToolFailure,
    Trajectory,
    call,
    per_episode,
    say,
    tool,
)
from toolrl.audit.play import play_all, play_on_tokens
from toolrl.evaluation import evaluate
from toolrl.policy import ChatReply, ScriptedChatPolicy

PATIENCE = 20.0  # seconds that hanging code waits; reached only if the promise is broken
SLOW = 0.6  # longer than any limit below


class Late:
    """Delays each turn of another policy."""

    def __init__(self, policy: Any, seconds: float):
        self._policy, self._seconds = policy, seconds

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        future: Future[Sample] = Future()

        def deliver() -> None:
            if future.set_running_or_notify_cancel():
                future.set_result(self._policy.submit(prompt_ids, sampling).result())

        timer = threading.Timer(self._seconds, deliver)
        timer.daemon = True
        timer.start()
        return future

    def generating(self) -> Any:
        return self._policy.generating()

    def close(self) -> None: ...


class Busy(Late):
    """Shows progress before it answers."""

    def progress(self) -> float:
        return time.monotonic()


class Queued(Late):
    """Answers one turn at a time."""

    def __init__(self, policy: Any, seconds: float):
        super().__init__(policy, seconds)
        self._waiting = 0

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        self._waiting += 1
        return Late(self._policy, self._seconds * self._waiting).submit(prompt_ids, sampling)


class LateChat(ScriptedChatPolicy):
    """Answers after a while, or never."""

    def __init__(self, script: Sequence[Message], seconds: float):
        super().__init__(script)
        self._seconds = seconds

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        await asyncio.sleep(self._seconds)
        return await super().reply(messages, tools, sampling)


@tool(timeout_seconds=0.3)
def quick(key: str) -> str:
    """Answer at once.

    Args:
        key: What.
    """
    return key


TURNS = (call("quick", key="a"), say("4"))


def solved(trajectory: Trajectory) -> bool:
    failures = [result.failure for result in trajectory.tool_results]
    return (trajectory.stop, trajectory.score.value, failures) == (StopReason.ANSWER, 1.0, [None])


# ---- the sampler


def test_a_slow_sampler_ends_no_episode(make_player: Any, make_env: Any, play: Any) -> None:
    assert solved(play(Late(make_player(*TURNS), SLOW), make_env(quick))[0])


def test_a_policy_that_answers_any_episode_is_alive_for_all_in_its_queue(
    make_player: Any, make_env: Any, play: Any
) -> None:
    policy = Queued(make_player(say("4")), 0.1)
    trajectories = play(policy, make_env(), 16, policy_timeout_seconds=0.5, retries=0)
    assert [trajectory.score.value for trajectory in trajectories] == [1.0] * 16


def test_a_policy_that_shows_progress_is_alive_before_its_first_answer(
    make_player: Any, make_env: Any, play: Any
) -> None:
    """A first batch that compiles, or long turns on a slow machine."""
    [without] = play(Late(make_player(say("4")), SLOW), make_env(), policy_timeout_seconds=0.2, retries=0)
    assert without.stop is StopReason.FAULT
    [shown] = play(Busy(make_player(say("4")), SLOW), make_env(), policy_timeout_seconds=0.2, retries=0)
    assert shown.score.value == 1.0


@pytest.mark.parametrize("shown", [lambda: float("nan"), lambda: -time.monotonic()])
def test_a_number_that_does_not_grow_is_not_progress(make_player: Any, make_env: Any, play: Any, shown: Any) -> None:
    policy = Busy(make_player(say("4")), SLOW)
    policy.progress = shown  # type: ignore[method-assign]
    [trajectory] = play(policy, make_env(), policy_timeout_seconds=0.2, retries=0)
    assert trajectory.stop is StopReason.FAULT


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_a_progress_that_raises_is_a_bug_of_the_policy(
    make_player: Any, make_env: Any, play: Any, error: type[BaseException]
) -> None:
    def progress() -> float:
        raise error

    policy = Busy(make_player(say("4")), SLOW)
    policy.progress = progress  # type: ignore[method-assign]
    with pytest.raises((ZeroDivisionError, RuntimeError)) as raised:
        play(policy, make_env())
    assert "policy Busy" in " ".join([str(raised.value), *getattr(raised.value, "__notes__", ())])


def test_a_policy_that_never_answers_is_a_fault_that_is_retried_and_then_unscored(
    make_player: Any, make_env: Any, play: Any
) -> None:
    hanging: list[Future[Sample]] = []

    def hang(_: int) -> Future[Sample]:
        hanging.append(Future())
        return hanging[-1]

    [trajectory] = play(make_player(instead=hang), make_env(), policy_timeout_seconds=0.1, retries=1)
    assert (trajectory.stop, trajectory.score.value, trajectory.attempts) == (StopReason.FAULT, None, 2)
    assert trajectory.error == "PolicyFault: the policy was asked, and has done nothing for 0.1 seconds"
    assert all(future.cancelled() for future in hanging)


def test_a_policy_that_gives_up_a_turn_is_a_fault(make_player: Any, make_env: Any, play: Any) -> None:
    def give_up(_: int) -> Future[Sample]:
        future: Future[Sample] = Future()
        future.cancel()
        return future

    [trajectory] = play(make_player(instead=give_up), make_env(), retries=0)
    assert (trajectory.stop, trajectory.error) == (StopReason.FAULT, "PolicyFault: the policy gave up a turn")


def test_a_policy_s_own_timeout_error_is_raised_as_itself(make_player: Any, make_env: Any, play: Any) -> None:
    def late(_: int) -> None:
        raise TimeoutError("socket")

    with pytest.raises(TimeoutError, match="socket"):
        play(make_player(instead=late), make_env())


@pytest.mark.parametrize(("seconds", "limit", "stop"), [(SLOW, 30.0, "answer"), (PATIENCE, 0.2, "fault")])
def test_a_chat_policy_has_the_same_clocks(make_env: Any, seconds: float, limit: float, stop: str) -> None:
    env = make_env(quick)
    engine = RolloutEngine(LateChat(TURNS, seconds), None, retries=0, policy_timeout_seconds=limit)
    [trajectory] = engine.run([RolloutRequest(env, env.tasks[0])])
    assert trajectory.stop == stop


def test_a_policy_timeout_must_be_positive(make_player: Any, renderer: Renderer) -> None:
    with pytest.raises(ValueError, match="policy_timeout_seconds must be positive, got 0"):
        RolloutEngine(make_player(), renderer, policy_timeout_seconds=0)


# ---- what else is slow


def opens_slowly() -> str:
    time.sleep(SLOW)
    return ""


@tool(timeout_seconds=0.3)
def use(key: str, handle: str = per_episode(opens_slowly)) -> str:
    """Use what opens slowly.

    Args:
        key: What.
    """
    return key


def slow_reward(task: Any, episode: Any) -> float:
    time.sleep(SLOW)
    return float(episode.answer == task.answer)


def environment(make_env: Callable[..., ToolEnv], part: str) -> ToolEnv:
    settings = {"reward": slow_reward} if part == "reward" else {}
    return make_env(use if part == "opening" else quick, **settings)


@pytest.mark.parametrize("part", ["renderer", "opening", "reward", "callback"])
def test_the_model_does_not_pay_for_slowness_elsewhere(
    make_env: Any, make_player: Any, renderer: Renderer, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "renderer":
        for name in ("parse", "observation_ids"):
            original = getattr(Renderer, name)
            monkeypatch.setattr(
                Renderer, name, lambda *a, original=original, **k: (time.sleep(0.2), original(*a, **k))[1]
            )
    env = environment(make_env, part)
    turns = (call("use" if part == "opening" else "quick", key="a"), say("4"))
    told = [time.sleep] if part == "callback" else []
    engine = RolloutEngine(
        make_player(*turns), renderer, on_trajectory=lambda _: [wait(SLOW) for wait in told] and None
    )
    trajectories = engine.run([RolloutRequest(env, env.tasks[0])] * 3)
    assert all(solved(trajectory) for trajectory in trajectories)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_answer_that_came_while_the_loop_was_busy_is_not_a_timeout(
    make_player: Any, make_env: Any, renderer: Renderer, asynchronous: bool
) -> None:
    """Other episodes use the loop too: here a callback blocks it for longer than the tool's limit."""
    begun = threading.Event()

    @tool(timeout_seconds=0.3)
    def work() -> str:
        """Work."""
        begun.set()
        time.sleep(0.1)
        return "done"

    @tool(timeout_seconds=0.3)
    async def work_too() -> str:
        """Work."""
        begun.set()
        for _ in range(5):  # several iterations of the loop
            await asyncio.sleep(0.02)
        return "done"

    def hold_the_loop(trajectory: Trajectory) -> None:
        if trajectory.id == "other":
            begun.wait(PATIENCE)
            time.sleep(SLOW)

    env = make_env(work, work_too)
    name = "work_too" if asynchronous else "work"
    working = RolloutRequest(env, env.tasks[0], id="working", policy=make_player(call(name), say("4")))
    other = RolloutRequest(env, env.tasks[0], id="other", policy=Late(make_player(say("4")), 0.05))
    first, _ = RolloutEngine(make_player(), renderer, on_trajectory=hold_the_loop).run([working, other])
    assert solved(first)


@pytest.mark.parametrize("name", ["hang", "hang_politely", "refuse_to_end"])
def test_a_tools_time_bounds_the_tool_and_the_episode_goes_on(
    make_player: Any, make_env: Any, play: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.support.waiting.GRACE_SECONDS", 0.1)
    released = threading.Event()

    @tool(timeout_seconds=0.1)
    def hang() -> str:
        """Wait forever."""
        released.wait(PATIENCE)
        return ""

    @tool(timeout_seconds=0.1)
    async def hang_politely() -> str:
        """Wait forever."""
        await asyncio.Event().wait()
        return ""

    @tool(timeout_seconds=0.1)
    async def refuse_to_end() -> str:
        """Wait forever, ignoring cancellation."""
        while not released.is_set():
            try:
                await asyncio.sleep(0.05)
            except asyncio.CancelledError:
                continue
        return ""

    (trajectory,) = play(make_player(call(name), say("4")), make_env(hang, hang_politely, refuse_to_end))
    released.set()
    assert [result.failure for result in trajectory.tool_results] == [ToolFailure.TIMEOUT]
    assert (trajectory.stop, trajectory.score.value) == (StopReason.ANSWER, 1.0)


# ---- the other paths


def test_evaluation_counts_no_time_of_the_sampler(make_player: Any, make_env: Any, renderer: Renderer) -> None:
    report = evaluate({"e": make_env(quick)}, Late(make_player(*TURNS), SLOW), renderer)["e"]
    assert (report.success, report.stops) == (1.0, {"answer": 1})
    dead = make_player(instead=lambda _: Future())
    report = evaluate({"e": make_env()}, dead, renderer, policy_timeout_seconds=0.05)["e"]
    assert (report.unscored, report.stops) == (1, {"fault": 1})


@pytest.mark.parametrize("part", ["opening", "reward"])
def test_the_audit_and_gymnasium_count_no_time_of_others(make_env: Any, renderer: Renderer, part: str) -> None:
    env = environment(make_env, part)
    turns = [call("use" if part == "opening" else "quick", key="a"), say("4")]
    [played] = play_all(env, [(env.tasks[0], turns)])
    [[on_tokens]] = play_on_tokens(env, [(env.tasks[0], turns)], renderer)
    assert (played.stop, played.reward, on_tokens.stop, on_tokens.reward) == (StopReason.ANSWER, 1.0) * 2
    env.reset(seed=0)
    time.sleep(SLOW)  # sampling happens between two steps
    assert env.step(env.dialect.format(turns[0]))[4]["failures"] == []
    assert env.step("4")[1:3] == (1.0, True)
    env.close()
