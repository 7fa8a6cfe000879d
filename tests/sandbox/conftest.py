from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from toolrl.sandbox import Level, LocalSandbox, Mount, SandboxLimits
from toolrl.sandbox.launcher import Zygote

# How to get each level on a machine that offers all layers.
WITHOUT: dict[Level, tuple[str, ...]] = {
    "full": (),
    "no-landlock": ("landlock",),
    "no-userns": ("namespaces",),
    "none": ("namespaces", "landlock", "seccomp", "network"),
}


@pytest.fixture(scope="session")
def zygote_at() -> Iterator[Callable[[Level], Zygote]]:
    """Gives the zygote of a level, or skips where the machine does not offer the level."""
    started: dict[Level, Zygote] = {}

    def get(level: Level) -> Zygote:
        if level not in started:
            started[level] = Zygote(without=WITHOUT[level])
        active = started[level].active
        unexplained = {"namespaces", "landlock", "seccomp"} & set(active.missing(level)) - active.problems.keys()
        assert not unexplained, "set up without an error, and yet not in force"
        if active.level != level:
            pytest.skip(f"this machine offers {active.level!r} in place of {level!r}: {active.problems}")
        return started[level]

    yield get
    for zygote in started.values():
        zygote.close()


@pytest.fixture(params=list(WITHOUT))
def level(request: pytest.FixtureRequest) -> Level:
    return request.param


@pytest.fixture
def zygote(level: Level, zygote_at: Callable[[Level], Zygote]) -> Zygote:
    return zygote_at(level)


@pytest.fixture
def open_sandbox(zygote: Zygote) -> Iterator[Callable[..., LocalSandbox]]:
    """Opens sandboxes of one level with the limits given; closes them after the test.

    Then nothing of them may be left, and a sandbox that was open all the time must be unharmed.
    """
    opened: list[LocalSandbox] = []

    def open_one(mounts: Sequence[Mount] = (), **limits: float) -> LocalSandbox:
        limits_ = SandboxLimits(**limits)
        opened.append(LocalSandbox(limits_, isolation="none", mounts=mounts, zygote=lambda: zygote))
        return opened[-1]

    bystander = open_one()
    assert bystander.run("open('mine', 'w').close(); x = 1").error is None
    before = traces(zygote)
    yield open_one
    for sandbox in opened[1:]:
        sandbox.close()
    assert eventually(lambda: traces(zygote) == before), (before, traces(zygote))
    assert bystander.run("x, __import__('os').listdir()").value == "(1, ['mine'])"
    bystander.close()


@pytest.fixture
def sandbox(open_sandbox: Callable[..., LocalSandbox]) -> LocalSandbox:
    return open_sandbox()


@pytest.fixture
def apart(level: Level) -> None:
    """Skips where nothing but resource limits lies between two sandboxes."""
    if level == "none" and os.geteuid() != 0:
        pytest.skip("without isolation, the sandboxes of an ordinary user share its id")


@pytest.fixture
def counted(level: Level) -> None:
    """Skips where processes are counted together with all others of the user."""
    if level in ("none", "no-userns") and os.geteuid() != 0:
        pytest.skip("without namespaces, the sandboxes of an ordinary user share its count of processes")


def traces(zygote: Zygote) -> tuple[set[int], list[str], str]:
    """What sandboxes leave while they are open: processes, folders, mounts."""
    folders = sorted(entry.name for entry in os.scandir(zygote._directory))
    return descendants(zygote._process.pid), folders, Path("/proc/self/mountinfo").read_text()


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):  # it ended meanwhile
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found |= {child} | descendants(child)
    return found


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[[Callable[[], bool]], bool]:
    return eventually


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within half a minute."""
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.02)
    return False
