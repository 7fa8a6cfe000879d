"""Results of other threads reach the event loop together, each as it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from toolrl.support.arrivals import Arrivals


def on_another_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


@pytest.mark.anyio
async def test_results_that_come_together_wake_the_loop_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    arrivals, wake, wakings = Arrivals(loop), loop.call_soon_threadsafe, []

    def counting(callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
        wakings.append(callback)
        return wake(callback, *args, **options)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    for _ in range(3):  # it is woken again for the next step
        sources: list[Future[int]] = [Future() for _ in range(64)]
        awaited = [arrivals.expect(source, "policy") for source in sources]
        on_another_thread(lambda sources=sources: [source.set_result(n) for n, source in enumerate(sources)])  # type: ignore[misc]
        assert await asyncio.gather(*awaited) == list(range(64))
    assert len(wakings) == 3


@pytest.mark.anyio
async def test_results_from_many_threads_all_arrive() -> None:
    arrivals = Arrivals(asyncio.get_running_loop())
    sources: list[Future[int]] = [Future() for _ in range(2000)]
    awaited = [arrivals.expect(source, "policy") for source in sources]
    threads = [
        threading.Thread(target=lambda part: [source.set_result(1) for source in part], args=(sources[n::4],))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    assert sum(await asyncio.wait_for(asyncio.gather(*awaited), 60)) == 2000


@pytest.mark.anyio
@pytest.mark.parametrize("error", [ValueError("no"), StopIteration(), KeyboardInterrupt(), SystemExit(3)])
async def test_an_error_reaches_its_own_awaiter_and_no_other(error: BaseException) -> None:
    arrivals = Arrivals(asyncio.get_running_loop())
    sources: list[Future[int]] = [Future(), Future()]
    failing, other = [arrivals.expect(source, "policy P") for source in sources]
    sources[0].set_exception(error)
    sources[1].set_result(7)
    assert await other == 7
    with pytest.raises(ValueError if isinstance(error, ValueError) else RuntimeError) as raised:
        await failing
    assert error in (raised.value, raised.value.__cause__)


@pytest.mark.anyio
async def test_cancelling_goes_both_ways() -> None:
    arrivals = Arrivals(asyncio.get_running_loop())
    sources: list[Future[int]] = [Future(), Future()]
    first, second = [arrivals.expect(source, "policy") for source in sources]
    first.cancel()
    await asyncio.sleep(0)
    assert sources[0].cancelled()
    on_another_thread(sources[1].cancel)
    with pytest.raises(asyncio.CancelledError):
        await second


def test_a_closed_loop_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    source: Future[int] = Future()
    Arrivals(loop).expect(source, "policy")
    loop.close()
    source.set_result(1)
