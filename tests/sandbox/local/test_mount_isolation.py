"""Code can read mounts without affecting this machine: neither its locks nor its links reach the originals."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolrl.sandbox import LocalSandbox, Mount
from toolrl.sandbox.local import launcher
from toolrl.sandbox.local.launcher import Zygote

LOCK = """
import fcntl, os
held = []
for path in ("alone", "data/file", "data", "data/below"):
    descriptor = os.open(path, os.O_RDONLY)
    held.append(descriptor)
    for take in ({takes}):
        try: take(descriptor)
        except OSError: pass
len(held)"""
TAKES = {
    "flock": "lambda d: fcntl.flock(d, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "POSIX": "lambda d: fcntl.lockf(d, fcntl.LOCK_SH | fcntl.LOCK_NB)",
    "open file description": "lambda d: fcntl.fcntl(d, 37, __import__('struct').pack('hhqqi', 0, 0, 0, 0, 0))",
    "lease": "lambda d: fcntl.fcntl(d, fcntl.F_SETLEASE, fcntl.F_RDLCK)",
}


@pytest.fixture
def source() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="toolrl-mounted, with:odd\\signs ", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "below").mkdir(0o777)
        (folder / "below" / "file").write_text("below")
        (folder / "file").write_text("original")
        (folder / "file").chmod(0o666)
        yield folder


@pytest.fixture(params=["first", "further"])
def session(request, open_sandbox: Callable[..., LocalSandbox], source: Path):
    sandbox = open_sandbox([Mount(source, "data"), Mount(source / "file", "alone")])
    return sandbox if request.param == "first" else sandbox.new_session()


@pytest.mark.parametrize("kind", TAKES)
def test_locks_do_not_reach_the_original_file(session, source, kind):
    assert session.run(LOCK.format(takes=f"{TAKES[kind]},")).value == "4"
    for path in (source, source / "below", source / "file"):
        descriptor = os.open(path, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
    with open(source / "file", "r+") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(os.open(source / "file", os.O_WRONLY | os.O_NONBLOCK))


NO_LAYERS = """
def refuse(kind, *arguments, mount=zygote.views.mount, **options):
    if kind == "overlay": raise OSError("no such file system")
    mount(kind, *arguments, **options)
zygote.views.mount = refuse
zygote.main()"""


def test_without_overlays_locking_is_a_no_op(monkeypatch, zygote_at, source):
    zygote_at("full")
    monkeypatch.setattr(launcher, "START_CODE", launcher.START_CODE.replace("\nzygote.main()", NO_LAYERS))
    zygote = Zygote()
    assert zygote.active.level == "full"
    mounts = [Mount(source, "data"), Mount(source / "file", "alone")]
    with LocalSandbox(isolation="none", zygote=lambda: zygote, mounts=mounts) as sandbox:
        for session in (sandbox, sandbox.new_session()):
            for kind in TAKES:
                test_locks_do_not_reach_the_original_file(session, source, kind)
            code = "import sqlite3\nwith sqlite3.connect(':memory:') as own: own.execute('create table numbers (n)')\n1"
            assert session.run(code).value == "1"
    zygote.close()


def test_a_mounted_database_stays_usable_for_the_trainer(session, source):
    with sqlite3.connect(source / "file.db") as trainer:
        trainer.execute("create table numbers (n)")
        trainer.execute("insert into numbers values (1)")
    code = "import sqlite3\nreader = sqlite3.connect('file:data/file.db?mode=ro', uri=True, isolation_level=None)\n"
    code += "reader.execute('begin'); reader.execute('select * from numbers').fetchall()"
    if session.run("import os; os.path.exists('data/file.db')").value == "True":  # no copy
        assert session.run(code).value == "[(1,)]"
    with sqlite3.connect(source / "file.db", timeout=0) as trainer:
        trainer.execute("insert into numbers values (2)")
    trainer.close()


def test_locks_on_the_codes_own_files_work(session):
    code = """
import fcntl, os, sqlite3
first, second = (sqlite3.connect("own.db", timeout=0, isolation_level=None) for _ in range(2))
first.execute("create table numbers (n)"); first.execute("begin exclusive")
try: second.execute("insert into numbers values (1)")
except sqlite3.OperationalError as error: print(error)
one, other = open("own", "w"), open("own", "w")
fcntl.flock(one, fcntl.LOCK_EX)
try: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: print("held")
if os.fork() == 0:
    try: fcntl.lockf(open("own.db", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0x40000000)
    except OSError: print("held by another", flush=True)
    os._exit(0)
os.wait()
None"""
    assert session.run(code).stdout == "database is locked\nheld\nheld by another\n"


def test_links_in_a_mount_lead_nowhere_and_change_nothing(open_sandbox, source):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        secret = Path(name, "secret")
        secret.write_text("do-not-tell")
        secret.chmod(0o600)
        Path(name).chmod(0o700)
        (source / "link").symlink_to(secret)
        (source / "folder").symlink_to(name)
        (source / "within").symlink_to("file")
        os.mkfifo(source / "pipe")
        (source / "below").chmod(0o700)  # must be copied if the code runs as another user
        sandbox = open_sandbox([Mount(source, "data")])
        code = "import os\nfor path in ('data/link', 'data/folder/secret'):\n    try: print(open(path).read())\n"
        code += "    except OSError as error: print(type(error).__name__)\nopen('data/within').read()"
        result = sandbox.run(code)
        if sandbox.level != "none" or os.geteuid() == 0:
            assert "do-not-tell" not in result.stdout
        assert result.value == "'original'"
        assert secret.stat().st_mode & 0o777 == 0o600


def test_programs_in_a_copy_can_be_started(open_sandbox, source):
    (source / "program").write_text("#!/bin/sh\necho started\n")
    (source / "program").chmod(0o755)
    (source / "below").chmod(0o700)
    sandbox = open_sandbox([Mount(source, "data")])
    assert sandbox.run("import subprocess; subprocess.run(['data/program'])").stdout == "started\n"


@pytest.mark.parametrize("level", ["full", "no-landlock"])
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, whose folders are closed to others")
def test_no_descriptor_leads_into_inaccessible_folders(sandbox):
    code = """
import os, stat
links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
kinds = [os.readlink(link) for link in links if os.path.lexists(link)]
[kind for kind in kinds if kind.startswith("/") and not kind.startswith(("/dev/null", "/memfd:", "/proc/"))]"""
    assert sandbox.run(code).value == "[]"
    assert sandbox.new_session().run(code).value == "[]"
