"""The findings of `toolrl doctor`, and the isolation in force, as an ordinary user and under Docker's restrictions."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
SECURITY = (ROOT / "docs/security.md").read_text()
LIKE_DOCKER = "tests/sandbox/local/like_docker.py"
# Root's folders may be inaccessible to others: mount Python, the packages and toolrl where they are not.
AS_ORDINARY_USER = """
import os, sys
from toolrl.sandbox.local import isolation
isolation.unshare(isolation.NEWNS)
isolation.call("mount", b"none", b"/", None, 0x44000, None)  # MS_REC | MS_PRIVATE: invisible to other processes
folder, base, packages, source, *arguments = sys.argv[1:]
for name, path in (("python", base), ("packages", packages), ("source", source)):
    os.mkdir(f"{folder}/{name}", 0o755)
    isolation.call("mount", path.encode(), f"{folder}/{name}".encode(), None, 0x5000, None)  # MS_BIND | MS_REC
isolation.drop_root(isolation.NOBODY)
os.chdir(f"{folder}/source")
python = f"{folder}/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
environment = {"PATH": os.defpath, "PYTHONPATH": f"{folder}/source:{folder}/packages", "PYTHONDONTWRITEBYTECODE": "1"}
environment["LD_LIBRARY_PATH"] = f"{folder}/python/lib"  # or the system's libpython is loaded, if it has one
os.execve(python, [python, *arguments], environment)
"""
AS_FOUND = """
import sys
import pytest
from toolrl.sandbox.local.launcher import Zygote
start = Zygote.__init__
Zygote.__init__ = lambda self, without=(), packages=False: start(self, packages=packages)  # nothing is switched off
sys.exit(pytest.main(sys.argv[1:]))
"""


def run_as_ourselves(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with arguments."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def run_as_ordinary_user(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same as another user; requires root."""
    if os.geteuid() != 0:
        pytest.skip("the tests run as an ordinary user already")
    with tempfile.TemporaryDirectory(prefix="toolrl-user-") as folder:
        os.chmod(folder, 0o755)
        paths = [folder, sys.base_prefix, sysconfig.get_path("purelib"), str(ROOT)]
        done = run_as_ourselves("-c", AS_ORDINARY_USER, *paths, *arguments)
    if "unshare(131072,): Operation not permitted" in done.stderr:
        pytest.skip("this root may not mount")
    return done


@pytest.fixture(params=[run_as_ourselves, run_as_ordinary_user])
def run(request: pytest.FixtureRequest) -> Callable[..., subprocess.CompletedProcess[str]]:
    return request.param


def is_ordinary(run: Callable[..., subprocess.CompletedProcess[str]]) -> bool:
    return run is run_as_ordinary_user or os.geteuid() != 0


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    return {**report, "findings": {finding["layer"]: finding for finding in report["findings"]}}


def test_the_readme_shows_its_real_output(zygote_at, run):
    zygote_at("full")
    as_root, as_user = SECURITY.split("prints the level, with status 1")[1].split("```\n")[1:4:2]
    expected = as_root
    if is_ordinary(run):
        expected = as_root[: as_root.index("active  cgroup")] + as_user
    done = run("-m", "toolrl", "doctor")
    found = done.stdout
    if ("active  cgroup" in found) != ("active  cgroup" in expected):  # other machines have other control groups
        found, expected = (re.sub(r"(?ms)^\w+ +cgroup .*?(?=^\w)", "", text) for text in (found, expected))
    assert (done.returncode, found) == (0, expected), done.stderr


def test_a_container_without_new_namespaces_is_diagnosed(zygote_at, run):
    zygote_at("no-userns")
    begins = next(block for block in SECURITY.split("```\n") if block.startswith("isolation level: no-userns"))
    assert run(LIKE_DOCKER, "-m", "toolrl", "doctor").stdout.startswith(begins)
    report = report_of(run(LIKE_DOCKER, "-m", "toolrl", "doctor", "--json"))
    namespaces = report["findings"]["namespaces"]
    assert (report["level"], report["usable"]) == ("no-userns", True)
    assert "Operation not permitted" in namespaces["problem"]
    assert "in Docker a seccomp profile that permits unshare and mount" in namespaces["remedy"]
    user = {"user"} if is_ordinary(run) else set()
    missing = {layer for layer, finding in report["findings"].items() if not finding["active"]}
    assert missing - {"cgroup"} == {"namespaces"} | user


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_attacks_that_no_userns_claims_to_stop_fail_in_such_a_container(zygote_at, run):
    zygote_at("no-userns")
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "-k", "no-userns"]
    done = run(LIKE_DOCKER, "-c", AS_FOUND, *options, "tests/sandbox/test_attacks.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout, done.stdout
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 150


def test_a_folder_of_temporary_files_that_is_private_is_no_obstacle(tmp_path: Path) -> None:
    private = tmp_path / "private"
    (private / "temporary").mkdir(parents=True)
    private.chmod(0o700)
    code = """
from toolrl.sandbox import SandboxLimits, open_sandbox
sandbox = open_sandbox("local", SandboxLimits())
print(sandbox.run("open('x', 'w').write('y'); print(open('x').read())").stdout.strip())
sandbox.close()
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "TMPDIR": f"{private}/temporary",
    }
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert result.stdout == "y\n", result.stderr
    assert list((private / "temporary").iterdir()) == []
