"""Fixtures of the search tests."""

import pytest

from tests.search.servers import running


@pytest.fixture(autouse=True)
def runtime_folder(monkeypatch, tmp_path):
    """Separate rate limits for each test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def server():
    """A web server on this machine."""
    with running() as server:
        yield server
