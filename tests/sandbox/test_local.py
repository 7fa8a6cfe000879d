"""What the local backend keeps to itself and leaves behind: nothing, whoever dies and however."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl.errors import SandboxFault
from toolrl.sandbox import LocalSandbox, Mount, SandboxLimits, launcher
from toolrl.sandbox.launcher import Zygote, shared_zygote
from toolrl.sandbox.plumbing import remove_tree


@pytest.fixture(params=["local", "local without namespaces"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


class Sleeper:
    """Code that leaves a sleeping process behind, in a session of its own; found by its command line."""

    def __init__(self) -> None:
        self.seconds = f"86400.{uuid.uuid4().int}"
        self.code = f"import subprocess; subprocess.Popen(['sleep', '{self.seconds}'], start_new_session=True)"

    def running(self) -> bool:
        return runs(self.seconds)


def runs(argument: str) -> bool:
    """Whether a process has this argument."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if argument.encode() in Path("/proc", pid, "cmdline").read_bytes().split(b"\0"):
                return True
    return False


def eventually(condition: Callable[[], bool]) -> bool:
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.02)
    return False


def directory_of(sandbox: LocalSandbox) -> Path:
    return Path(sandbox.run("import os; os.getcwd()").value.strip("'"))


@pytest.mark.parametrize("ending", ["close", "reset", "timeout", "exit"])
def test_processes_that_a_run_left_behind_end_with_the_session(open_sandbox, ending):
    sleeper, sandbox = Sleeper(), open_sandbox()
    assert sandbox.run(sleeper.code).error is None
    assert eventually(sleeper.running)
    if ending == "timeout":
        sandbox.run("while True: pass", timeout_seconds=0.1)
    elif ending == "exit":
        sandbox.run("import os; os._exit(0)")
    else:
        getattr(sandbox, ending)()
    assert not sleeper.running()


def test_a_sandbox_that_nobody_holds_is_closed():
    sleeper, sandbox = Sleeper(), LocalSandbox()
    sandbox.run(sleeper.code)
    directory = directory_of(sandbox)
    del sandbox
    gc.collect()
    assert not sleeper.running()
    assert not directory.exists()


def test_a_directory_goes_however_locked_its_folders_are(sandbox):
    directory = directory_of(sandbox)
    sandbox.run("os.makedirs('a/b/c'); open('a/b/file', 'w').close(); os.symlink('/', 'a/link')")
    assert sandbox.run("for path in ('a/b', 'a', '.'): os.chmod(path, 0)").error is None
    sandbox.close()
    assert not directory.exists()


def test_a_tree_is_removed_however_deep_it_is():
    memory = Path("/dev/shm")
    top = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
    folder = os.open(top, os.O_RDONLY)
    for _ in range(2000):  # deeper than Python's stack, longer than a path may be
        os.mkdir("folder", dir_fd=folder)
        inner = os.open("folder", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    remove_tree(top)
    assert not os.path.exists(top)
    remove_tree(top)


@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.filterwarnings("ignore:sandboxes are not cut off:RuntimeWarning")
def test_the_code_sees_no_secrets_of_ours(monkeypatch, namespaces):
    monkeypatch.setenv("SOME_API_KEY", "do-not-tell")
    zygote = Zygote(namespaces=namespaces)
    with LocalSandbox(zygote=lambda: zygote) as sandbox:
        code = "import os, glob\nseen = repr(os.environ)\nfor path in glob.glob('/proc/[0-9]*/environ'):\n"
        code += "    try: seen += open(path).read()\n    except OSError: pass\n"
        result = sandbox.run(
            f"{code}sorted(os.environ), 'do-not-tell' in seen, sorted(map(int, os.listdir('/proc/self/fd')))"
        )
    names, leaked, descriptors = eval(result.value)
    assert set(names) == {"PATH", "LANG", "HOME", "TMPDIR"}
    assert len(descriptors) <= 8
    if zygote.namespaces or os.geteuid() == 0:
        assert not leaked
    zygote.close()


def test_with_namespaces_the_code_changes_no_file_but_its_own(tmp_path):
    os.chmod(tmp_path, 0o777)
    with LocalSandbox() as sandbox:
        if not sandbox._place.zygote.namespaces:
            pytest.skip("this kernel does not permit user namespaces")
        for path in (tmp_path / "file", Path(tempfile.gettempdir()) / uuid.uuid4().hex):
            assert sandbox.run(f"open({str(path)!r}, 'w')").error is not None
            assert not path.exists()
        assert sandbox.run("import os; os.listdir('/proc').count('1'), os.getpid()").value == "(1, 1)"


@pytest.mark.parametrize("attempt", ["unshare(0x10000000)", "unshare(0x20000)", "umount2(b'/proc', 2)"])
def test_the_code_has_no_privileges_and_gains_none(sandbox, attempt):
    sandbox.run("import ctypes; libc = ctypes.CDLL(None, use_errno=True)")
    status = sandbox.run("print(open('/proc/self/status').read())").stdout
    assert "CapEff:\t0000000000000000" in status
    assert "CapPrm:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    if "10000000" not in attempt or sandbox._place.zygote.namespaces:
        assert sandbox.run(f"libc.{attempt}").value == "-1"


def test_a_forked_child_has_a_zygote_of_its_own_and_leaves_ours_alone():
    with LocalSandbox() as sandbox:
        sandbox.run("x = 1")
        reader, writer = os.pipe()
        launcher._shared_lock.acquire()  # as if another thread were just opening one
        pid = os.fork()
        if pid:
            launcher._shared_lock.release()
        else:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(60)
                try:
                    sandbox.run("x")
                except SandboxFault as error:
                    os.write(writer, str(error).encode())
                sandbox.reset()
                with LocalSandbox() as other:
                    results = sandbox.run("'x' in globals()").value, other.run("2").value
                os.write(writer, repr((*results, shared_zygote()._process.pid)).encode())
                sandbox.close()
                shared_zygote().close()
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        with open(reader) as file:
            said = file.read()
        assert "call reset() after a fork" in said
        assert "('False', '2', " in said
        assert str(shared_zygote()._process.pid) not in said
        assert sandbox.run("x").value == "1"


SCRIPT = """
import sys
from toolrl.sandbox import LocalSandbox
sandbox, other = LocalSandbox(), LocalSandbox()
other.run(sys.argv[1])
print(other.run("import os; os.getcwd()").value, flush=True)
if sys.argv[2] == "run":
    sandbox.run("while True: pass", timeout_seconds=3600)
if sys.argv[2] == "raise":
    raise RuntimeError
"""


@pytest.mark.parametrize(
    ("doing", "ended_by"),
    [
        ("run", signal.SIGKILL),
        ("run", signal.SIGTERM),
        ("run", signal.SIGINT),
        ("raise", None),
        ("exit", None),
    ],
)
def test_nothing_is_left_when_the_parent_ends(doing, ended_by):
    sleeper = Sleeper()
    command = [sys.executable, "-c", SCRIPT, sleeper.code, doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        directory = Path(parent.stdout.readline().strip().strip("'")).parent
        alive = not ended_by or (
            eventually(sleeper.running) and runs(str(directory))
        )  # what the zygote forks has it on its command line
        if ended_by:
            parent.send_signal(ended_by)
    assert directory.name.startswith(f"toolrl-sandbox-{os.stat('/proc/self/ns/pid').st_ino}-{parent.pid}-")
    assert alive
    assert eventually(lambda: not sleeper.running())
    assert eventually(lambda: not runs(str(directory)))
    assert eventually(lambda: not directory.exists())


def test_a_copy_of_our_descriptors_keeps_no_sandbox_alive():
    code = """
import ctypes, os, time
from toolrl.sandbox import LocalSandbox
sandbox = LocalSandbox()
if ctypes.CDLL(None).fork() == 0:  # unseen by Python's hooks
    print(os.getpid(), flush=True)
    time.sleep(3600)
os.kill(os.getpid(), 9)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        copy = int(parent.stdout.readline())
    try:
        assert eventually(lambda: not list(Path(tempfile.gettempdir()).glob(f"toolrl-sandbox-*-{parent.pid}-*")))
    finally:
        os.kill(copy, signal.SIGKILL)


def test_equal_code_gives_equal_output_from_another_zygote():
    code = "import random; random.random(), hash('text'), list({'a', 'b', 'c', 'd'})"
    other = Zygote()
    with LocalSandbox() as first, LocalSandbox(zygote=lambda: other) as second:
        assert first.run(code).value == second.run(code).value
    other.close()


def test_directories_of_the_dead_are_removed_and_of_the_living_kept():
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = os.stat("/proc/self/ns/pid").st_ino
    leftover = Path(tempfile.mkdtemp(prefix=f"toolrl-sandbox-{here}-{dead.pid}-1-"))
    recycled = Path(tempfile.mkdtemp(prefix=f"toolrl-sandbox-{here}-{os.getpid()}-1-"))
    (leftover / "0").mkdir()
    (leftover / "0" / "file").write_text("old")
    with LocalSandbox() as sandbox:
        alive = directory_of(sandbox).parent
        Zygote().close()
        assert not leftover.exists()
        assert not recycled.exists()
        assert alive.exists()


def test_a_zygote_that_was_killed_is_replaced():
    zygote = shared_zygote()
    os.kill(zygote._process.pid, signal.SIGKILL)
    zygote._process.wait()
    with LocalSandbox() as sandbox:
        assert sandbox.run("1").value == "1"


@pytest.mark.parametrize(("executable", "reason"), [("/bin/false", "did not start"), ("/nonexistent", "No such file")])
def test_a_sandbox_that_cannot_be_started_is_a_fault_and_leaves_nothing(monkeypatch, tmp_path, executable, reason):
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(SandboxFault, match=reason):
        LocalSandbox(zygote=Zygote)
    assert list(tmp_path.iterdir()) == []


def test_a_closed_zygote_is_a_fault():
    zygote = Zygote()
    sandbox = LocalSandbox(SandboxLimits(), zygote=lambda: zygote)
    zygote.close()
    with pytest.raises(SandboxFault):
        sandbox.run("1")
    sandbox.close()


def test_packages_are_there_on_request_and_start_from_one_seed():
    draw = "import numpy, random; numpy.random.random(), random.random()"
    with LocalSandbox(packages=True) as first, LocalSandbox(packages=True) as second, LocalSandbox() as plain:
        assert first.run(draw).value == second.run(draw).value
        assert plain.run(draw).error.name == "ModuleNotFoundError"


def test_figures_are_shown_as_png_when_asked_for_and_at_the_end_of_a_run():
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.plot([2, 1])\ndisplay('after')"
    with LocalSandbox(packages=True) as sandbox:
        result = sandbox.run(code)
        assert (result.error, result.stderr) == (None, "")
        assert [sorted(show.data) for show in result.displays] == [
            ["image/png", "text/plain"],
            ["text/plain"],
            ["image/png", "text/plain"],
        ]
        assert all(figure.startswith(b"\x89PNG") for figure in result.figures)
        assert sandbox.run("plt.get_fignums()").value == "[]"


def test_tables_and_formulas_have_rich_forms():
    with LocalSandbox(packages=True) as sandbox:
        table = sandbox.run("import pandas, sympy; pandas.DataFrame({'a': [1]})").displays
        formula = sandbox.run("sympy.sqrt(2)").displays
    assert "<table" in table[0].data["text/html"]
    assert r"\sqrt{2}" in formula[0].data["text/latex"]


def test_files_that_the_code_may_not_read_are_mounted_as_a_copy(tmp_path):
    (tmp_path / "folder").mkdir(0o700)
    (tmp_path / "folder" / "secret").write_text("text")
    (tmp_path / "folder" / "secret").chmod(0o600)
    with LocalSandbox(mounts=[Mount(tmp_path / "folder", "data")]) as sandbox:
        assert sandbox.run("open('data/secret').read()").value == "'text'"
        assert sandbox.run("open('data/secret', 'w')").error.name in ("OSError", "PermissionError")
        copies = sandbox._place._prepared.copies
    assert not copies.exists()
