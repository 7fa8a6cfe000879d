"""Sandbox backends: opening one by name, and the base classes they share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from toolrl.errors import ConfigError
from toolrl.sandbox.base import (
    ExecResult,
    OutputListener,
    Sandbox,
    SandboxLimits,
    Session,
    check_environment,
    check_seconds,
)
from toolrl.support.closing import Closeable

SandboxFactory = Callable[..., Sandbox]  # called with the limits, then with the backend's own options by keyword

_backends: dict[str, SandboxFactory] = {}


def register_backend(name: str, factory: SandboxFactory) -> None:
    """Let `open_sandbox`, and every setting that names a backend, find one by this name.

    Args:
        name: Such as "local".
        factory: Called with `SandboxLimits`, and with the options given to `open_sandbox` as keywords.

    Raises:
        ConfigError: Another backend has this name.
    """
    if _backends.setdefault(name, factory) is not factory:
        raise ConfigError(f"a sandbox backend named {name!r} is already registered; choose another name")


def open_sandbox(
    backend: str | SandboxFactory = "local", limits: SandboxLimits | None = None, **options: Any
) -> Sandbox:
    """Open a sandbox.

    Args:
        backend: A registered name ("local", "e2b", ...), or a factory.
        limits: What the sandbox may use; `SandboxLimits()` if None.
        options: Passed to the factory, such as `packages=True` for "local".

    Raises:
        ConfigError: No backend has this name, or the backend cannot be used here.
        SandboxFault: The sandbox could not be opened.
    """
    if isinstance(backend, str) and backend not in _backends:
        raise ConfigError(f"no sandbox backend is named {backend!r}; registered: {', '.join(sorted(_backends))}")
    factory = _backends[backend] if isinstance(backend, str) else backend
    return factory(limits or SandboxLimits(), **options)


class WorkspaceFiles(Protocol):
    """The files of a workspace."""

    def write(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""

    def read(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""

    def listing(self) -> list[str]:
        """See `Sandbox.list_files`."""


class Workspace(Protocol):
    """A working directory and the sessions over it, the sandbox's own first."""

    @property
    def sessions(self) -> Sequence[Session]:
        """The open sessions."""

    @property
    def files(self) -> WorkspaceFiles:
        """The files in the directory."""


class BaseSession(Closeable):
    """A session that checks the arguments of `run`.

    Args:
        limits: Limits of the sandbox; `seconds` applies to runs without a timeout of their own.
    """

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits

    @abstractmethod
    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        """Run code for at most `seconds`."""

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """See `Session.run`."""
        seconds = self._limits.seconds if timeout_seconds is None else timeout_seconds
        check_seconds("timeout_seconds", seconds)
        return self._run(code, seconds, check_environment(environment or {}), on_output)


class BaseSandbox(Closeable):
    """A sandbox that delegates to a workspace."""

    @abstractmethod
    def _usable_workspace(self) -> Workspace:
        """The workspace; raises if the sandbox is closed or belongs to another process."""

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """See `Session.run`."""
        session = self._usable_workspace().sessions[0]
        return session.run(code, timeout_seconds=timeout_seconds, environment=environment, on_output=on_output)

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._usable_workspace().sessions[0].interrupt()

    def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        self._usable_workspace().files.write(path, content)

    def read_file(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        return self._usable_workspace().files.read(path)

    def list_files(self) -> list[str]:
        """See `Sandbox.list_files`."""
        return self._usable_workspace().files.listing()
