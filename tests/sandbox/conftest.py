from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest

from toolrl.sandbox import LocalSandbox, Mount, Sandbox, SandboxLimits
from toolrl.sandbox.e2b import E2BFleet, E2BSandbox, E2BSettings
from toolrl.sandbox.launcher import Zygote
from toolrl.sandbox.server import HostSettings, SandboxServer


@pytest.fixture(scope="session")
def plain_zygote() -> Iterator[Zygote]:
    """What a kernel without user namespaces leaves us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # ordinary users are not cut off from the network
        zygote = Zygote(namespaces=False)
    yield zygote
    zygote.close()


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[SandboxServer]:
    """Our own server, which E2B's SDK is pointed at."""
    with SandboxServer(HostSettings(max_sandboxes=128)) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
            patch.setenv(name, server.url)
        yield server


@pytest.fixture(scope="session")
def e2b_fleet(sandbox_server: SandboxServer) -> Iterator[E2BFleet]:
    pytest.importorskip("e2b_code_interpreter", reason="the extra e2b is not installed")
    fleet = E2BFleet(E2BSettings(api_key="any", max_concurrent=100, starts_per_second=1000.0))
    yield fleet
    fleet.close()
    assert sandbox_server.hosting.all() == []


@pytest.fixture(params=["local", "local without namespaces", "e2b"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def open_sandbox(
    backend: str, plain_zygote: Zygote, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Sandbox]]:
    """Opens sandboxes of one backend with the limits given; they are closed after the test."""
    opened: list[Sandbox] = []
    fleet = request.getfixturevalue("e2b_fleet") if backend == "e2b" else None

    def open_one(mounts: Sequence[Mount] = (), **limits: float) -> Sandbox:
        if fleet is not None:
            opened.append(E2BSandbox(SandboxLimits(**limits), mounts=mounts, fleet=fleet))
            return opened[-1]
        zygote = None if backend == "local" else lambda: plain_zygote
        opened.append(LocalSandbox(SandboxLimits(**limits), mounts=mounts, zygote=zygote))
        return opened[-1]

    yield open_one
    for sandbox in opened:
        sandbox.close()


@pytest.fixture
def sandbox(open_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return open_sandbox()


@pytest.fixture
def limited(backend: str) -> None:
    """Skips where the size of the machine is the only limit."""
    if backend == "e2b":
        pytest.skip("in E2B's cloud the machine's size is the limit of memory, processes and files")


@pytest.fixture
def apart(backend: str) -> None:
    """Skips where nothing but resource limits lies between two sandboxes."""
    if backend == "local without namespaces" and os.geteuid() != 0:
        pytest.skip("without namespaces, the sandboxes of an ordinary user share its id")
