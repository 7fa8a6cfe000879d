"""Backends are opened by name, and others can add theirs."""

from __future__ import annotations

import pytest

from toolrl.errors import ConfigError
from toolrl.sandbox import LocalSandbox, SandboxLimits, backend, open_sandbox, register_backend


@pytest.fixture(autouse=True)
def unchanged_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_backends", dict(backend._backends))


def test_a_backend_is_opened_by_name_with_limits_and_options():
    with open_sandbox("local", SandboxLimits(seconds=2), isolation="none") as sandbox:
        assert isinstance(sandbox, LocalSandbox)
        assert sandbox.limits.seconds == 2
        assert sandbox.run("6 * 7").value == "42"


def test_a_registered_backend_is_found_by_name():
    register_backend("mine", lambda limits: LocalSandbox(limits, isolation="none"))
    with open_sandbox("mine") as sandbox:
        assert sandbox.run("6 * 7").value == "42"


def test_a_factory_can_be_given_instead_of_a_name():
    with open_sandbox(LocalSandbox, isolation="none") as sandbox:
        assert isinstance(sandbox, LocalSandbox)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no sandbox backend is named 'cloud'; registered: e2b, local"):
        open_sandbox("cloud")


def test_a_name_cannot_be_taken_twice():
    register_backend("local", LocalSandbox)
    with pytest.raises(ConfigError, match="'local' is already registered"):
        register_backend("local", lambda limits: LocalSandbox(limits))
