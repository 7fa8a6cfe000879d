"""The local backend leaves nothing behind, whichever process dies and however."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import pytest

from toolrl.errors import SandboxFault
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.local import launcher
from toolrl.sandbox.local.files import Files
from toolrl.sandbox.local.launcher import Zygote, shared_zygote
from toolrl.support.cleanup import remove_tree


class Sleeper:
    """Code that leaves a sleeping process behind in its own process session, found by its command line."""

    def __init__(self) -> None:
        self.seconds = f"86400.{uuid.uuid4().int}"
        self.code = f"import subprocess; subprocess.Popen(['sleep', '{self.seconds}'], start_new_session=True)"

    def running(self) -> bool:
        return runs(self.seconds)


def runs(argument: str) -> bool:
    """Whether a process has this argument."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # it has ended
            if argument.encode() in Path("/proc", pid, "cmdline").read_bytes().split(b"\0"):
                return True
    return False


def directory_of(sandbox: LocalSandbox) -> Path:
    """The working directory as seen from here; with namespaces, the folder that all sandboxes share."""
    zygote = sandbox.workspace.zygote
    return Path(zygote.directory if zygote.active.holds["namespaces"] else sandbox.workspace.directory)


def is_left(directory: Path) -> bool:
    """Whether a sandbox has left files; with namespaces the shared folder is empty from outside."""
    return directory.exists() and (not shared_zygote().active.holds["namespaces"] or any(directory.iterdir()))


def folder_around(directory: Path) -> Path:
    """The folder of the zygote."""
    return next(path for path in (directory, *directory.parents) if path.name.startswith("toolrl-sandbox-"))


@pytest.mark.parametrize("ending", ["close", "reset"])
def test_processes_of_another_session_end_with_the_sandbox(open_sandbox, eventually, ending):
    sleeper, sandbox = Sleeper(), open_sandbox()
    session = sandbox.new_session()
    assert session.run(f"{sleeper.code}\nopen('left', 'w').close()").error is None
    assert eventually(sleeper.running)
    getattr(sandbox, ending)()
    assert not sleeper.running()
    if ending == "reset":
        assert sandbox.list_files() == []


@pytest.mark.parametrize("ending", ["close", "reset", "timeout", "exit"])
def test_processes_that_a_run_left_behind_end_with_the_session(open_sandbox, eventually, ending):
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


@pytest.mark.parametrize("level", ["full", "none"])
def test_many_sandboxes_can_wait_for_their_first_run(open_sandbox):
    opened = [open_sandbox() for _ in range(120)]
    assert all(sandbox.run("1").value == "1" for sandbox in reversed(opened))  # when all others are waiting already
    assert opened[0].run("import resource; resource.getrlimit(resource.RLIMIT_NOFILE)").value == "(128, 128)"


def test_an_unreferenced_sandbox_is_closed():
    sleeper, sandbox = Sleeper(), LocalSandbox()
    sandbox.run(sleeper.code)
    directory = directory_of(sandbox)
    del sandbox
    gc.collect()
    assert not sleeper.running()
    assert not is_left(directory)


def test_a_directory_with_locked_folders_is_removed(sandbox):
    directory = directory_of(sandbox)
    sandbox.run("import os; os.makedirs('a/b/c'); open('a/b/file', 'w').close(); os.symlink('/', 'a/link')")
    assert sandbox.run("for path in ('a/b', 'a', '.'): os.chmod(path, 0)").error is None
    sandbox.close()
    assert not is_left(directory)


def test_a_tree_of_any_depth_is_removed():
    memory = Path("/dev/shm")
    top = tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None)
    folder = os.open(top, os.O_RDONLY)
    for _ in range(2000):  # deeper than Python's stack, and longer than PATH_MAX
        os.mkdir("folder", dir_fd=folder)
        inner = os.open("folder", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    remove_tree(top)
    assert not os.path.exists(top)
    remove_tree(top)


def test_a_forked_child_starts_its_own_zygote_and_leaves_ours_alone():
    with LocalSandbox() as sandbox:
        sandbox.run("x = 1")
        further = sandbox.new_session()
        reader, writer = os.pipe()
        launcher.shared_lock.acquire()  # as if another thread were opening one
        pid = os.fork()
        if pid:
            launcher.shared_lock.release()
        else:
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(60)
                try:
                    sandbox.run("x")
                except SandboxFault as error:
                    os.write(writer, str(error).encode())
                try:
                    further.run("1")
                except SandboxFault as error:
                    os.write(writer, str(error).encode())
                sandbox.reset()
                with LocalSandbox() as other:
                    results = sandbox.run("'x' in globals()").value, other.run("2").value
                os.write(writer, repr((*results, shared_zygote().process.pid)).encode())
                sandbox.close()
                shared_zygote().close()
            finally:
                os._exit(0)
        os.close(writer)
        os.waitpid(pid, 0)
        with open(reader) as file:
            said = file.read()
        assert "call reset() after a fork" in said
        assert "open a new one after a fork" in said
        assert "('False', '2', " in said
        assert str(shared_zygote().process.pid) not in said
        assert sandbox.run("x").value == "1"
        assert further.run("2").value == "2"


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
def test_nothing_is_left_when_the_parent_ends(eventually, doing, ended_by):
    sleeper = Sleeper()
    command = [sys.executable, "-c", SCRIPT, sleeper.code, doing]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout.readline()
        (directory,) = Path(tempfile.gettempdir()).glob(f"toolrl-sandbox-*-{parent.pid}-*")
        alive = not ended_by or (
            eventually(sleeper.running) and runs(str(directory))
        )  # forks of the zygote have it on their command line
        if ended_by:
            parent.send_signal(ended_by)
    assert directory.name.startswith(f"toolrl-sandbox-{os.stat('/proc/self/ns/pid').st_ino}-{parent.pid}-")
    assert alive
    assert eventually(lambda: not sleeper.running())
    assert eventually(lambda: not runs(str(directory)))
    assert eventually(lambda: not directory.exists())


def test_nothing_is_left_when_the_parent_ends_while_the_zygote_starts(eventually):
    code = """
import os, subprocess
from toolrl.sandbox.local.launcher import Zygote
start = subprocess.Popen
def start_and_die(*arguments, **settings):
    start(*arguments, **settings)
    os.kill(os.getpid(), 9)
subprocess.Popen = start_and_die
Zygote()
"""
    parent = subprocess.Popen([sys.executable, "-c", code])  # not waited for yet, so that its pid stays valid

    def directories() -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob(f"toolrl-sandbox-*-{parent.pid}-*"))

    try:
        assert eventually(directories)
        directory = directories()[0]
        assert eventually(lambda: runs(str(directory)))
        assert eventually(lambda: not runs(str(directory)))
        assert not directory.exists()
    finally:
        parent.wait()


def test_inherited_descriptors_keep_no_sandbox_alive(eventually):
    code = """
import ctypes, os, time
from toolrl.sandbox import LocalSandbox
sandbox = LocalSandbox()
if ctypes.CDLL(None).fork() == 0:  # bypassing Python's fork hooks
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


def test_directories_of_dead_processes_are_removed_and_of_live_ones_kept():
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = os.stat("/proc/self/ns/pid").st_ino
    leftover = Path(tempfile.mkdtemp(prefix=f"toolrl-sandbox-{here}-{dead.pid}-1-"))
    recycled = Path(tempfile.mkdtemp(prefix=f"toolrl-sandbox-{here}-{os.getpid()}-1-"))
    (leftover / "0").mkdir()
    (leftover / "0" / "file").write_text("old")
    with LocalSandbox() as sandbox:
        alive = folder_around(directory_of(sandbox))
        Zygote().close()
        assert not leftover.exists()
        assert not recycled.exists()
        assert alive.exists()


def test_a_zygote_that_was_killed_is_replaced(monkeypatch):
    monkeypatch.setattr(launcher, "_shared", {})
    zygote = shared_zygote()
    with LocalSandbox() as old, LocalSandbox() as unused:
        old.run("1")
        os.kill(zygote.process.pid, signal.SIGKILL)
        zygote.process.wait()
        with LocalSandbox() as sandbox:
            assert sandbox.run("1").value == "1"
        if zygote.active.holds["namespaces"]:  # the kernel has killed its descendants
            with pytest.raises(SandboxFault, match="vanished"):
                old.run("1")
            for use in (lambda: old.run("1"), old.new_session, lambda: old.run("1")):
                with pytest.raises(SandboxFault, match=r"reset\(\) opens a new sandbox"):
                    use()
        else:
            assert old.run("import os; os._exit(0)").error.name == "SandboxDied"
        for sandbox in (old, unused):
            sandbox.reset()
            assert sandbox.run("1").value == "1"
            assert sandbox.new_session().run("2").value == "2"
    shared_zygote().close()


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


def test_packages_are_available_on_request_and_seeded():
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
            ["e2b/chart", "image/png", "text/plain"],  # the chart only if e2b-charts is installed
            ["text/plain"],
            ["e2b/chart", "image/png", "text/plain"],
        ]
        assert all(figure.startswith(b"\x89PNG") for figure in result.figures)
        assert sandbox.run("plt.get_fignums()").value == "[]"


def test_tables_and_formulas_have_rich_forms():
    with LocalSandbox(packages=True) as sandbox:
        table = sandbox.run("import pandas, sympy; pandas.DataFrame({'a': [1]})").displays
        formula = sandbox.run("sympy.sqrt(2)").displays
    assert "<table" in table[0].data["text/html"]
    assert r"\sqrt{2}" in formula[0].data["text/latex"]


@pytest.mark.parametrize("level", ["full", "no-landlock"])
def test_files_that_this_machine_cannot_open_are_a_fault(sandbox):
    sandbox.write_file("file", b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))  # no more descriptors
    try:
        for use in (lambda: sandbox.read_file("file"), lambda: sandbox.write_file("file", b""), sandbox.list_files):
            with pytest.raises(SandboxFault, match="Too many open files"):
                use()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sandbox.read_file("file") == b"x"


@pytest.mark.parametrize("level", ["full"])
def test_a_full_disk_of_the_machine_is_a_fault(open_sandbox):
    place = open_sandbox(disk_mb=1).workspace
    shared = Files(place.open_directory, place.uid, (), own_space=False)
    with pytest.raises(SandboxFault, match="No space left"):
        shared.write("big", b"x" * (2 << 20))
