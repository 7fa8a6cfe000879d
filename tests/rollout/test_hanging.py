"""Promises about code that never returns, or would end the program: other episodes go on, or the error says why not."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolrl import (
    Limits,
    Renderer,
    RolloutEngine,
    RolloutRequest,
    StopReason,
    Task,
    ToolEnv,
    call,
    per_episode,
    say,
    tool,
)
from toolrl.audit.play import play_all
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.evaluation.regrade import regrade
from toolrl.policy import ScriptedChatPolicy
from toolrl.support.event_loop import run_sync
from toolrl.tools.resources import ResourceScope, per_run

PATIENCE = 20.0  # seconds that hanging code waits; reached only if the promise is broken
ENDINGS = [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()]


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def quiz(reward: Any, *tools: Any, **limits: Any) -> ToolEnv:
    return ToolEnv(tasks=[Task("sum", "2+2?", "4")], tools=tools, reward=reward, limits=Limits(**limits))


def play(env: ToolEnv, *turns: Any, episodes: int = 1, **settings: Any) -> Any:
    engine = RolloutEngine(ScriptedChatPolicy(turns or [say("4")]), None, retries=0, **settings)
    return engine.run([RolloutRequest(env, env.tasks[0], "quiz", str(index)) for index in range(episodes)])


def paths(env: ToolEnv, *turns: Any) -> dict[str, Callable[[], Any]]:
    """The ways to play an episode."""

    def step() -> Any:
        env.reset(seed=0)
        return [env.step(env.dialect.format(turn) if turn.tool_calls else turn.content) for turn in turns][-1]

    return {"engine": lambda: play(env, *turns), "step": step, "audit": lambda: play_all(env, [(env.tasks[0], turns)])}


# ---- rewards


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_reward_that_never_ends_leaves_its_episode_unscored_and_says_so(
    release: threading.Event, caplog: pytest.LogCaptureFixture, asynchronous: bool
) -> None:
    def hang(task: Task, episode: Any) -> float:
        release.wait(PATIENCE)
        return 1.0

    async def hang_politely(task: Task, episode: Any) -> float:
        await asyncio.sleep(PATIENCE)
        return 1.0

    env = quiz(hang_politely if asynchronous else hang, reward_seconds=0.1)
    start = time.monotonic()
    [trajectory] = play(env)
    assert time.monotonic() - start < PATIENCE / 2
    assert (trajectory.score.value, trajectory.stop, trajectory.attempts) == (None, StopReason.ANSWER, 1)
    for part in ("hang", "has not ended within 0.1 seconds", "environment 'quiz'", "task 'sum'"):
        assert part in trajectory.score.reason
        assert part in caplog.text
    [played] = play_all(env, [(env.tasks[0], ["4"])])
    assert played.score.value is None
    env.reset(seed=0)
    assert env.step("4")[4]["score"]["value"] is None
    [again] = regrade([trajectory], lambda _: env)
    assert again.trajectory.score.value is None


def test_a_process_exits_though_a_reward_a_tool_and_a_close_hang() -> None:
    program = """
import time
from toolrl import *
from toolrl.policy import ScriptedChatPolicy
from toolrl.tools import resources
resources.CLOSING_SECONDS = 0.1

class Door:
    def close(self): time.sleep(600)

@tool(timeout_seconds=0.1)
def hang(door: Door = per_episode(Door)) -> str:
    "Hang."
    time.sleep(600)

limits = Limits(reward_seconds=0.1)
env = ToolEnv(tasks=[Task("t", "?")], tools=[hang], reward=lambda *_: time.sleep(600), limits=limits)
engine = RolloutEngine(ScriptedChatPolicy([call("hang"), say("4")]), None)
print(engine.run([RolloutRequest(env, env.tasks[0])])[0].score.reason)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "has not ended within 0.1 seconds" in ran.stdout
    assert "Door.close() has not returned within 0.1 seconds (environment 'ToolEnv', task 't')" in ran.stderr


@pytest.mark.parametrize("error", ENDINGS, ids=repr)
@pytest.mark.parametrize("part", ["reward", "async reward", "tool", "async tool", "opener", "closer", "callback"])
def test_what_would_end_the_program_is_an_error_with_its_traceback_for_every_episode(
    error: BaseException, part: str
) -> None:
    def the_culprit(*_: Any, **__: Any) -> Any:
        raise error

    async def later(*_: Any) -> Any:
        the_culprit()

    def when(name: str) -> Any:
        return the_culprit if part == name else lambda *_: ""

    class Handle:
        close = staticmethod(when("closer"))

    def open_handle() -> Handle:
        when("opener")()
        return Handle()

    @tool
    def use(handle: Any = per_episode(open_handle)) -> str:
        """Use it."""
        return str(when("tool")())

    @tool
    async def use_later() -> str:
        """Use it later."""
        await asyncio.sleep(0)
        return str(when("async tool")())

    rewards = {"reward": the_culprit, "async reward": later}
    env = quiz(rewards.get(part, lambda *_: 1.0), use, use_later)
    raised = (RuntimeError, ExceptionGroup, GeneratorExit)
    with pytest.raises(raised) as caught:
        play(env, call("use"), call("use_later"), say("4"), episodes=4, on_trajectory=when("callback"))
    text = "".join(traceback.format_exception(caught.value))
    assert "the_culprit" in text
    if not isinstance(caught.value, GeneratorExit):
        assert repr(error) in text
        named = {
            "async reward": "later' raised",
            "async tool": "tool 'use_later' raised",
            "callback": "on_trajectory, with",
        }
        assert named.get(part, "") in text
    assert play(quiz(lambda *_: 1.0))[0].score.value == 1.0  # the loop still works


@pytest.mark.parametrize("path", ["engine", "step"])
@pytest.mark.parametrize("part", ["reward", "tool", "opener", "closer"])
def test_an_error_names_what_raised_it_with_environment_and_task_and_keeps_its_traceback(part: str, path: str) -> None:
    def the_culprit(*_: Any) -> Any:
        return {}["absent"]

    def when(name: str) -> Any:
        return the_culprit if part == name else lambda *_: ""

    class Handle:
        close = staticmethod(when("closer"))

    def open_handle() -> Handle:
        when("opener")()
        return Handle()

    @tool
    def use(handle: Any = per_episode(open_handle)) -> str:
        """Use it."""
        return str(when("tool")())

    env = quiz(the_culprit if part == "reward" else lambda *_: 1.0, use)
    with pytest.raises((KeyError, ExceptionGroup)) as caught:
        paths(env, call("use"), say("4"))[path]()
    text = "".join(traceback.format_exception(caught.value))
    env_id = "quiz" if path == "engine" else "ToolEnv"
    assert f"in environment '{env_id}', task 'sum'" in text
    assert "the_culprit" in text
    named = {"reward": "in reward '", "tool": "in tool 'use'", "opener": "in tool 'use' (opening)", "closer": "close"}
    assert named[part] in text


def test_a_callback_that_raises_is_named_with_its_episode() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        play(quiz(lambda *_: 1.0), on_trajectory=lambda _: 1 / 0)  # type: ignore[arg-type,return-value]
    assert "in on_trajectory, with episode '0'" in caught.value.__notes__


def test_an_async_callback_is_refused() -> None:
    async def announce(trajectory: Any) -> None: ...

    with pytest.raises(ConfigError, match=r"on_trajectory must be a plain function, got <function .*announce"):
        play(quiz(lambda *_: 1.0), on_trajectory=announce)


# ---- resources


class Door:
    """Counts its calls of `close`, and may hang in one."""

    def __init__(self, closed: list[str], name: str, wait: Callable[[], Any] = lambda: None):
        self._closed, self._name, self._wait = closed, name, wait

    @property
    def usage(self) -> dict[str, float]:
        return {self._name: 1.0}

    def close(self) -> None:
        self._closed.append(self._name)
        self._wait()


def test_a_close_that_never_ends_is_left_to_itself_and_the_others_are_closed(
    release: threading.Event, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.tools.resources.CLOSING_SECONDS", 0.1)
    closed: list[str] = []

    @tool
    def use(
        first: Door = per_episode(lambda: Door(closed, "first")),
        stuck: Door = per_episode(lambda: Door(closed, "stuck", lambda: release.wait(PATIENCE))),
        shared: Door = per_run(lambda: Door(closed, "shared", lambda: release.wait(PATIENCE))),
        shared_too: Door = per_run(lambda: Door(closed, "shared too")),
    ) -> str:
        """Use them."""
        return ""

    env = quiz(lambda *_: 1.0, use)
    [trajectory] = play(env, call("use"), say("4"))
    assert (trajectory.score.value, closed) == (1.0, ["stuck", "first"])
    assert trajectory.usage == {"first": 1.0}
    assert "Door.close() has not returned within 0.1 seconds (environment 'quiz', task 'sum')" in caplog.text
    env.close()
    assert closed[2:] == ["shared too", "shared"]


def test_an_opener_that_never_ends_is_a_fault(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolrl.tools.dispatch.OPENING_SECONDS", 0.1)

    @tool
    def use(handle: Any = per_episode(lambda: release.wait(PATIENCE))) -> str:
        """Use it."""
        return ""

    env = quiz(lambda *_: 1.0, use)
    [trajectory] = play(env, call("use"), say("4"))
    assert (trajectory.stop, trajectory.score.value) == (StopReason.FAULT, None)
    env.reset(seed=0)
    with pytest.raises(InfrastructureError, match=r"handle did not open within 0\.1 seconds"):
        env.step(env.dialect.format(call("use")))


def test_ctrl_c_in_a_close_closes_the_others_first() -> None:
    closed: list[str] = []

    def interrupt() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(1.0)

    scope = ResourceScope()
    for name, wait in (("first", lambda: None), ("interrupted", interrupt)):
        scope.get(name, per_episode(lambda name=name, wait=wait: Door(closed, name, wait)))  # type: ignore[misc,arg-type]
    with pytest.raises(KeyboardInterrupt):
        scope.close()
    assert closed == ["interrupted", "first"]


# ---- the event loop


def blocks(release: threading.Event) -> dict[str, Any]:
    """Parts that block the event loop, by name."""

    async def reward(task: Task, episode: Any) -> float:
        the_culprit()
        return 1.0

    @tool
    async def use() -> str:
        """Use."""
        the_culprit()
        return ""

    def the_culprit(*_: Any) -> None:
        release.wait(PATIENCE)

    return {
        "reward": lambda: play(quiz(reward)),
        "tool": lambda: play(quiz(lambda *_: 1.0, use), call("use")),
        "callback": lambda: play(quiz(lambda *_: 1.0), on_trajectory=the_culprit),
    }


@pytest.mark.parametrize("part", ["reward", "tool", "callback"])
def test_what_holds_the_event_loop_ends_the_run_with_the_line_where_it_does(
    release: threading.Event, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.support.event_loop.BLOCKED_SECONDS", 0.3)
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=r"stood still for 0\.[3-9]\d* seconds(.|\n)*in the_culprit"):
        blocks(release)[part]()
    assert time.monotonic() - start < PATIENCE / 2
    assert play(quiz(lambda *_: 1.0))[0].score.value == 1.0


def test_ctrl_c_gets_through_while_the_event_loop_is_held(
    release: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolrl.support.event_loop.BLOCKED_SECONDS_AFTER_INTERRUPT", 0.3)
    threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident or 0, signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        blocks(release)["callback"]()
    assert time.monotonic() - start < PATIENCE / 2
    assert play(quiz(lambda *_: 1.0))[0].score.value == 1.0


@pytest.mark.parametrize("part", ["policy", "reward", "tool", "opener"])
def test_ctrl_c_gets_through_while_anything_hangs(release: threading.Event, part: str, make_player: Any) -> None:
    def hang(*_: Any) -> Any:
        release.wait(PATIENCE)

    def when(name: str) -> Any:
        return hang if part == name else lambda *_: ""

    @tool
    def use(handle: Any = per_episode(lambda: when("opener")())) -> str:
        """Use."""
        return str(when("tool")())

    class Hanging(ScriptedChatPolicy):
        async def reply(self, *arguments: Any) -> Any:
            if part == "policy":
                await asyncio.sleep(PATIENCE)
            return await super().reply(*arguments)

    env = quiz(hang if part == "reward" else lambda *_: 1.0, use)
    engine = RolloutEngine(Hanging([call("use"), say("4")]), None)
    threading.Timer(0.3, signal.pthread_kill, (threading.main_thread().ident or 0, signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.run([RolloutRequest(env, env.tasks[0])] * 3)
    assert time.monotonic() - start < PATIENCE / 2


def test_a_task_that_raises_system_exit_leaves_the_loop_running(caplog: pytest.LogCaptureFixture) -> None:
    async def end() -> None:
        raise SystemExit(3)

    with caplog.at_level(logging.CRITICAL), pytest.raises(RuntimeError, match=r"a coroutine raised SystemExit\(3\)"):
        run_sync(end())

    async def spawn() -> str:
        task = asyncio.ensure_future(end())
        await asyncio.sleep(0.01)
        return repr(task.exception())

    with caplog.at_level(logging.CRITICAL):
        assert run_sync(spawn()) == "SystemExit(3)"


def test_a_run_on_tokens_hangs_no_longer_than_one_on_messages(
    renderer: Renderer, make_player: Any, release: threading.Event
) -> None:
    def hang(task: Task, episode: Any) -> float:
        release.wait(PATIENCE)
        return 1.0

    env = quiz(hang, reward_seconds=0.1)
    engine = RolloutEngine(make_player(say("4")), renderer)
    trajectories = engine.run([RolloutRequest(env, env.tasks[0])] * 8)
    assert [trajectory.score.value for trajectory in trajectories] == [None] * 8
