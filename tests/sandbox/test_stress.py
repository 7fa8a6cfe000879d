"""Many concurrent executions, some of them hostile, with workers killed from outside: no answer is mixed up.

The small round is part of the tests; `make test-sandbox` plays the whole one, and prints what it saw.
"""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import itertools
import os
import random
import sys
import threading
import time
import traceback
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.sandbox.conftest import settled
from toolrl.errors import SandboxFault
from toolrl.sandbox import ExecResult, LocalSandbox, SandboxLimits
from toolrl.sandbox.local.launcher import Zygote

LIMITS = SandboxLimits(seconds=90, memory_mb=128, processes=8, file_size_mb=1, output_characters=1000)
MOST_RUNS = 8  # of one sandbox
HOSTILE_EVERY, KILL_EVERY = 20, 50  # executions
HANG_SECONDS = 400.0


class Attack(NamedTuple):
    """Hostile code and how its run may end; None among `errors` means without an error, with its token as value."""

    code: str
    errors: tuple[str | None, ...]
    reason: str = ""
    limit: str | None = None
    seconds: float = LIMITS.seconds


FLOOD = """
import stat
for descriptor in range(3, 256):
    try:
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode): channel = descriptor
    except OSError: pass
while True: os.write(channel, b'\\0' * 65536)"""
DAEMON = "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(3600)\n    os._exit(0)"
ATTACKS = {
    "fork bomb": Attack("while True: os.fork()", ("BlockingIOError", "TimeoutError"), seconds=2),
    "memory bomb": Attack("[bytearray(1 << 20) for _ in iter(int, 1)]", ("MemoryError",), limit="memory"),
    "endless loop": Attack("while True: pass", ("TimeoutError",), limit="seconds", seconds=0.3),
    "endless wait": Attack("time.sleep(3600)", ("TimeoutError",), limit="seconds", seconds=0.3),
    "endless output": Attack("while True: print('x' * 79)", ("OSError",), limit="output"),
    "exit": Attack("os._exit(0)", ("SandboxDied",), "status 0"),
    "kill(-1)": Attack("try: os.kill(-1, 9)\nexcept OSError: pass", (None,)),
    "segfault": Attack("import ctypes; ctypes.string_at(0)", ("SandboxDied",), "signal 11"),
    "flooded channel": Attack(FLOOD, ("SandboxDied", "TimeoutError"), seconds=2),
    "daemon": Attack(DAEMON, (None,)),
}


@dataclass
class Round:
    """A round played by many threads, each with one sandbox at a time."""

    zygote: Zygote
    executions: int
    at_once: int
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[dict[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._started: dict[int, float] = {}  # by thread
        self._standing = [os.getpid(), *self._below_zygote(workers=False)]

    def play(self) -> None:
        over = threading.Event()
        watchdog = threading.Thread(target=self._watch, args=[over])
        watchdog.start()
        with ThreadPoolExecutor(self.at_once) as pool:
            for _ in range(self.at_once):
                pool.submit(self._play_alone)
        over.set()
        watchdog.join()
        self.memory.append(self._resident())

    def _play_alone(self) -> None:
        """Play one execution after another; a wrong one does not stop the round."""
        with contextlib.ExitStack() as opened:
            player = None
            for number in itertools.takewhile(lambda n: n < self.executions and not self.wrong, self._numbers):
                self._started[threading.get_ident()] = time.monotonic()
                try:
                    if number == self.executions // 10:
                        self.memory.append(self._resident())
                    if number % KILL_EVERY == KILL_EVERY // 2:
                        self._kill_one()
                    if player is None or not player.runs_left:
                        opened.close()
                        player = Player(self, number)
                        opened.callback(player.close)
                    player.execute(number)
                except Exception:  # noqa: BLE001  the test shows it
                    self.wrong.append(f"execution {number}: {traceback.format_exc()}")
            self._started.pop(threading.get_ident(), None)

    def count(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def _kill_one(self) -> None:
        workers = self._below_zygote(workers=True)
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(random.choice(workers)).kill()
                self.count("kills")

    def _below_zygote(self, *, workers: bool) -> list[int]:
        """Workers are leaders of their own sessions; the processes that fork them share the zygote's."""
        first, found = psutil.Process(self.zygote.process.pid), []
        for process in [first, *first.children(recursive=True)]:
            with contextlib.suppress(ProcessLookupError):
                if (os.getsid(process.pid) != first.pid) == workers:
                    found.append(process.pid)
        return found

    def _resident(self) -> dict[int, int]:
        return {pid: psutil.Process(pid).memory_info().rss >> 20 for pid in self._standing}

    def _watch(self, over: threading.Event) -> None:
        """If an execution hangs, print all stacks and end the round."""
        while not over.wait(1):
            if self._started and time.monotonic() - min(list(self._started.values())) > HANG_SECONDS:
                faulthandler.dump_traceback(sys.__stderr__)
                self.wrong.append(f"an execution took more than {HANG_SECONDS} seconds")
                self.zygote.close()
                return


class Player:
    """One sandbox and its expected state."""

    def __init__(self, playing: Round, number: int) -> None:
        self._round = playing
        self._sandbox = LocalSandbox(LIMITS, isolation="none", zygote=lambda: playing.zygote)
        self.runs_left = random.Random(number).randint(1, MOST_RUNS)
        self._steps = 0  # since its variables were lost
        self._written: list[str] = []  # files stay, whatever ends the process
        self._doubtful: set[str] = set()

    def execute(self, number: int) -> None:
        """Run once and check the result."""
        self.runs_left -= 1
        token = f"token-{number}-{random.getrandbits(64):x}"
        if number % HOSTILE_EVERY:
            self._be_good(token)
        else:
            self._attack(token, list(ATTACKS)[number // HOSTILE_EVERY % len(ATTACKS)])

    def _be_good(self, token: str) -> None:
        code = f"import os, sys\nsteps = globals().get('steps', 0) + 1\nprint({token!r}); sys.stderr.write({token!r})\n"
        code += f"with open('mine', 'a') as file: file.write('{token} ')\n{token!r}, steps, open('mine').read()"
        result = self._run(code, LIMITS.seconds)
        self._round.count("good")
        if result is None:
            self._doubtful.add(token)  # its line may or may not have been written
            return
        self._steps += 1
        self._written.append(token)
        assert (result.stdout, result.stderr, result.error) == (f"{token}\n", token, None)
        said, steps, lines = ast.literal_eval(result.value or "")
        assert (said, steps) == (token, self._steps)
        assert [line for line in lines.split() if line not in self._doubtful] == self._written

    def _attack(self, token: str, name: str) -> None:
        attack = ATTACKS[name]
        code = f"import os, time\nprint({token!r}, flush=True)\n{attack.code}\n{token!r}"
        result = self._run(code, attack.seconds)
        self._round.count(name)
        if result is None:
            return
        error = result.error
        assert (error.name if error else None) in attack.errors, (name, result)
        assert result.value == (None if error else repr(token))
        assert error is None or attack.reason in error.value
        assert attack.limit is None or attack.limit in result.limits_hit
        assert result.stdout.startswith(f"{token}\n")
        if error and error.name in ("SandboxDied", "TimeoutError"):
            self._steps = 0

    def _run(self, code: str, seconds: float) -> ExecResult | None:
        """Run code; None if the worker was killed from outside, which may look as if the code had ended it."""
        try:
            result = self._sandbox.run(code, timeout_seconds=seconds)
            why = result.error.value if result.error and result.error.name == "SandboxDied" else ""
            killed = "signal 9 " in why
        except SandboxFault:
            killed = True
        if not killed:
            return result
        self._round.count("hits")
        self._steps = 0
        return None

    def close(self) -> None:
        self._sandbox.close()


def leavings(zygote: Zygote) -> dict[str, int]:
    """Count the resources that open sandboxes hold."""
    ours, first = psutil.Process(), psutil.Process(zygote.process.pid)
    descriptors = 0
    for process in (first, *first.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended
            descriptors += process.num_fds()
    return {
        "processes": len(ours.children(recursive=True)),
        "our descriptors": ours.num_fds(),
        "descriptors below": descriptors,
        "folders": len(os.listdir(zygote.directory)),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "threads": ours.num_threads(),
    }


def is_no_more(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether nothing has grown: leftovers of other tests may end in the meantime."""
    return all(now[name] <= before[name] for name in before)


@pytest.mark.parametrize("level", ["full", "no-userns"])
@pytest.mark.parametrize(
    ("executions", "at_once"),
    [
        pytest.param(400, 16, id="small"),
        pytest.param(10_000, 64, id="whole", marks=[pytest.mark.stress, pytest.mark.timeout(3600)]),
    ],
)
@pytest.mark.usefixtures("counted")
def test_every_answer_is_right_and_nothing_is_left(zygote, eventually, executions, at_once):
    with LocalSandbox(LIMITS, isolation="none", zygote=lambda: zygote) as sandbox:
        assert sandbox.run("1").value == "1"
    before, started = settled(lambda: leavings(zygote)), time.monotonic()
    playing = Round(zygote, executions, at_once)
    playing.play()
    seconds = time.monotonic() - started
    assert not playing.wrong, "\n".join(playing.wrong[:5])
    assert eventually(lambda: is_no_more(leavings(zygote), before)), (before, leavings(zygote))
    hits, kills = playing.seen["hits"], playing.seen["kills"]
    assert sum(playing.seen.values()) - hits - kills == executions
    assert all(playing.seen[name] for name in ATTACKS)
    assert 0 < kills >= hits
    early, late = playing.memory
    assert all(late[pid] <= 1.1 * early[pid] + 8 for pid in early), (early, late)
    print(f"\n{executions} executions, {at_once} at a time, {seconds:.0f} s: {dict(playing.seen)}")
    print(f"resident MB of us and of the process they are forked from, after a tenth and at the end: {early}, {late}")
