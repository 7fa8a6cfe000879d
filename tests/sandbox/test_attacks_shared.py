"""Attacks on what code shares: mounts of this machine, other sessions over the same files, packages.

At every level of isolation, from a sandbox's first session and from a further one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolrl.sandbox import LocalSandbox, Mount, Session
from toolrl.sandbox.local.launcher import Zygote

namespaces = pytest.mark.parametrize("level", ["full", "no-landlock"])


@pytest.fixture
def source() -> Iterator[Path]:
    """A folder with a file, both writable by every user."""
    with tempfile.TemporaryDirectory(prefix="toolrl-source-") as name:
        folder = Path(name)
        (folder / "file").write_text("original")
        folder.chmod(0o777)
        (folder / "file").chmod(0o666)
        yield folder


@pytest.fixture(params=["first", "further"])
def session(request: pytest.FixtureRequest, open_sandbox: Callable[..., LocalSandbox], source: Path) -> Session:
    sandbox = open_sandbox([Mount(source, "data"), Mount(source / "file", "alone")])
    return sandbox if request.param == "first" else sandbox.new_session()


def content(folder: Path) -> list[tuple]:
    """Everything about a folder that could be changed."""
    paths = [folder, *sorted(folder.rglob("*"))]
    states = [(path, path.read_bytes() if path.is_file() else b"", path.lstat()) for path in paths]
    return [(*rest, state.st_mode, state.st_uid, state.st_mtime_ns, state.st_nlink) for *rest, state in states]


@pytest.mark.parametrize(
    "attempt",
    [
        "open('data/file', 'w')",
        "open('alone', 'a')",
        "open('data/new', 'x')",
        "os.truncate('data/file', 0)",
        "os.remove('data/file')",
        "os.remove('alone')",
        "os.rename('data', 'moved'); os.mkdir('data')",
        "os.rename('data/file', 'taken')",
        "os.link('data/file', 'link'); open('link', 'w')",
        "os.symlink('data/file', 'link'); open('link', 'w')",
        "os.chmod('data/file', 0o666); open('data/file', 'w')",
        "os.chmod('alone', 0o666); open('alone', 'w')",
        "os.utime('data/file', (0, 0))",
        "open(f'/proc/self/fd/{os.open(\"data/file\", os.O_RDONLY)}', 'w')",
        "import shutil; shutil.rmtree('data')",
        "import ctypes; ctypes.CDLL(None).umount2(b'data', 2); open('data/file', 'w')",
        "open(source + '/file', 'w')",
        "open(source + '/new', 'x')",
    ],
)
def test_mounted_files_are_never_changed(level, session, source, attempt):
    if level == "none" and "source" in attempt:
        pytest.skip("without isolation the code may write what its user may")
    before = content(source)
    assert session.run("open('data/file').read(), open('alone').read()").value == "('original', 'original')"
    session.run(f"import os\nsource = {str(source)!r}\n{attempt}")
    assert content(source) == before


@namespaces
@pytest.mark.parametrize("name", ["data", "alone"])
def test_a_mount_can_be_neither_removed_nor_replaced(session, name):
    for attempt in ("os.rename(name, 'moved')", "os.rename('own', name)", "os.unlink(name)", "os.rmdir(name)"):
        assert session.run(f"import os\nname = {name!r}; open('own', 'w').close()\n{attempt}").error is not None
    assert session.run("open('data/file').read(), open('alone').read()").value == "('original', 'original')"


@namespaces
def test_mounts_do_not_count_as_files(open_sandbox, source):
    sandbox = open_sandbox([Mount(source, "data"), Mount(source / "file", "alone")], files=5)
    code = "import itertools\nfor number in itertools.count(): open(f'{number}', 'w').close()"
    assert sandbox.run(code).limits_hit == ("disk",)
    assert sandbox.run("number").value == "5"


def test_every_session_has_the_same_isolation(sandbox):
    look = """
import os
status = [line for line in open('/proc/self/status') if line.startswith(('Uid', 'Cap', 'NoNewPrivs', 'Seccomp'))]
status, os.getcwd(), sorted(os.environ), os.getpid() == 1"""
    assert sandbox.new_session().run(look).value == sandbox.run(look).value


@namespaces
def test_sessions_neither_see_nor_signal_each_others_processes(sandbox):
    session = sandbox.new_session()
    assert session.run("import subprocess; sleeper = subprocess.Popen(['sleep', '600'])").error is None
    listing = "import os; sorted(int(name) for name in os.listdir('/proc') if name.isdigit())"
    assert sandbox.run(listing).value == "[1]"
    sandbox.run("for pid in range(2, 1000):\n    try: os.kill(pid, 9)\n    except OSError: pass")
    assert session.run("sleeper.poll() is None").value == "True"
    assert len(eval(session.run(listing).value)) == 2


@namespaces
def test_each_session_has_its_own_limit_on_processes(open_sandbox):
    sandbox = open_sandbox(processes=8)
    sessions = [sandbox, *(sandbox.new_session() for _ in range(9))]
    code = "import os\nforks = 0\ntry:\n    while (pid := os.fork()): forks += 1\n"
    code += "    import time; time.sleep(600)\nexcept OSError: pass\nforks"
    assert [session.run(code).value for session in sessions] == ["7"] * 10


@namespaces
def test_sessions_share_one_disk_whichever_of_them_is_alive(open_sandbox):
    sandbox = open_sandbox(disk_mb=4)
    session = sandbox.new_session()
    assert sandbox.run("open('a', 'wb').write(bytes(3 << 20)); open('/dev/shm/b', 'w').close()").error is None
    assert session.run("open('c', 'wb').write(bytes(2 << 20))").limits_hit == ("disk",)
    assert sandbox.run("import os; os._exit(0)").error.name == "SandboxDied"
    assert sandbox.run("import os; sorted(os.listdir())").value == "['a', 'c']"
    assert session.run("import os; os.listdir('/dev/shm'), os.path.exists('/proc/self')").value == "(['b'], True)"


def test_a_session_that_died_can_be_replaced_any_number_of_times(sandbox):
    session = sandbox.new_session()
    for number in range(3):
        assert sandbox.run(f"import os; open('a{number}', 'w').close(); os._exit(0)").error.name == "SandboxDied"
        assert session.run(f"import os; open('b{number}', 'w').close(); os._exit(0)").error.name == "SandboxDied"
    assert sandbox.list_files() == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert session.run("import os; len(os.listdir())").value == "6"


def test_deep_trees_and_locked_folders_can_be_listed(sandbox):
    code = "import os\nopen('top', 'w').close(); os.mkdir('locked'); open('locked/file', 'w').close()\n"
    code += "os.chmod('locked', 0)\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')\nopen('deep', 'w').close()"
    assert sandbox.run(code).error is None
    found = [path for path in sandbox.list_files() if path != "locked/file"]
    assert found == ["d/" * 1100 + "deep", "top"]


def test_packages_are_read_only_at_every_level(level, zygote):
    with_packages = Zygote(without=[name for name, why in zygote.active.problems.items()], packages=True)
    with LocalSandbox(isolation="none", zygote=lambda: with_packages) as sandbox:
        assert sandbox.level == level
        for session in (sandbox, sandbox.new_session()):
            code = "import os, numpy\nimport numpy.testing\nfolder = os.path.dirname(numpy.__file__)\n"
            assert session.run(f"{code}int(numpy.arange(4).sum())").value == "6"
            if level != "none":
                assert session.run("open(folder + '/attack', 'x')").error.name in ("OSError", "PermissionError")
                assert session.run("open(numpy.__file__, 'r+b')").error.name in ("OSError", "PermissionError")
    with_packages.close()
