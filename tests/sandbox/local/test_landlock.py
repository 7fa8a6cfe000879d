"""Every version of Landlock's interface that the kernel offers restricts the file system."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from toolrl.sandbox.local import landlock

SCRIPT = """
import os, sys
from toolrl.sandbox.local import isolation, landlock
version, own, outside = int(sys.argv[1]), sys.argv[2], sys.argv[3]
landlock.abi = lambda: version
opened = landlock.open_readable([])
isolation.drop_privileges()
landlock.restrict(opened, [(own, landlock.OWN)])

def denied(*arguments):
    try:
        os.close(os.open(*arguments))
    except PermissionError:
        return True
    return False

print(denied(outside, os.O_RDONLY), denied(outside + "/new", os.O_CREAT | os.O_WRONLY), denied("/", os.O_RDONLY))
print(denied(os.__file__, os.O_RDONLY), denied("/dev/null", os.O_RDWR), denied(own + "/new", os.O_CREAT | os.O_RDWR))
os.mkdir(own + "/folder")
os.truncate(own + "/new", 1)
os.rename(own + "/new", own + "/renamed")
"""


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6, 7])
def test_only_the_sandboxs_folder_and_pythons_files_are_accessible(tmp_path, version):
    try:
        offered = landlock.abi()
    except OSError as error:
        pytest.skip(f"no Landlock: {error}")
    if version > offered:
        pytest.skip(f"this kernel offers version {offered}")
    own, outside = tmp_path / "own", tmp_path / "outside"
    own.mkdir()
    outside.mkdir()
    command = [sys.executable, "-c", SCRIPT, str(version), str(own), str(outside)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["True"] * 3 + ["False"] * 3, result.stderr
    assert result.returncode == 0, result.stderr
    assert [path.name for path in sorted(Path(own).iterdir())] == ["folder", "renamed"]
