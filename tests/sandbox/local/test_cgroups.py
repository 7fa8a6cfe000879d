"""All sandboxes of a process share a control group, where one can be created, and it is removed in the end."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.local.cgroups import ControlGroup, Hierarchy, hierarchies, machine_memory
from toolrl.sandbox.local.launcher import Zygote, own_group

ROOT = Path(__file__).parents[3]
MB = 1 << 20


def reason_for_none() -> str:
    try:
        own_group().leave()
    except OSError as error:
        return str(error)
    return ""


grouped = pytest.mark.skipif(bool(reason_for_none()), reason=f"no control group can be made here: {reason_for_none()}")


def alone(body: Callable[[], None]) -> Callable[[], None]:
    """Run a test in a process whose sandboxes may use 150 MB in total."""

    @grouped
    @functools.wraps(body)
    def test() -> None:
        call = f"from tests.sandbox.local import test_cgroups; test_cgroups.{body.__name__}.__wrapped__()"
        environment = {**os.environ, "TOOLRL_SANDBOX_MEMORY_MB": "150"}
        done = subprocess.run(
            [sys.executable, "-c", call], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
        )
        assert done.returncode == 0, done.stderr

    return test


def groups_of(pid: int) -> list[str]:
    """The control groups of toolrl that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return [line for line in lines if "/toolrl-sandboxes-" in line]


def paths_of_the_group() -> list[Path]:
    group = own_group()
    group.leave()
    return group.paths


@alone
def test_sandboxes_start_in_the_group_and_it_is_removed_with_the_last_zygote():
    zygote, other = Zygote(), Zygote()
    paths = paths_of_the_group()
    with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
        inside = sandbox.run("[line for line in open('/proc/self/cgroup') if 'toolrl-sandboxes' in line]").value
        assert len(eval(inside)) == len(groups_of(zygote.process.pid)) == len(paths)
    zygote.close()
    assert other.active.holds["cgroup"]
    assert all(path.exists() for path in paths)
    with LocalSandbox(isolation="none", zygote=lambda: other) as sandbox:
        assert sandbox.run("1").value == "1"
    other.close()
    assert not any(path.exists() for path in paths)


@alone
def test_the_limit_is_the_latest_one():
    group = own_group()
    limits = [path / name for path in group.paths for name in ("memory.limit_in_bytes", "memory.max")]
    for bound in (150, 300, 100):
        os.environ["TOOLRL_SANDBOX_MEMORY_MB"] = str(bound)
        own_group().leave()
        assert [int(limit.read_text()) // MB for limit in limits if limit.exists()] == [bound]
    group.leave()


@alone
def test_sandboxes_share_a_memory_limit_and_reaching_it_is_a_fault():
    limits = SandboxLimits(memory_mb=512, seconds=60)
    with contextlib.ExitStack() as stack:
        sandboxes = [stack.enter_context(LocalSandbox(limits, isolation="none")) for _ in range(4)]
        # Each keeps 60 MB, well below its own limit.
        for sandbox in sandboxes:
            is_fault(sandbox, "kept = bytearray(b'x') * (60 << 20)")
        used = [path / name for path in paths_of_the_group() for name in ("memory.usage_in_bytes", "memory.current")]
        assert all(int(file.read_text()) <= 150 * MB for file in used if file.exists())
        assert 0 < sum(is_fault(sandbox, "len(kept)") for sandbox in sandboxes) < 4
    with LocalSandbox(isolation="none") as sandbox:
        assert sandbox.run("1").value == "1"


def is_fault(sandbox: LocalSandbox, code: str) -> bool:
    """Whether a run is a fault, or follows one that has cost the session its variables."""
    try:
        error = sandbox.run(code).error
    except SandboxFault as fault:
        assert "because memory ran out" in str(fault)  # noqa: PT017
        return True
    return error is not None and error.name == "NameError"


@alone
def test_all_sandboxes_share_a_limit_on_processes():
    with LocalSandbox(SandboxLimits(processes=64), isolation="none") as sandbox:
        sandbox.run("1")
        for path in paths_of_the_group():
            if (path / "pids.max").exists():
                (path / "pids.max").write_text("8")
        code = "import os, time\nfor _ in range(16):\n    if os.fork() == 0: time.sleep(60)"
        result = sandbox.run(code, timeout_seconds=30)
    assert result.error.name == "BlockingIOError"
    assert result.limits_hit == ("processes",)


SCRIPT = """
import sys, time
from toolrl.sandbox import LocalSandbox
sandbox = LocalSandbox()
sandbox.run("1")
print(sandbox.workspace.zygote.active.holds["cgroup"], flush=True)
time.sleep(60)
"""


@grouped
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_group_is_left_however_its_process_ends(eventually, ended_by):
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"True\n"
        left = [path.parent for folder in {path.parent for path in paths_of_the_group()}
                for path in folder.glob(f"toolrl-sandboxes-*-{process.pid}-*/cgroup.procs")]  # fmt: skip
        assert left
        process.send_signal(ended_by)
    if ended_by is not signal.SIGINT:  # the next process removes it
        assert eventually(lambda: not any((path / "cgroup.procs").read_text() for path in left if path.exists()))
        Zygote().close()
    assert not any(path.exists() for path in left)


def test_code_is_killed_before_its_parent_when_memory_runs_out():
    zygote = Zygote()
    with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
        its = int(sandbox.run("int(open('/proc/self/oom_score_adj').read())").value)
        assert its > int(Path("/proc/self/oom_score_adj").read_text())
        assert sandbox.run("open('/proc/self/oom_score_adj', 'w').write('0')").error is not None
    zygote.close()


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5", "63"])
def test_an_invalid_memory_limit_is_refused(monkeypatch, text):
    monkeypatch.setenv("TOOLRL_SANDBOX_MEMORY_MB", text)
    with pytest.raises(ConfigError, match=f"TOOLRL_SANDBOX_MEMORY_MB='{text}' must be"):
        own_group()


def test_a_memory_limit_that_cannot_be_enforced_is_refused(monkeypatch):
    monkeypatch.setattr("toolrl.sandbox.local.launcher.hierarchies", lambda mounts, groups: [])
    zygote = Zygote()
    assert zygote.active.holds["cgroup"] is False
    assert "no hierarchy" in zygote.active.problems["cgroup"]
    zygote.close()
    monkeypatch.setenv("TOOLRL_SANDBOX_MEMORY_MB", "500")
    with pytest.raises(ConfigError, match=r"=500 cannot be enforced: no hierarchy .* Unset it"):
        Zygote()


def test_hierarchies_of_both_versions_are_found(tmp_path):
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text("cpu pids\n")
    mounts = f"""\
35 31 0:32 / {tmp_path}/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / {tmp_path}/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu
41 31 0:38 /box {tmp_path}/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /proc rw - proc proc rw
43 31 0:40 /elsewhere {tmp_path}/other rw - cgroup cgroup rw,memory
"""
    groups = "4:memory:/run/1\n2:cpu:/\n1:name=systemd:/\n0::/box/inner\n"
    assert hierarchies(mounts, groups) == [
        Hierarchy(1, ("memory",), tmp_path / "memory", tmp_path / "memory/run/1"),
        Hierarchy(2, ("pids",), tmp_path / "unified", tmp_path / "unified/inner"),
    ]


@pytest.fixture(name="unified")
def unified_fixture(tmp_path: Path) -> Hierarchy:
    """A folder laid out like version 2, with a group that has processes; the files keep what is written."""
    own = tmp_path / "user" / "shell"
    own.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "user" / "memory.max").write_text(str(900 * MB))
    return Hierarchy(2, ("memory", "pids"), tmp_path, own)


def test_the_limit_of_an_enclosing_group_counts_as_the_machines_memory(unified):
    assert machine_memory([unified]) == 900 * MB
    assert machine_memory([]) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_in_version_2_a_group_is_created_where_controllers_are_delegated(unified):
    (unified.own / "cgroup.subtree_control").mkdir()  # the kernel would refuse writing it: the group has processes
    with pytest.raises(OSError, match="has processes of its own, and its parent is not delegated"):
        ControlGroup([unified], 100 * MB, 50)
    (unified.own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    group = ControlGroup([unified], 100 * MB, 50)
    (path,) = group.paths
    assert path.parent == unified.own.parent
    found = {name: (path / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert found == {"memory.max": str(100 * MB), "memory.swap.max": "0", "pids.max": "50"}
