"""The sandboxes of a process share a pool of spares, and limits on how many are open or busy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from tests.sandbox.conftest import descendants, eventually
from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.local import launcher, pool, sandbox as local, session
from toolrl.sandbox.local.pool import Slots, Spares

LIMITS = SandboxLimits(memory_mb=300)  # used by no other test


@pytest.fixture
def spares() -> Iterator[Spares]:
    """The spares for `LIMITS`, complete."""
    for _ in range(2):
        LocalSandbox(LIMITS).close()
    spares = next(made for key, made in local.spares_by_kind.items() if LIMITS in key)
    assert eventually(lambda: len(spares.ready) == spares.size)
    yield spares
    local.close_spares()
    assert not spares.ready


def test_a_sandbox_takes_a_spare_of_its_kind_which_is_replaced(spares):
    ready = list(spares.ready)
    with LocalSandbox(LIMITS) as sandbox:
        assert sandbox.workspace is ready[0]
        assert sandbox.run("x = 1; __name__").value == "'__main__'"
        assert eventually(lambda: len(spares.ready) == spares.size)
        assert sandbox.workspace not in spares.ready
        with LocalSandbox(LIMITS) as other:
            assert other.run("x").error.name == "NameError"


def test_a_spare_and_a_new_sandbox_are_alike(spares):
    code = "import os, random; (random.random(), sorted(os.environ.items()).__len__(), sorted(globals()), os.listdir())"
    with LocalSandbox(LIMITS) as spare, LocalSandbox(LIMITS, zygote=launcher.shared_zygote) as new:
        assert spare.run(code).value == new.run(code).value


def test_a_spare_that_died_is_replaced_silently(spares):
    ready = list(spares.ready)
    for place in ready:
        signal.pidfd_send_signal(place.sessions[0].connection.process, signal.SIGKILL)
    assert eventually(lambda: not any(place.usable for place in ready))
    for _ in range(spares.size + 1):
        with LocalSandbox(LIMITS) as sandbox:
            assert sandbox.run("1 + 1").value == "2"


@pytest.mark.skipif("launcher.shared_zygote().active.level != 'full'", reason="the code can kill its process itself")
def test_a_worker_killed_from_outside_is_a_fault_and_is_replaced():
    with LocalSandbox() as sandbox, ThreadPoolExecutor() as threads:
        sandbox.write_file("kept", b"x")
        assert sandbox.run("import os, signal; os.kill(os.getpid(), signal.SIGKILL); 1").value == "1"
        begun, code = threading.Event(), "import time; print('on'); time.sleep(60)"
        run = threads.submit(sandbox.run, code, timeout_seconds=100, on_output=lambda *_: begun.set())
        connection = sandbox.workspace.sessions[0].connection
        assert begun.wait(30)
        signal.pidfd_send_signal(connection.process, signal.SIGKILL)
        with pytest.raises(SandboxFault, match="killed from outside"):
            run.result(30)
        assert sandbox.run("open('kept').read()").value == "'x'"
        limit = "import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))"
        assert sandbox.run(f"{limit}\nwhile True: pass").error.name == "SandboxDied"  # caused by the code


def test_spares_of_a_dead_zygote_are_not_used(spares, monkeypatch):
    ready = list(spares.ready)
    monkeypatch.setattr(launcher, "_shared", {})
    with LocalSandbox(LIMITS) as sandbox:
        assert sandbox.workspace not in ready
        assert sandbox.run("1").value == "1"
    local.close_spares()
    launcher.shared_zygote().close()


def test_sandboxes_opened_at_once_are_distinct(spares):
    def use(number: int) -> list[str]:
        with LocalSandbox(LIMITS) as sandbox:
            sandbox.run(f"open('{number}', 'w').close()")
            return sandbox.list_files()

    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(use, range(48))) == [[str(number)] for number in range(48)]


def test_unused_spares_are_closed(spares, monkeypatch):
    monkeypatch.setattr(pool, "_IDLE_SECONDS", 0.05)
    processes = [place.sessions[0].connection for place in spares.ready]
    LocalSandbox(LIMITS).close()  # wakes the thread, which then uses the new timeout
    assert eventually(lambda: spares.maker is None and not spares.ready)
    assert eventually(lambda: all(process.ended for process in processes))


def test_a_zygote_that_forked_many_sandboxes_is_replaced_and_keeps_its_own(monkeypatch):
    monkeypatch.setattr(launcher, "_shared", {})
    monkeypatch.setattr(launcher, "_MAX_SANDBOXES", 1)
    with LocalSandbox() as old, LocalSandbox() as new:
        assert old.workspace.zygote is not new.workspace.zygote
        assert old.run("import os; os._exit(0)").error.name == "SandboxDied"
        assert old.run("1").value == "1"
        assert old.new_session().run("2").value == "2"
        assert new.run("3").value == "3"
    local.close_spares()
    launcher.shared_zygote().close()


def test_a_sandbox_waits_until_another_one_is_closed(monkeypatch):
    monkeypatch.setenv("TOOLRL_SANDBOXES", "1")
    with LocalSandbox() as first, ThreadPoolExecutor() as threads:
        second = threads.submit(LocalSandbox)
        assert not eventually_done(second, 0.3)
        first.close()
        with second.result(30) as sandbox:
            assert sandbox.run("1").value == "1"


def test_a_sandbox_that_never_gets_a_slot_is_a_fault(monkeypatch):
    monkeypatch.setenv("TOOLRL_SANDBOXES", "1")
    monkeypatch.setattr(pool, "_OPEN_SECONDS", 0.1)
    with LocalSandbox() as first:
        for _ in range(2):
            with pytest.raises(SandboxFault, match="1 sandboxes are open"):
                LocalSandbox()
        first.reset()
        assert first.run("1").value == "1"
    LocalSandbox().close()


@pytest.mark.parametrize("value", ["0", "-1", "many", ""])
def test_an_invalid_limit_is_one_clear_error(monkeypatch, value):
    monkeypatch.setenv("TOOLRL_SANDBOXES", value)
    with pytest.raises(ConfigError, match="TOOLRL_SANDBOXES"):
        LocalSandbox()


def test_waiting_for_a_slot_does_not_count_as_run_time(monkeypatch):
    monkeypatch.setattr(session, "runs", Slots(1))
    code = "import time; a = time.monotonic(); time.sleep(0.5); (a, time.monotonic())"
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        sandboxes = [stack.enter_context(LocalSandbox()) for _ in range(3)]
        results = list(threads.map(lambda sandbox: sandbox.run(code, timeout_seconds=1.0), sandboxes))
    times = sorted(eval(result.value) for result in results)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


def test_a_run_waiting_for_a_slot_can_be_closed(monkeypatch):
    monkeypatch.setattr(session, "runs", Slots(1))
    with LocalSandbox() as busy, LocalSandbox() as waiting, ThreadPoolExecutor() as threads:
        first = threads.submit(busy.run, "import time; time.sleep(60)", timeout_seconds=100)
        assert eventually(lambda: not session.runs.free.qsize())
        second = threads.submit(waiting.run, "1")
        assert not eventually_done(second, 0.3)
        waiting.close()
        assert second.result(30).error.name == "SandboxDied"
        busy.close()
        assert first.result(30).error.name == "SandboxDied"


SCRIPT = """
    import os, signal, sys, time
    from toolrl.sandbox import LocalSandbox
    from toolrl.sandbox.local import launcher, sandbox as local
    for _ in range(2):
        LocalSandbox().close()
    [spares] = local.spares_by_kind.values()
    while len(spares.ready) < spares.size:
        time.sleep(0.01)
    held = LocalSandbox()
    zygote = launcher.shared_zygote()
    print(zygote.process.pid, zygote.directory, flush=True)
    if sys.argv[1] == "fork":
        if os.fork() == 0:
            assert not spares.ready
            with LocalSandbox() as sandbox:
                assert sandbox.run("1").value == "1"
                assert launcher.shared_zygote() is not zygote
            os._exit(0)
        assert os.wait()[1] == 0
        assert all(place.usable for place in spares.ready) and held.run("1").value == "1"
    elif sys.argv[1] == "raise":
        raise KeyError("a bug")
    elif sys.argv[1] != "end":
        sys.stdin.readline()
        held.run("import time; time.sleep(100)", timeout_seconds=200)
"""


@pytest.mark.parametrize("way", ["end", "raise", "fork", "SIGINT", "SIGTERM", "SIGKILL"])
def test_nothing_is_left_however_the_process_ends(way):
    script = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), way],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    zygote, directory = script.stdout.readline().split()
    if way.startswith("SIG"):
        below = descendants(int(zygote))
        assert len(below) > 2
        script.stdin.write("\n")
        script.stdin.flush()
        time.sleep(0.2)  # during the run, or shortly before
        script.send_signal(signal.Signals[way])
    else:
        below = set()
    _, errors = script.communicate(timeout=60)
    expected = {"end": 0, "fork": 0, "raise": 1, "SIGINT": -signal.SIGINT, "SIGTERM": -15, "SIGKILL": -9}[way]
    assert script.returncode == expected, errors
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in {int(zygote), *below}))
    assert eventually(lambda: not os.path.exists(directory))


def eventually_done(future, seconds: float) -> bool:
    done = threading.Event()
    future.add_done_callback(lambda _: done.set())
    return done.wait(seconds)
