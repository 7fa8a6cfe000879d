"""Blocking functions run beside the event loop, on threads that are shared only one after the other."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import threading

import pytest

from toolrl.support import waiting
from toolrl.support.waiting import in_thread


@pytest.mark.anyio
async def test_calls_one_after_the_other_share_a_thread() -> None:
    async def ident() -> int:
        found = await in_thread(threading.get_ident)
        while not waiting._idle:  # the thread says that it is idle after it has answered
            await asyncio.sleep(0)
        return found

    assert len({await ident() for _ in range(20)}) == 1


@pytest.mark.anyio
async def test_functions_that_hang_keep_no_other_waiting() -> None:
    release = threading.Event()
    hanging = [asyncio.ensure_future(in_thread(release.wait)) for _ in range(50)]
    assert await asyncio.wait_for(in_thread(lambda: 7), 60) == 7
    release.set()
    assert all(await asyncio.gather(*hanging))


@pytest.mark.anyio
async def test_no_thread_is_left_soon_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "IDLE_SECONDS", 0.01)
    threads = await asyncio.gather(*(in_thread(threading.current_thread) for _ in range(8)))
    for thread in threads:
        await asyncio.to_thread(thread.join, 60)
        assert not thread.is_alive()


@pytest.mark.anyio
async def test_a_call_that_takes_a_thread_as_it_leaves_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "IDLE_SECONDS", 1e-5)
    for n in range(1000):
        assert await asyncio.wait_for(in_thread(lambda n=n: n), 60) == n  # type: ignore[misc]


@pytest.mark.anyio
async def test_a_shared_thread_keeps_no_context_of_the_call_before() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
    for _ in range(5):
        await in_thread(lambda: variable.set(1))
        assert await in_thread(variable.get) == 0


def test_a_forked_child_starts_threads_of_its_own() -> None:
    asyncio.run(in_thread(lambda: None))
    while not waiting._idle:
        pass
    child = os.fork()  # without the idle thread
    if not child:
        signal.alarm(60)
        answer = asyncio.run(in_thread(lambda: 7))
        os._exit(answer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
