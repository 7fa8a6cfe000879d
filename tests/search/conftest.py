"""What the tests of searching share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.search.servers import Server, running


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rates of their own for each test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server() -> Iterator[Server]:
    """A web server on this machine."""
    with running() as server:
        yield server
