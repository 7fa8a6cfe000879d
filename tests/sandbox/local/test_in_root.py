"""Folders of a sandbox that its root has too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolrl import ConfigError
from toolrl.sandbox import Level, LocalSandbox, Mount, SandboxLimits
from toolrl.sandbox.local.launcher import Zygote

namespaces = pytest.mark.parametrize("level", ["full", "no-landlock"])


@pytest.fixture
def sandbox(zygote: Zygote) -> Iterator[LocalSandbox]:
    with tempfile.TemporaryDirectory(prefix="toolrl-source-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "test.sh").write_text("original")
        limits, mounts = SandboxLimits(processes=64, files=16), [Mount(folder, "shown")]
        with LocalSandbox(
            limits, isolation="none", mounts=mounts, in_root=["work-here", "shown"], zygote=lambda: zygote
        ) as sandbox:
            yield sandbox
        assert sorted(path.name for path in folder.iterdir()) == ["test.sh"]
        assert (folder / "test.sh").read_text() == "original"


@namespaces
def test_a_folder_has_two_paths_in_every_session(sandbox: LocalSandbox, level: Level) -> None:
    sandbox.write_file("work-here/a", b"1")
    assert sandbox.run("open('/work-here/a').read(), open('/shown/test.sh').read()").value == "('1', 'original')"
    further = sandbox.new_session()
    assert further.run("open('/work-here/b', 'w').write('2')").error is None
    assert sandbox.read_file("work-here/b") == b"2"
    assert sandbox.run("import os; os._exit(0)").error is not None
    assert sandbox.run("import os; sorted(os.listdir('/work-here'))").value == "['a', 'b']"
    assert sandbox.level == level


@namespaces
@pytest.mark.parametrize(
    "attempt",
    [
        "open('/new', 'w')",
        "os.mkdir('/new')",
        "os.rename('/work-here', '/moved')",
        "os.rmdir('/work-here')",
        "os.rename('/shown', '/work-here/shown')",
        "open('/shown/test.sh', 'w')",
        "os.unlink('/shown/test.sh')",
        "open('/shown/new', 'w')",
        "open('/etc/passwd', 'a')",
        "os.chmod('/', 0o777)",
        "os.chmod('/shown/test.sh', 0o777)",
        "os.unlink('/bin')",
        "os.link('/shown/test.sh', '/work-here/link')",
        "os.listdir('/work-here/../../..' + source)",
        "open('/proc/1/root' + source + '/new', 'w')",
        "os.chroot('/work-here')",
        "import ctypes; (ctypes.CDLL(None).umount2(b'/', 2) or ctypes.CDLL(None).umount2(b'/shown', 2)) and 1 / 0",
    ],
)
def test_the_root_and_mounts_in_it_cannot_be_changed(sandbox: LocalSandbox, attempt: str) -> None:
    source = str(sandbox.mounts[0].source)
    for session in (sandbox, sandbox.new_session()):
        assert session.run(f"import os\nsource = {source!r}\n{attempt}").error is not None


@namespaces
def test_the_limits_on_files_hold_there_too(sandbox: LocalSandbox) -> None:
    code = "import itertools\nfor number in itertools.count(): open(f'/work-here/{number}', 'w').close()"
    assert sandbox.run(code).limits_hit == ("disk",)
    assert sandbox.run("number").value in ("16", "17")


@pytest.mark.parametrize("level", ["no-userns", "none"])
def test_without_namespaces_they_are_refused(zygote: Zygote, level: Level) -> None:
    with pytest.raises(ConfigError, match=f"isolation level '{level}', at which none can have its own folders"):
        LocalSandbox(isolation="none", in_root=["app"], zygote=lambda: zygote)


@pytest.mark.parametrize("name", ["usr", "tmp", "", ".", "..", "a/b", "a\0"])
def test_a_name_that_the_root_cannot_take_is_refused(zygote_at: Callable[[Level], Zygote], name: str) -> None:
    with pytest.raises(ConfigError, match="must be a plain name that this machine's root does not have"):
        LocalSandbox(isolation="none", in_root=[name], zygote=lambda: zygote_at("full"))
