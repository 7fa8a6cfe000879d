"""Mounts in difficult surroundings; the contract of mounts is in `test_sessions`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolrl.errors import SandboxFault
from toolrl.sandbox import LocalSandbox, Mount
from toolrl.sandbox.local.launcher import Zygote


@pytest.fixture(name="late")
def late_fixture() -> Iterator[tuple[Zygote, Path]]:
    """A zygote without Landlock, and a writable file system that was mounted after it started."""
    zygote = Zygote(without=("landlock",))
    if os.geteuid() != 0 or not zygote.active.holds["namespaces"]:
        zygote.close()
        pytest.skip("needs root, to mount something, and namespaces")
    with tempfile.TemporaryDirectory() as name:  # pytest's are accessible to root only
        folder = Path(name)
        folder.chmod(0o777)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "none", folder], check=True)
        (folder / "file").touch()
        yield zygote, folder
        subprocess.run(["umount", folder], check=True)
    zygote.close()


MOUNTED_LATER = """
import os, subprocess, sys
from toolrl.sandbox import LocalSandbox
from toolrl.sandbox.local.launcher import Zygote
zygote, folder = Zygote(without=("landlock",)), sys.argv[1]
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=777", "none", folder], check=True)
with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
    print(sandbox.run(f"open('{folder}/new', 'w')").error.name, os.listdir(folder))
zygote.close()"""


@pytest.mark.usefixtures("late")  # for its requirements
def test_later_mounts_of_the_machine_do_not_propagate_into_sandboxes():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:  # /tmp inside is not the machine's
        os.chmod(folder, 0o777)
        spread = ["unshare", "--mount", "--propagation", "shared"]
        command = [*spread, sys.executable, "-c", MOUNTED_LATER, folder]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "OSError []\n"


def test_mounting_a_later_mount_of_the_machine_is_refused(late):
    zygote, folder = late
    sandbox = LocalSandbox(isolation="none", zygote=lambda: zygote, mounts=[Mount(folder, "data")])
    with sandbox, pytest.raises(SandboxFault, match=r"was mounted after .* restart the program"):
        sandbox.run("1")


def test_files_that_the_codes_user_cannot_read_are_mounted_as_a_copy(tmp_path):
    (tmp_path / "folder").mkdir(0o700)
    (tmp_path / "folder" / "secret").write_text("text")
    (tmp_path / "folder" / "secret").chmod(0o600)
    with LocalSandbox(mounts=[Mount(tmp_path / "folder", "data")]) as sandbox:
        assert sandbox.run("open('data/secret').read()").value == "'text'"
        assert sandbox.run("open('data/secret', 'w')").error.name in ("OSError", "PermissionError")
        copies = sandbox.workspace.prepared.copies
    assert not copies.exists()
