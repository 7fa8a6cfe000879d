"""Whatever the code does to itself or to its files is a result or an OSError, never a fault.

A fault is not scored: it would be a way out of a bad score. At every level of isolation.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from toolrl.sandbox import LocalSandbox

SPIN = "while True: pass"
WRITE_TO_ALL = "for number in range(3, 20):\n    try: os.write(number, {data})\n    except OSError: pass\n"
CHAIN = """
for _ in range(4):
    if os.fork() == 0:
        while True:
            try:
                if os.fork(): os._exit(0)
                os.setsid()
            except OSError: pass
os._exit(0)"""


@pytest.mark.parametrize("hard", [0, 1])
def test_a_cpu_limit_that_the_code_lowers_is_not_a_fault(sandbox, hard):
    result = sandbox.run(f"import resource; resource.setrlimit(resource.RLIMIT_CPU, ({hard}, {hard}))\n{SPIN}")
    assert result.error.name == "SandboxDied"
    assert sandbox.run("1 + 1").value == "2"


def test_a_cpu_limit_that_takes_effect_later_is_not_a_fault(sandbox):
    assert sandbox.run("import resource; resource.setrlimit(resource.RLIMIT_CPU, (1, 1))").error is None
    assert sandbox.run("1 + 1").value == "2"
    assert sandbox.run(SPIN).error.name == "SandboxDied"


@pytest.mark.usefixtures("apart")
def test_the_codes_own_signals_and_limits_are_not_a_fault(open_sandbox):
    sandbox = open_sandbox(seconds=0.2)
    stopping = {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    attempts = [f"os.kill(os.getpid(), {number})" for number in set(signal.Signals) - stopping]
    use = "open('file', 'w').write('x'); bytearray(10**6); import subprocess; subprocess.run(['true'])"
    attempts += [f"resource.setrlimit({limit}, (0, 0)); {use}" for limit in range(16)]
    for attempt in attempts:
        sandbox.run(f"import os, resource\n{attempt}")
        sandbox.run("1 + 1")  # the limit may take effect only now
        sandbox.reset()
        assert sandbox.run("1 + 1", timeout_seconds=5).value == "2", attempt


@pytest.mark.parametrize(
    "code",
    [
        "signal.setitimer(signal.ITIMER_REAL, 0.01); import time; time.sleep(0.1)",
        "signal.setitimer(signal.ITIMER_PROF, 0.01)\nfor _ in range(10**6): pass",
        "os.execv('/bin/true', ['true'])",
        "os.closerange(0, 100)",
        "null = os.open('/dev/null', os.O_RDWR)\nfor number in range(50): os.dup2(null, number)",
        "try:\n    while True: os.dup(0)\nexcept OSError: os._exit(1)",
        WRITE_TO_ALL.format(data="bytes(1000)") + "os._exit(0)",
        WRITE_TO_ALL.format(data="b'\\0\\0\\1\\0{\"run\": 1, '") + "os._exit(0)",
        WRITE_TO_ALL.format(data="b'\\0\\0\\0\\2{}'") + "os.kill(os.getpid(), 9)",
        "for _ in range(20):\n    if os.fork() == 0: import time; time.sleep(100)",
        "try:\n    while True: os.fork()\nexcept OSError: os._exit(1)",
        CHAIN,
        "os.nice(19); os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); os._exit(1)",
        "open('/proc/self/oom_score_adj', 'w').write('1000'); os._exit(1)",
        "import ctypes\nfor option in (1, 4, 36): ctypes.CDLL(None).prctl(option, 0, 0, 0, 0)\nos._exit(1)",
        "import ctypes; ctypes.CDLL(None).munmap(ctypes.c_void_p(4096), ctypes.c_size_t(1 << 46))",
        "import shutil; shutil.rmtree(os.getcwd(), ignore_errors=True); os._exit(1)",
        "os.chmod('.', 0); os.chdir('/'); os._exit(1)",
        "for _ in range(100): os.mkdir('d'); os.chdir('d')\nos._exit(1)",
        "import json, marshal, socket; json.dumps = marshal.loads = socket.socket.sendall = os.getpid = None",
        "os.kill(os.getppid(), 19)",
    ],
)
@pytest.mark.usefixtures("apart")
def test_whatever_the_code_does_to_its_session_is_not_a_fault(sandbox, code):
    sandbox.run(f"import os, resource, signal\n{code}", timeout_seconds=0.5)
    for _ in range(2):
        sandbox.run("1 + 1", timeout_seconds=0.5)
    assert sandbox.run("1 + 1").value == "2"
    assert sandbox.new_session().run("1 + 1").value == "2"


def test_a_leased_file_is_read_or_refused(open_sandbox):
    sandbox = open_sandbox()
    sandbox.write_file("answer", b"42")
    lease = "import fcntl, os\nos.replace('answer', 'x'); open('answer', 'w').write('42')\n"
    lease += "f = open('answer', 'r+'); fcntl.fcntl(f, 1024, fcntl.F_WRLCK)"
    sandbox.run(lease)
    with contextlib.suppress(OSError):
        assert sandbox.read_file("answer") == b"42"
    sandbox.write_file("answer", b"43")
    assert sandbox.read_file("answer") == b"43"


EXCHANGE = """
import contextlib, os, socket, stat
os.mkdir("folder"); os.mkfifo("pipe"); open("other", "w").write("x" * 100); os.symlink("other", "link")
open("locked", "w").close(); os.chmod("locked", 0)
with contextlib.suppress(OSError): os.mknod("socket", stat.S_IFSOCK | 0o600)
writer = os.open("pipe", os.O_RDWR)
names = [name for name in ("folder", "pipe", "other", "link", "locked", "socket") if os.path.lexists(name)]
while not os.path.exists("enough"):
    for name in names:
        with contextlib.suppress(OSError):  # the other side has just written the file
            os.rename(name, "PATH")
            os.rename("PATH", name)
"""


@pytest.mark.parametrize("path", ["answer", "folder2/answer"])
def test_files_replaced_while_they_are_read_are_not_a_fault(sandbox, path):
    sandbox.run("import os; os.mkdir('folder2')")
    descriptors = len(os.listdir("/proc/self/fd"))
    thread = threading.Thread(target=lambda: sandbox.run(EXCHANGE.replace("PATH", path), timeout_seconds=30))
    thread.start()
    outcomes: set[str] = set()
    until = time.monotonic() + 1
    while thread.is_alive():
        for attempt in (lambda: sandbox.read_file(path), lambda: sandbox.write_file(path, b"x"), sandbox.list_files):
            try:
                attempt()
            except (OSError, ValueError) as error:
                outcomes.add(type(error).__name__)
        if outcomes and time.monotonic() > until:
            sandbox.write_file("enough", b"")
    thread.join()
    assert outcomes  # some reads did meet something else than the file
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 8


@pytest.mark.parametrize("level", ["no-userns"])
def test_nested_folders_do_not_exhaust_the_readers_descriptors(open_sandbox: Callable[..., LocalSandbox]):
    sandbox = open_sandbox()
    code = "import os\nopen('top', 'w').close()\nfor _ in range(1600): os.mkdir('d'); os.chdir('d')\n"
    assert sandbox.run(f"{code}open('bottom', 'w').close()", timeout_seconds=20).error is None
    assert sandbox.list_files() == ["top"]


@pytest.mark.parametrize(
    "forged",
    [{"stdout": 30_000}, {"stderr": 30_000}, {"value": 30_000}, {"error": 30_000}, {"displays": 5 << 20}],
)
def test_an_answer_is_no_longer_than_its_limits(sandbox, forged):
    ((field, size),) = forged.items()
    forgery = {"error": "['E', 'x' * size, 'x']", "displays": "[{'data': {'a': 'x' * size}, 'is_result': 0}]"}
    code = f"""
import contextlib, json, os, stat, struct
size = {size}
fields = {{'run': 1, 'stdout': '', 'stderr': '', 'value': None, 'error': None, 'limits': [], 'displays': []}}
payload = json.dumps({{**fields, {field!r}: {forgery.get(field, "'x' * size")}}}).encode()
for descriptor in range(3, 50):
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            os.write(descriptor, struct.pack('!I', len(payload)) + payload)
"""
    result = sandbox.run(code)
    assert (result.error.name, result.value) == ("SandboxDied", None)
    assert sandbox.run("1 + 1").value == "2"
