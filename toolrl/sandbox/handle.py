"""What the sandboxes and sessions of all backends have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, Self

from toolrl.sandbox.base import (
    ExecResult,
    OutputListener,
    SandboxLimits,
    Session,
    check_environment,
    check_seconds,
)


class PlaceFiles(Protocol):
    """The files of a place, as `Sandbox` promises them."""

    def write(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""

    def read(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""

    def listing(self) -> list[str]:
        """See `Sandbox.list_files`."""


class Place(Protocol):
    """A working directory and the sessions over it, the sandbox's own first."""

    @property
    def sessions(self) -> Sequence[Session]:
        """Those that are open."""

    @property
    def files(self) -> PlaceFiles:
        """What lies in the directory."""


class Closing(ABC):
    """Closes at the end of a `with` block."""

    @abstractmethod
    def close(self) -> None:
        """See `Session.close`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SessionHandle(Closing):
    """Checks what a run is asked with.

    Args:
        limits: Of the sandbox; `seconds` holds for runs that are given no other.
    """

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits

    @abstractmethod
    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        """Run code for so many seconds at most."""

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


class SandboxHandle(Closing):
    """What a `Sandbox` leaves to its place."""

    @abstractmethod
    def _own_place(self) -> Place:
        """The place, if it may be used."""

    def run(
        self,
        code: str,
        *,
        timeout_seconds: float | None = None,
        environment: Mapping[str, str] | None = None,
        on_output: OutputListener | None = None,
    ) -> ExecResult:
        """See `Session.run`."""
        session = self._own_place().sessions[0]
        return session.run(code, timeout_seconds=timeout_seconds, environment=environment, on_output=on_output)

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        self._own_place().sessions[0].interrupt()

    def write_file(self, path: str, content: bytes) -> None:
        """See `Sandbox.write_file`."""
        self._own_place().files.write(path, content)

    def read_file(self, path: str) -> bytes:
        """See `Sandbox.read_file`."""
        return self._own_place().files.read(path)

    def list_files(self) -> list[str]:
        """See `Sandbox.list_files`."""
        return self._own_place().files.listing()
