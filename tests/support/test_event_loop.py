"""Promises about `run_sync`: synchronous code may run a coroutine anywhere, and may be interrupted."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

from toolrl import Task, ToolEnv
from toolrl.rewards import answer_reward
from toolrl.support.event_loop import run_sync


async def identity(value: int) -> int:
    await asyncio.sleep(0)
    return value


def test_synchronous_code_may_step_where_an_event_loop_runs_already() -> None:
    async def notebook_cell() -> float:
        env = ToolEnv(tasks=[Task("t", "2+2?", "4")], reward=answer_reward())
        env.reset(seed=0)
        return env.step("<answer>4</answer>")[1]

    assert asyncio.run(notebook_cell()) == 1.0


def test_many_threads_may_run_coroutines_at_the_same_time() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(run_sync(identity(n)))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(16))


def test_a_coroutine_that_would_wait_for_itself_is_an_error_and_no_deadlock() -> None:
    async def nested() -> int:
        return run_sync(identity(1))

    with pytest.raises(RuntimeError, match="an async tool or reward cannot step an environment"):
        run_sync(nested())


def test_an_interrupt_waits_until_the_coroutine_has_closed_what_it_opened() -> None:
    closed = []

    async def work() -> None:
        try:
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.01)
            closed.append(True)

    with pytest.raises(KeyboardInterrupt):
        run_sync(work())
    assert closed == [True]
