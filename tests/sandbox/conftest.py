from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.sandbox.e2b.unreliable_proxy import UnreliableProxy
from toolrl.sandbox import Level, LocalSandbox, Mount, Sandbox, SandboxLimits
from toolrl.sandbox.e2b import E2BFleet, E2BSandbox, E2BSettings
from toolrl.sandbox.local.launcher import Zygote
from toolrl.sandbox.server import HostSettings, SandboxServer

T = TypeVar("T")

# The layers to leave out for each level, on a machine that offers all of them.
WITHOUT: dict[Level, tuple[str, ...]] = {
    "full": (),
    "no-landlock": ("landlock",),
    "no-userns": ("namespaces",),
    "none": ("namespaces", "landlock", "seccomp", "network"),
}


@pytest.fixture(scope="session")
def zygote_at() -> Iterator[Callable[[Level], Zygote]]:
    """Returns the zygote of a level; skips if the machine does not offer the level."""
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


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[SandboxServer]:
    """Our own server, which E2B's SDK is configured to use."""
    with SandboxServer(HostSettings(max_sandboxes=256)) as server, pointed_at(server.url):
        yield server
        assert server.hosting.all() == []  # whichever fleet was closed last


@pytest.fixture(scope="session")
def e2b_fleet(sandbox_server: SandboxServer) -> Iterator[E2BFleet]:
    fleet = E2BFleet(E2BSettings(api_key="any", max_concurrent=100, starts_per_second=1000.0))
    yield fleet
    fleet.close()


@pytest.fixture(scope="session")
def unreliable_proxy(sandbox_server: SandboxServer) -> Iterator[UnreliableProxy]:
    """An unreliable proxy to our server."""
    line = UnreliableProxy(sandbox_server.url)
    yield line
    line.close()


@pytest.fixture(scope="session")
def unreliable_fleet(unreliable_proxy: UnreliableProxy) -> Iterator[E2BFleet]:
    with pointed_at(unreliable_proxy.url):
        fleet = E2BFleet(E2BSettings(api_key="any", max_concurrent=100, starts_per_second=1000.0, backoff_seconds=0.01))
    yield fleet
    fleet.close()
    assert fleet.usage.lost == 0
    assert fleet.usage.retries > 0


@contextlib.contextmanager
def pointed_at(url: str) -> Iterator[None]:
    """Configure E2B's SDK to use a server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
            patch.setenv(name, url)
        yield


@pytest.fixture(params=list(WITHOUT))
def level(request: pytest.FixtureRequest) -> str:
    """Level of local sandboxes; tests of every backend also have "e2b" and "e2b-unreliable" as parameters."""
    return request.param


@pytest.fixture
def zygote(level: Level, zygote_at: Callable[[Level], Zygote]) -> Zygote:
    return zygote_at(level)


@pytest.fixture
def open_sandbox(level: str, request: pytest.FixtureRequest) -> Iterator[Callable[..., Sandbox]]:
    """Opens sandboxes of one level or backend with given limits; closes them after the test.

    Of local ones nothing may be left then, and a sandbox that was open all the time must be unharmed.
    """
    opened: list[Sandbox] = []
    backend: Callable[..., Sandbox]
    if level.startswith("e2b"):
        fleet = request.getfixturevalue("e2b_fleet" if level == "e2b" else "unreliable_fleet")
        backend = partial(E2BSandbox, fleet=fleet)
    else:
        zygote = request.getfixturevalue("zygote")
        backend = partial(LocalSandbox, isolation="none", zygote=lambda: zygote)

    def open_one(mounts: Sequence[Mount] = (), **limits: Any) -> Sandbox:
        opened.append(backend(SandboxLimits(**limits), mounts=mounts))
        return opened[-1]

    if level.startswith("e2b"):
        url = request.getfixturevalue("sandbox_server" if level == "e2b" else "unreliable_proxy").url
        with pointed_at(url):
            yield open_one
            for sandbox in opened:
                sandbox.close()
        return
    bystander = open_one()
    assert bystander.run("open('mine', 'w').close(); x = 1").error is None
    before = settled(lambda: traces(zygote))  # an earlier test's guard may still be exiting
    yield open_one
    for sandbox in opened[1:]:
        sandbox.close()
    assert eventually(lambda: not left(before, traces(zygote))), left(before, traces(zygote))
    assert bystander.run("x, __import__('os').listdir()").value == "(1, ['mine'])"
    bystander.close()


@pytest.fixture
def sandbox(open_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return open_sandbox()


@pytest.fixture
def limited(level: str) -> None:
    """Skips if the size of the machine is the only limit."""
    if level.startswith("e2b"):
        pytest.skip("in E2B's cloud the machine's size is the limit of memory, processes and files")


@pytest.fixture
def apart(level: str) -> None:
    """Skips if only resource limits separate two sandboxes."""
    if level == "none" and os.geteuid() != 0:
        pytest.skip("without isolation, the sandboxes of an ordinary user share its id")


@pytest.fixture
def counted(level: Level) -> None:
    """Skips if processes are counted together with the user's other ones."""
    if level in ("none", "no-userns") and os.geteuid() != 0:
        pytest.skip("without namespaces, the sandboxes of an ordinary user share its count of processes")


Traces = tuple[set[int], list[str], set[str]]


def traces(zygote: Zygote) -> Traces:
    """The traces of open sandboxes: processes, folders, mounts."""
    folders = sorted(entry.name for entry in os.scandir(zygote.directory))
    return descendants(zygote.process.pid), folders, set(Path("/proc/self/mountinfo").read_text().splitlines())


def left(before: Traces, after: Traces) -> list[str]:
    """What differs between two observations; a process with its state and its command line.

    Of mounts only new ones: they are the whole machine's, and another test's may have gone.
    """
    changed = [f"folders {before[1]} -> {after[1]}"] * (before[1] != after[1])
    changed += [f"mount {mount}" for mount in after[2] - before[2]]
    for pid in before[0] ^ after[0]:
        changed.append(f"process {pid}")
        with contextlib.suppress(OSError):  # it has ended
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            changed[-1] += f" {state} {Path(f'/proc/{pid}/cmdline').read_bytes()[-200:]!r}"
    return changed


def descendants(pid: int) -> set[int]:
    found: set[int] = set()
    with contextlib.suppress(OSError):  # it has ended
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, children.read_text().split()):
                found |= {child} | descendants(child)
    return found


def settled(look: Callable[[], T]) -> T:
    """Repeat an observation until it has been stable for a while."""
    seen = [look()]
    while seen[-3:] != [seen[-1]] * 3:
        time.sleep(0.02)
        seen.append(look())
    return seen[-1]


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[[Callable[[], bool]], bool]:
    return eventually


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether a condition becomes true within half a minute."""
    for _ in range(1500):
        if condition():
            return True
        time.sleep(0.02)
    return False


# The level between "full" and "no-userns", that without isolation, and the server's tests over the unreliable proxy.
ONLY_IN_TEST_SLOW = ("no-landlock", "none", "e2b-unreliable")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Test the remaining surroundings in `make test-slow` only."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        level = callspec and callspec.params.get("level")
        if level in ONLY_IN_TEST_SLOW and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
