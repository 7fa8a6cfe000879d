"""Kernel memory and tables that no resource limit counts are bounded, so that other processes are not starved."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl.sandbox import LocalSandbox
from toolrl.sandbox.local.launcher import Zygote, own_group

isolated = pytest.mark.parametrize("level", ["full", "no-landlock", "no-userns"])
SIXTEEN = "import os, time\nfor _ in range(15):\n    if os.fork() == 0: break\n"
SEND = """
import socket
pairs = []
try:
    while True:
        for end in socket.socketpair({kind}):
            end.setblocking(False)
            for option in (7, 8, 32, 33): end.setsockopt(socket.SOL_SOCKET, option, 1 << 28)
            pairs.append(end)
except OSError: pass
for size in (200_000, 60_000, 1):
    for end in pairs:
        try:
            while True: end.send(bytes(size))
        except OSError: pass
time.sleep(60)"""
PIPES = """
import fcntl
writers = []
try:
    while True:
        writers.append(os.pipe()[1])
        try: fcntl.fcntl(writers[-1], fcntl.F_SETPIPE_SZ, 1 << 20)
        except OSError: pass
except OSError: pass
for writer in writers:
    os.set_blocking(writer, False)
    try:
        while True: os.write(writer, bytes(4096))
    except OSError: pass
time.sleep(60)"""


@isolated
@pytest.mark.parametrize(
    "hold",
    [
        SEND.format(kind=""),
        pytest.param(SEND.format(kind="socket.AF_UNIX, 5"), marks=pytest.mark.slow),
        pytest.param(PIPES, marks=pytest.mark.slow),
    ],
)
def test_data_in_flight_between_processes_is_limited(open_sandbox: Callable[..., LocalSandbox], hold):
    try:
        group = own_group().paths[0]
        before = int((group / "memory.usage_in_bytes").read_text())
        (group / "memory.max_usage_in_bytes").write_text("0")
    except OSError:
        pytest.skip("no control group of version 1, which tells how much memory was used at most")
    assert open_sandbox(seconds=3).run(SIXTEEN + hold).error.name == "TimeoutError"
    assert int((group / "memory.max_usage_in_bytes").read_text()) - before < 600 << 20


ATTEMPTS = {
    "a pipe of more than the usual size": "fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 1 << 20)",
    "descriptors in flight": "socket.send_fds(socket.socketpair()[0], [b'x'], [0])",
    "pages that outlive their mapping": "check(libc.vmsplice(os.pipe()[1], 0, 0, 0))",
    "inotify": "check(libc.inotify_init())",
    "epoll": "select.epoll()",
    "asynchronous input and output": "check(libc.syscall({'x86_64': 206, 'aarch64': 0}[os.uname().machine], 1, 0))",
    "filters of system calls": "check(libc.prctl(22, 2, 0, 0, 0))",
    "rulesets of Landlock": "check(libc.syscall(444, 0, 0, 1))",
    "filters of sockets": "socket.socketpair()[0].setsockopt(socket.SOL_SOCKET, 26, bytes(16))",
    "a lease": "fcntl.fcntl(open('file', 'w'), fcntl.F_SETLEASE, fcntl.F_WRLCK)",
    "news of a folder": "fcntl.fcntl(os.open('.', os.O_RDONLY), fcntl.F_NOTIFY, 1)",
}
HELPERS = """
import ctypes, fcntl, os, select, socket
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0: raise OSError(ctypes.get_errno(), "denied")
"""


@isolated
@pytest.mark.parametrize("name", ATTEMPTS)
def test_shared_kernel_resources_are_denied(sandbox, name):
    assert sandbox.run(HELPERS + ATTEMPTS[name]).error.name == "PermissionError"


@isolated
@pytest.mark.usefixtures("apart")
def test_queued_signals_and_timers_are_not_exhausted_for_others(open_sandbox):
    code = """
import ctypes, os, signal
libc = ctypes.CDLL(None)
class Value(ctypes.Union): _fields_ = [("number", ctypes.c_int), ("pointer", ctypes.c_void_p)]
libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, Value]
signal.pthread_sigmask(signal.SIG_BLOCK, [40])
count = 0
while count < 10_000 and libc.sigqueue(os.getpid(), 40, Value(number=1)) == 0: count += 1
count"""
    sandboxes = [open_sandbox() for _ in range(3)]
    assert [sandbox.run(code).value for sandbox in sandboxes] == ["256"] * 3


@isolated
def test_asyncio_works_without_epoll(sandbox):
    code = "import asyncio, selectors\nasync def main():\n    process = await asyncio.create_subprocess_exec('cat', "
    code += "stdin=-1, stdout=-1)\n    return await process.communicate(b'hi')\n"
    assert sandbox.run(f"{code}asyncio.run(main())[0], selectors.DefaultSelector.__name__").value == (
        "(b'hi', 'PollSelector')"
    )


def test_asyncio_works_without_epoll_in_a_sandbox_with_packages():
    zygote = Zygote(packages=True)
    with LocalSandbox(isolation="none", zygote=lambda: zygote, packages=True) as sandbox:
        code = "import asyncio, sys\nasyncio.run(asyncio.sleep(0, 'fine'))"
        assert sandbox.run(code).value == "'fine'"
    zygote.close()


@isolated
def test_the_codes_processes_are_killed_first_when_memory_runs_out(zygote, sandbox):
    code = "import os; open('/proc/self/oom_score_adj').read(), os.fork() or os._exit(0)"
    assert sandbox.run(code).value.startswith("('1000\\n'")
    assert int(Path(f"/proc/{zygote.process.pid}/oom_score_adj").read_text()) == 500
    assert int(Path(f"/proc/{os.getpid()}/oom_score_adj").read_text()) < 500
    assert sandbox.run("open('/proc/self/oom_score_adj', 'w').write('0')").error.name in ("OSError", "PermissionError")


SPIN = "while True: pass"
COMPUTE_ON = {
    "a thread": f"import threading\ndef spin():\n    {SPIN}\nthreading.Thread(target=spin, daemon=True).start()",
    "a child that raises its limit": """
import subprocess, sys
raised = "import resource; limit = resource.RLIM_INFINITY; resource.setrlimit(0, (limit, limit))\\nwhile True: pass"
child = subprocess.Popen([sys.executable, "-c", raised])""",
    "a child that ignores its limit": f"""
import os, signal
if os.fork() == 0:
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    {SPIN}""",
    "children of children": """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while True:
        end = time.monotonic() + 0.05
        while time.monotonic() < end: pass
        if os.fork(): os._exit(0)
        os.setsid()""",
}


# Each takes seconds of waiting.
FULL_FIRST = ["full", *(pytest.param(level, marks=pytest.mark.slow) for level in ("no-landlock", "no-userns", "none"))]


@pytest.mark.parametrize("level", FULL_FIRST)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("a child")) for name in COMPUTE_ON]
)
def test_code_that_keeps_computing_after_its_run_is_ended(level, open_sandbox, name, eventually):
    if name == "children of children" and level in ("no-userns", "none"):
        pytest.skip("without namespaces orphans are not reaped before the session ends, so there can be at most 16")
    sandbox = open_sandbox(seconds=0.3)
    code = COMPUTE_ON[name]
    assert sandbox.run(code, timeout_seconds=1).error is None
    assert eventually(lambda: not sandbox.workspace.sessions[0].idle)
    error = sandbox.run("1 + 1").error
    assert error.name == "SandboxDied"
    assert "computed on after a run" in error.value
    assert sandbox.run("1 + 1").value == "2"


@pytest.mark.parametrize("level", FULL_FIRST)
def test_code_that_waits_after_its_run_is_left_alone(open_sandbox):
    sandbox = open_sandbox(seconds=0.3)
    code = "import subprocess, threading, time\nsleeper = subprocess.Popen(['sleep', '60'])\n"
    assert sandbox.run(f"{code}threading.Thread(target=time.sleep, args=(60,), daemon=True).start()").error is None
    time.sleep(4)
    assert sandbox.run("sleeper.poll() is None, threading.active_count()").value == "(True, 2)"
