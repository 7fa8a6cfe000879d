"""All sandboxes of a process share a control group, where it may make one, and nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.sandbox.cgroups import Group, Hierarchy, hierarchies, machine_memory
from toolrl.sandbox.launcher import Zygote, own_group

MB = 1 << 20


def reason_for_none() -> str:
    try:
        own_group().leave()
    except OSError as error:
        return str(error)
    return ""


grouped = pytest.mark.skipif(bool(reason_for_none()), reason=f"no control group can be made here: {reason_for_none()}")


@pytest.fixture(name="zygote")
def zygote_fixture(monkeypatch: pytest.MonkeyPatch) -> Iterator[Zygote]:
    """A process to fork from whose sandboxes may use 150 MB together."""
    monkeypatch.setenv("TOOLRL_SANDBOX_MEMORY_MB", "150")
    zygote = Zygote()
    yield zygote
    zygote.close()


def paths_of(pid: int) -> list[str]:
    """The groups of toolrl's that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return [line for line in lines if "/toolrl-sandboxes-" in line]


@grouped
def test_sandboxes_are_born_in_the_group_and_it_goes_with_the_last_process_to_fork_from(zygote):
    group = own_group()
    assert zygote.active.holds["cgroup"]
    with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
        inside = sandbox.run("[line for line in open('/proc/self/cgroup') if 'toolrl-sandboxes' in line]").value
        assert len(eval(inside)) == len(paths_of(zygote._process.pid)) > 0
    other = Zygote()
    zygote.close()
    group.leave()
    assert all(path.exists() for path in group.paths)
    with LocalSandbox(isolation="none", zygote=lambda: other) as sandbox:
        assert sandbox.run("1").value == "1"
    other.close()
    assert not any(path.exists() for path in group.paths) or paths_shared(group)


def paths_shared(group: Group) -> bool:
    """Whether other tests of this process have processes to fork from."""
    return any((path / "cgroup.procs").read_text() for path in group.paths)


@grouped
def test_sandboxes_together_stay_below_the_bound_and_what_it_ends_is_no_verdict(zygote):
    limits = SandboxLimits(memory_mb=512, seconds=60)
    with contextlib.ExitStack() as stack:
        sandboxes = [
            stack.enter_context(LocalSandbox(limits, isolation="none", zygote=lambda: zygote)) for _ in range(4)
        ]
        faults = 0
        for sandbox in sandboxes:  # each keeps 60 MB, well below its own limit
            try:
                assert sandbox.run("kept = bytearray(b'x') * (60 << 20)").error is None
            except SandboxFault as fault:
                assert "for want of memory" in str(fault)  # noqa: PT017  either is right for one of them
                faults += 1
        faults += sum(lost(sandbox) for sandbox in sandboxes)
        assert faults
        kept = [path for path in own_group_paths() if (path / "memory.usage_in_bytes").exists()]
        assert all(int((path / "memory.usage_in_bytes").read_text()) <= 150 * MB for path in kept)
    with LocalSandbox(isolation="none", zygote=lambda: zygote) as sandbox:
        assert sandbox.run("1").value == "1"


def lost(sandbox: LocalSandbox) -> bool:
    """Whether a sandbox no longer has what it kept."""
    try:
        return sandbox.run("len(kept)").value is None
    except SandboxFault:
        return True


def own_group_paths() -> list[Path]:
    group = own_group()
    group.leave()
    return group.paths


@grouped
def test_processes_of_all_sandboxes_together_are_bounded(zygote):
    for path in own_group_paths():
        if (path / "pids.max").exists():
            (path / "pids.max").write_text("8")
    with LocalSandbox(SandboxLimits(processes=64), isolation="none", zygote=lambda: zygote) as sandbox:
        code = "import os, time\nfor _ in range(16):\n    if os.fork() == 0: time.sleep(60)"
        result = sandbox.run(code, timeout_seconds=30)
    assert result.error.name == "BlockingIOError"
    assert result.limits_hit == ("processes",)


SCRIPT = """
import sys, time
from toolrl.sandbox import LocalSandbox
sandbox = LocalSandbox()
sandbox.run("1")
print(sandbox._place.zygote.active.holds["cgroup"], flush=True)
time.sleep(600)
"""


@grouped
@pytest.mark.parametrize("ended_by", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_group_is_left_however_its_process_ends(eventually, ended_by):
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.readline() == b"True\n"
        left = [path.parent for folder in {path.parent for path in own_group_paths()}
                for path in folder.glob(f"toolrl-sandboxes-*-{process.pid}-*/cgroup.procs")]  # fmt: skip
        assert left
        process.send_signal(ended_by)
        process.wait(30)
    if ended_by is not signal.SIGINT:  # nobody was there to remove it: the next one does
        assert eventually(lambda: not any((path / "cgroup.procs").read_text() for path in left if path.exists()))
        Zygote().close()
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5", "63"])
def test_a_bound_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("TOOLRL_SANDBOX_MEMORY_MB", text)
    with pytest.raises(ConfigError, match=f"TOOLRL_SANDBOX_MEMORY_MB='{text}' must be"):
        own_group()


def test_a_bound_that_cannot_be_kept_is_refused_and_without_one_sandboxes_run(monkeypatch):
    monkeypatch.setattr("toolrl.sandbox.launcher.hierarchies", lambda mounts, groups: [])
    zygote = Zygote()
    assert zygote.active.holds["cgroup"] is False
    assert "no hierarchy" in zygote.active.problems["cgroup"]
    zygote.close()
    monkeypatch.setenv("TOOLRL_SANDBOX_MEMORY_MB", "500")
    with pytest.raises(ConfigError, match=r"=500 cannot be kept: no hierarchy .* Unset it"):
        Zygote()


def test_hierarchies_of_both_versions_are_found(tmp_path):
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").write_text("cpu pids\n")
    mounts = f"""\
35 31 0:32 / {tmp_path}/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / {tmp_path}/cpu rw,relatime shared:3 - cgroup cgroup rw,cpu
41 31 0:38 /box {tmp_path}/unified rw,relatime - cgroup2 cgroup2 rw
42 31 0:39 / /proc rw - proc proc rw
"""
    groups = "4:memory:/run/1\n2:cpu:/\n1:name=systemd:/\n0::/box/inner\n"
    assert hierarchies(mounts, groups) == [
        Hierarchy(1, ("memory",), tmp_path / "memory", tmp_path / "memory/run/1"),
        Hierarchy(2, ("pids",), tmp_path / "unified", tmp_path / "unified/inner"),
    ]


@pytest.fixture(name="unified")
def unified_fixture(tmp_path: Path) -> Hierarchy:
    """A folder laid out like version 2, with a group that has processes; folders keep what is written, as files do."""
    own = tmp_path / "user" / "shell"
    own.mkdir(parents=True)
    (tmp_path / "memory.max").write_text("max")
    (tmp_path / "user" / "memory.max").write_text(str(900 * MB))
    return Hierarchy(2, ("memory", "pids"), tmp_path, own)


def test_what_a_group_around_allows_is_the_machines_memory(unified):
    assert machine_memory([unified]) == 900 * MB
    assert machine_memory([]) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_with_version_2_a_group_lies_where_controllers_are_passed_on(unified):
    (unified.own / "cgroup.subtree_control").mkdir()  # the kernel refuses: it has processes
    with pytest.raises(OSError, match="has processes of its own, and no group around it passes on"):
        Group([unified], 100 * MB, 50)
    (unified.own.parent / "cgroup.subtree_control").write_text("cpu memory pids\n")
    group = Group([unified], 100 * MB, 50)
    (path,) = group.paths
    assert path.parent == unified.own.parent
    found = {name: (path / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max")}
    assert found == {"memory.max": str(100 * MB), "memory.swap.max": "0", "pids.max": "50"}
