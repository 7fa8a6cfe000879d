"""Running code: local sandboxes at every level, E2B's SDK with our server, a plain subprocess, a Jupyter kernel.

A stateless execution opens, runs and closes, one right after the other; "to the output" is the part of one until its
output is there, after a short rest, or when spares stand ready. A step runs in a session that is open; the last line
says how long another process takes to answer at all. Contenders take turns, so that whatever else the machine does hits
all alike. Memory is what an idle worker has for itself alone, with the processes that belong to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any
from unittest import mock

import psutil

from tests.benchmarks.common import table
from tests.sandbox.conftest import WITHOUT
from toolrl.sandbox import LocalSandbox
from toolrl.sandbox.local import sandbox as local_sandboxes
from toolrl.sandbox.local.launcher import Zygote

CODE, ANSWER = "print(6 * 7)", "42"
PACKAGES = "import numpy, sympy\n"
ROUNDS, ONCE_A_ROUND, STEPS_A_ROUND = 8, 8, 25
REST_SECONDS, WATCH_SECONDS = 0.01, 0.001
SLOW_SECONDS = 0.15  # what takes longer is run once a round
RATE_ROUNDS, RATE_SECONDS = 2, 0.8
IDLE_WORKERS = 4
Run = Callable[[], str]


@dataclass
class Contender:
    """A way to run code, and the times that it took.

    Attributes:
        name: For the table.
        once: A stateless execution; its output.
        idle: Opens a worker and leaves it waiting; gives what runs a step in it, if it has sessions.
        sessions: Whether it has.
        rest: Comes before an execution whose time to the output is measured.
        memory: Whether to measure that of an idle worker.
    """

    name: str
    once: Run
    idle: Callable[[], AbstractContextManager[Run | None]]
    sessions: bool = True
    rest: Callable[[], None] = lambda: time.sleep(REST_SECONDS)
    memory: bool = True
    once_seconds: list[float] = field(default_factory=list)
    output_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    idle_mb: float = 0.0


def seconds_of(run: Run) -> float:
    start = time.perf_counter()
    output = run()
    seconds = time.perf_counter() - start
    assert output.strip() == ANSWER, output
    return seconds


def seconds_to_output(contender: Contender) -> float:
    contender.rest()
    start = time.perf_counter()
    with contender.idle() as step:
        assert step is not None
        assert step().strip() == ANSWER
        return time.perf_counter() - start


def await_spares() -> None:
    while any(len(spares.ready) < spares.size for spares in local_sandboxes.spares_by_kind.values()):
        time.sleep(WATCH_SECONDS)


def seconds_of_an_answer() -> list[float]:
    """Times in which another process echoes a line."""
    ours, theirs = socket.socketpair()
    echo = "import socket; s = socket.socket(fileno=0)\nwhile s.send(s.recv(99)): pass"
    seconds = []
    with ours, theirs, subprocess.Popen([sys.executable, "-c", echo], stdin=theirs.fileno()) as process:
        for _ in range(ROUNDS * STEPS_A_ROUND * 5):
            start = time.perf_counter()
            ours.send(b"line")
            assert ours.recv(99) == b"line"
            seconds.append(time.perf_counter() - start)
        process.kill()
    return seconds


@contextlib.contextmanager
def local_session(open_sandbox: Callable[[], LocalSandbox], code: str) -> Iterator[Run]:
    with open_sandbox() as sandbox:
        yield lambda: sandbox.run(code, timeout_seconds=60).stdout


def once_in(session: Callable[[], AbstractContextManager[Run]]) -> str:
    with session() as step:
        return step()


def local(name: str, zygote: Zygote, code: str = CODE) -> Contender:
    session = partial(local_session, partial(LocalSandbox, isolation="none", zygote=lambda: zygote), code)
    return Contender(name, partial(once_in, session), session)


def cold(name: str, code: str) -> Contender:
    """A new interpreter for each execution."""

    def once() -> str:
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    @contextlib.contextmanager
    def idle() -> Iterator[None]:
        waits = f"{code}\nimport sys; sys.stdout.flush(); sys.stdin.read()"
        with subprocess.Popen([sys.executable, "-c", waits], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            yield None
            process.communicate()

    return Contender(name, once, idle, sessions=False)


@contextlib.contextmanager
def jupyter_session() -> Iterator[Run]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(stderr=subprocess.DEVNULL)

    def step() -> str:
        output: list[str] = []
        client.execute_interactive(
            CODE, timeout=60, output_hook=lambda message: output.append(message["content"].get("text", ""))
        )
        return "".join(output)

    try:
        yield step
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def e2b_session() -> Iterator[Run]:
    from e2b_code_interpreter import Sandbox

    sandbox: Any = Sandbox.create(timeout=600)
    try:
        yield lambda: "".join(sandbox.run_code(CODE).logs.stdout)
    finally:
        sandbox.kill()


@contextlib.contextmanager
def our_server() -> Iterator[None]:
    """`toolrl sandbox serve` in a process of its own, and the variables that direct E2B's SDK to it."""
    command = [sys.executable, "-m", "toolrl", "sandbox", "serve", "--port", "0", "--max_sandboxes", "64"]
    environment = {**os.environ, "TOOLRL_ISOLATION": "none"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        try:
            variables = dict(re.findall(r"(E2B_\w+)=(\S+)", process.stdout.readline()))
            with mock.patch.dict(os.environ, variables):
                yield
        finally:
            process.terminate()


def contenders(opened: contextlib.ExitStack) -> tuple[list[Contender], list[str]]:
    """All contenders that can run here, and those that cannot, with the reason."""
    found = [
        cold("`subprocess`, a cold interpreter", CODE),
        cold("the same, NumPy and SymPy imported", PACKAGES + CODE),
    ]
    session = partial(local_session, partial(LocalSandbox, isolation="none"), CODE)
    # Their memory is not measured: they exist before.
    spares = Contender("local, from spares", partial(once_in, session), session, rest=await_spares, memory=False)
    found.append(spares)
    left_out = []
    for level, without in WITHOUT.items():
        zygote = opened.enter_context(contextlib.closing(Zygote(without=without)))
        if zygote.active.level == level:
            found.append(local(f"local, `{level}`, forked on demand", zygote))
        else:
            left_out.append(f"local at `{level}`: this machine does not offer it")
    zygote = opened.enter_context(contextlib.closing(Zygote(packages=True)))
    found.append(local(f"local, `{zygote.active.level}`, NumPy and SymPy imported", zygote, PACKAGES + CODE))
    if all(importlib.util.find_spec(name) for name in ("jupyter_client", "ipykernel")):
        found.append(Contender("a Jupyter kernel", partial(once_in, jupyter_session), jupyter_session))
    else:
        left_out.append("a Jupyter kernel: `pip install jupyter_client ipykernel`")
    if importlib.util.find_spec("e2b_code_interpreter"):
        opened.enter_context(our_server())
        found.append(Contender("E2B's SDK, `toolrl sandbox serve`", partial(once_in, e2b_session), e2b_session))
    else:
        left_out.append("E2B's SDK: `pip install 'toolrl[e2b]'`")
    return found, left_out


def measure_times(found: Sequence[Contender]) -> None:
    with contextlib.ExitStack() as opened:
        steps = {c.name: opened.enter_context(c.idle()) for c in found if c.sessions}
        warm = {c.name: seconds_of(c.once) for c in found}
        for known in filter(None, steps.values()):
            seconds_of(known)
        for _ in range(ROUNDS):
            for contender in found:
                times = 1 if warm[contender.name] > SLOW_SECONDS else ONCE_A_ROUND
                contender.once_seconds += [seconds_of(contender.once) for _ in range(times)]
                if contender.sessions:
                    contender.output_seconds += [seconds_to_output(contender) for _ in range(times)]
                if step := steps.get(contender.name):
                    contender.step_seconds += [seconds_of(step) for _ in range(STEPS_A_ROUND)]


def measure_rates(found: Sequence[Contender], cores: int) -> None:
    """Stateless executions a second, from twice as many threads as there are cores."""

    def keep_running(contender: Contender, end: float) -> int:
        done = 0
        while time.perf_counter() < end or not done:
            seconds_of(contender.once)
            done += 1
        return done

    for _ in range(RATE_ROUNDS):
        for contender in found:
            with ThreadPoolExecutor(2 * cores) as pool:
                start = time.perf_counter()
                runs = [pool.submit(keep_running, contender, start + RATE_SECONDS) for _ in range(2 * cores)]
                done = sum(run.result() for run in runs)
            contender.rates.append(done / (time.perf_counter() - start))


def measure_memory(contender: Contender) -> None:
    """Unshared memory of the processes that some idle workers add."""
    ours = psutil.Process()
    before = set(ours.children(recursive=True))
    with contextlib.ExitStack() as opened:
        for _ in range(IDLE_WORKERS):
            if step := opened.enter_context(contender.idle()):
                seconds_of(step)
        private = 0
        for process in set(ours.children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):
                private += process.memory_full_info().uss
    contender.idle_mb = private / IDLE_WORKERS / 2**20


def p50_p95(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    ranked = sorted(seconds)
    p95 = ranked[min(len(ranked) - 1, round(0.95 * (len(ranked) - 1)))]
    return " / ".join(
        f"{value:.3g}" if value < 100 else f"{value:,.0f}" for value in (1000 * median(ranked), 1000 * p95)
    )


def main() -> str:
    cores = len(os.sched_getaffinity(0))
    with contextlib.ExitStack() as opened:
        found, left_out = contenders(opened)
        measure_times(found)
        measure_rates(found, cores)
        for contender in found:
            if contender.memory:
                measure_memory(contender)
    plain = median(found[0].once_seconds)
    rows = [
        [
            contender.name,
            p50_p95(contender.once_seconds),
            f"{median(contender.once_seconds) / plain:.2g}",
            p50_p95(contender.output_seconds or contender.once_seconds),
            p50_p95(contender.step_seconds),
            f"{mean(contender.rates):.3g}",
            f"{contender.idle_mb:.1f}" if contender.memory else "-",
        ]
        for contender in found
    ]
    columns = [
        "how", "stateless, p50 / p95 ms", "of a subprocess's time", "to the output, p50 / p95 ms", "step, p50 / p95 ms",
        f"stateless a second on {cores} core{'s' * (cores > 1)}", "MB of an idle worker",
    ]  # fmt: skip
    text = table("Running code that prints one number", columns, rows)
    text += "".join(f"Left out: {what}.\n" for what in left_out)
    return f"{text}Another process answers a line in {p50_p95(seconds_of_an_answer())} ms (p50 / p95).\n"
