"""Promises about openers of every form: awaited, entered, closed and exited in the right place, on every path."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from toolrl import InfrastructureError, Limits, Score, Task, ToolEnv, call, per_episode, per_run, say
from toolrl.audit.play import play_all
from toolrl.errors import ToolDefinitionError
from toolrl.support.event_loop import run_sync

LOG: list[str] = []


@pytest.fixture(autouse=True)
def log() -> list[str]:
    LOG.clear()
    return LOG


class Store:
    """The resource; logs what happens to it."""

    words = "ready"


class Closes(Store):
    def close(self) -> None:
        LOG.append("closed")


class ClosesLater(Store):
    async def close(self) -> None:
        await asyncio.sleep(0)
        LOG.append("closed")


class Acloses(Store):
    async def aclose(self) -> None:
        await asyncio.sleep(0)
        LOG.append("closed")

    def close(self) -> None:
        LOG.append("the wrong way")


class CloseGivesAnAwaitable(Store):
    def close(self) -> Any:
        return ClosesLater().close()


class Manager:
    def __enter__(self) -> Store:
        LOG.append("opened")
        return Store()

    def __exit__(self, *exception: object) -> None:
        LOG.append("closed")


class AsyncManager:
    async def __aenter__(self) -> Store:
        self.task = asyncio.current_task()
        LOG.append("opened")
        return Store()

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.sleep(0)
        assert asyncio.current_task() is self.task, "as anyio's cancel scopes demand"
        LOG.append("closed")


class Manages(Closes):
    """Open from the start, and a context manager that closes."""

    def __enter__(self) -> Store:
        raise AssertionError("it has a close, and need not be entered")

    def __exit__(self, *exception: object) -> None: ...


@contextlib.contextmanager
def manager_function() -> Iterator[Store]:
    LOG.append("opened")
    yield Store()
    LOG.append("closed")


@contextlib.asynccontextmanager
async def async_manager_function() -> AsyncIterator[Store]:
    task = asyncio.current_task()
    yield Store()
    assert asyncio.current_task() is task
    LOG.append("closed")


def generator() -> Iterator[Store]:
    yield Store()
    LOG.append("closed")


async def async_generator() -> AsyncIterator[Store]:
    yield Store()
    LOG.append("closed")


async def coroutine() -> Store:
    await asyncio.sleep(0)
    return Closes()


async def coroutine_of_a_manager() -> Any:
    return AsyncManager()


OPENERS: list[Callable[[], Any]] = [
    Closes, ClosesLater, Acloses, CloseGivesAnAwaitable, Manager, AsyncManager, Manages, manager_function,
    async_manager_function, generator, async_generator, coroutine, coroutine_of_a_manager, lambda: coroutine(),
]  # fmt: skip


def env_of(opener: Any, *, declare: Any = per_episode, reward: Any = None, fails: Exception | None = None) -> ToolEnv:
    resource = declare(opener)

    def look(store: Store = resource) -> str:
        """Look into the store."""
        if fails is not None:
            raise fails
        return store.words

    def right(task: Task, episode: Any) -> Score:
        assert "closed" not in LOG, "a reward finds it open"
        return Score(float(episode.state["store"].words == "ready"))

    tasks = [Task(str(n), f"p{n}") for n in range(3)]
    return ToolEnv(tasks=tasks, tools=[look], reward=reward or right, limits=Limits(turns=3))


def played(env: ToolEnv, count: int = 1) -> list[Any]:
    return play_all(env, [(task, [call("look"), call("look"), say("done")]) for task in list(env.tasks)[:count]], 1)


@pytest.mark.parametrize("opener", OPENERS)
def test_an_episodes_resource_is_open_for_tool_and_reward_and_closed_once(opener: Any, log: list[str]) -> None:
    env = env_of(opener)
    (episode,) = played(env)
    assert (episode.crash, episode.reward) == ("", 1.0)
    assert [result.content for result in episode.results] == ["ready", "ready"]
    assert [entry for entry in log if entry != "opened"] == ["closed"]
    env.close()
    assert log.count("closed") == 1


@pytest.mark.parametrize("opener", OPENERS)
def test_a_runs_resource_is_opened_once_and_closed_with_the_environment(opener: Any, log: list[str]) -> None:
    env = env_of(opener, declare=per_run)
    assert [episode.reward for episode in played(env, 3)] == [1.0] * 3
    assert "closed" not in log
    env.close()
    env.close()
    assert log.count("closed") == 1
    assert log.count("opened") <= 1


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("fails", [InfrastructureError("down"), KeyError("a bug")], ids=["fault", "bug"])
def test_it_is_closed_where_a_tool_fails(opener: Any, fails: Exception, log: list[str]) -> None:
    env = env_of(opener, fails=fails)
    played(env)
    assert log.count("closed") == 1
    env.close()


@pytest.mark.parametrize("opener", OPENERS)
def test_it_is_closed_where_a_reward_fails_or_the_episode_is_given_up(opener: Any, log: list[str]) -> None:
    def bad(task: Task, episode: Any) -> float:
        raise ZeroDivisionError

    env = env_of(opener, reward=bad)
    (episode,) = played(env)
    assert "ZeroDivisionError" in episode.crash
    assert log.count("closed") == 1
    env.reset()
    env.step('<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>')
    env.reset()
    assert log.count("closed") == 2
    env.close()


@pytest.mark.parametrize("opener", OPENERS)
def test_it_is_closed_where_the_episode_is_cancelled(opener: Any, log: list[str]) -> None:
    env = env_of(opener)

    async def cancelled() -> None:
        looked = asyncio.Event()

        async def episode() -> None:
            async with env.open_episode(env.tasks[0]) as session:
                await session.advance(call("look"))
                looked.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(episode())
        await asyncio.wait_for(looked.wait(), 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run_sync(cancelled())
    assert log.count("closed") == 1
    env.close()


@pytest.mark.parametrize("opener", [async_manager_function, async_generator, coroutine, AsyncManager])
def test_async_openers_run_on_the_tools_own_loop(opener: Any) -> None:
    loops: list[Any] = []

    async def wrapped() -> Any:
        loops.append(asyncio.get_running_loop())
        value = opener()
        return await value if asyncio.iscoroutine(value) else value

    async def look(store: Store = per_episode(wrapped)) -> str:
        """Look into the store."""
        loops.append(asyncio.get_running_loop())
        return store.words

    env = ToolEnv(tasks=[Task("t", "p")], tools=[look], reward=lambda task, episode: 1.0)
    assert played(env)[0].reward == 1.0
    assert loops[0] is loops[1] is loops[2]
    env.close()


def test_an_opener_that_fails_is_raised_as_it_is_and_tried_again() -> None:
    attempts: list[int] = []

    @contextlib.asynccontextmanager
    async def shaky() -> AsyncIterator[Store]:
        attempts.append(1)
        if len(attempts) == 1:
            raise InfrastructureError("not yet")
        yield Store()
        LOG.append("closed")

    env = env_of(shaky, declare=per_run)
    first, second = played(env, 2)
    assert "not yet" in first.score.reason
    assert second.reward == 1.0
    env.close()
    assert LOG == ["closed"]


def test_a_failure_on_exit_is_raised() -> None:
    async def fails() -> AsyncIterator[Store]:
        yield Store()
        raise ValueError("cannot leave")

    def fails_too() -> Iterator[Store]:
        yield Store()
        raise ValueError("cannot leave")

    for opener in (fails, fails_too):
        env = env_of(opener, declare=per_run)
        assert played(env)[0].reward == 1.0
        with pytest.raises(ExceptionGroup) as caught:
            env.close()
        assert "cannot leave" in str(caught.value.exceptions[0])


def test_openers_in_every_form_may_take_the_task() -> None:
    @contextlib.asynccontextmanager
    async def with_task(task: Task) -> AsyncIterator[str]:
        yield task.id

    def look(store: str = per_episode(with_task)) -> str:
        """Look."""
        return store

    env = ToolEnv(tasks=[Task("the id", "p")], tools=[look], reward=lambda task, episode: 1.0)
    assert played(env)[0].results[0].content == "the id"
    env.close()


def test_a_lock_is_not_held_and_a_temporary_folder_is_removed() -> None:
    folders: list[Path] = []

    def look(lock: Any = per_run(threading.Lock), folder: str = per_episode(tempfile.TemporaryDirectory)) -> str:
        """Look."""
        folders.append(Path(folder))
        with lock:
            return str(Path(folder).is_dir())

    env = ToolEnv(tasks=[Task("t", "p")], tools=[look], reward=lambda task, episode: 1.0)
    assert [result.content for result in played(env)[0].results] == ["True", "True"]
    assert not any(folder.exists() for folder in folders)
    env.close()


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: per_episode(Store()), r"per_episode\(...\) takes a function that opens the resource, got <.*Store"),
        (lambda: per_episode(manager_function()), "takes a function that opens the resource, .* without calling it"),
        (lambda: per_run(coroutine()), r"per_run\(...\) takes a function .*got <coroutine"),
        (lambda: per_episode("path.sqlite"), "got 'path.sqlite'"),
        (
            lambda: per_run(lambda task: task),
            "calls its function without arguments, but it needs task",
        ),
        (
            lambda: per_episode(lambda task, other: task),
            "at most the episode's task, but it needs task, other",
        ),
        (lambda: per_episode(lambda *, folder: folder), "but it needs folder"),
    ],
)
def test_what_cannot_open_a_resource_is_refused_where_it_is_declared(declare: Any, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        declare()
