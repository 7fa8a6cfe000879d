"""A sandbox in E2B's cloud: a folder on a leased machine, with sessions and files in it."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path, PurePosixPath
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.backend import BaseSandbox
from toolrl.sandbox.base import MAX_SESSIONS, Mount, SandboxLimits
from toolrl.sandbox.e2b.files import E2BFiles
from toolrl.sandbox.e2b.fleet import E2BFleet, Machine, shared_fleet
from toolrl.sandbox.e2b.sdk import E2BSettings
from toolrl.sandbox.e2b.session import MARKER, E2BSession, open_context, remove_context

_PARENT = "/home/user"


class E2BSandbox(BaseSandbox):
    """A `Sandbox` on one of E2B's virtual machines, leased from a fleet that all sandboxes of the process share.

    Only the limits on time, output and displays are enforced; the machine's size bounds memory, processes and
    files. Closing the sandbox removes its folder and kills its processes; the machine then serves the next
    sandbox, unless the settings forbid reuse. If the machine vanishes or fails, every method raises
    `SandboxFault` until `reset`.

    Args:
        limits: Time, output and displays of a run.
        mounts: Files of this host that the code may read: uploaded and made read-only, as far as that binds the
            user that E2B's kernel runs as.
        settings: Settings of the fleet; sandboxes with equal settings share one.
        fleet: Used instead of the shared one.

    Raises:
        MissingExtra: The SDK is not installed.
        ConfigError: No API key is set, or E2B refuses it.
        SandboxFault: No machine became free or could be started.
    """

    def __init__(
        self,
        limits: SandboxLimits | None = None,
        *,
        mounts: Sequence[Mount] = (),
        settings: E2BSettings | None = None,
        fleet: E2BFleet | None = None,
    ) -> None:
        self.limits = limits or SandboxLimits()
        self.mounts = tuple(mounts)
        self.fleet = fleet or shared_fleet(settings)
        self._used: dict[str, float] = {}
        self._open()

    def _open(self) -> None:
        self.workspace = _Workspace(self.fleet, self.limits, self.mounts, self._used)
        self._finalizer = weakref.finalize(self, self.workspace.close)
        self._finalizer.atexit = False  # the fleet then ends the machine, uncleaned

    @property
    def usage(self) -> dict[str, float]:
        """Usage up to the last `reset` or `close`: machines started or lost, seconds, dollars, retries.

        A machine's idle time is charged to the next sandbox. Usage that served no sandbox, such as a failed
        start, appears only in the fleet's `usage`.
        """
        return dict(self._used)

    def new_session(self) -> E2BSession:
        """See `Sandbox.new_session`."""
        return self._usable_workspace().open_session()

    def reset(self) -> None:
        """See `Sandbox.reset`."""
        self._usable_workspace()
        self._finalizer()
        self._open()

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._finalizer()

    def _usable_workspace(self) -> _Workspace:
        if not self._finalizer.alive:
            raise ValueError("this sandbox is closed; open a new one")
        return self.workspace


class _Workspace:
    """A folder on a leased machine and the sessions over it; closing removes both."""

    def __init__(
        self, fleet: E2BFleet, limits: SandboxLimits, mounts: tuple[Mount, ...], used: dict[str, float]
    ) -> None:
        self._fleet, self._limits, self._mounts, self._used = fleet, limits, mounts, used
        self._settings = fleet.settings
        self.machine: Machine = fleet.lease()
        self._folder = f"{_PARENT}/toolrl-{uuid.uuid4().hex}"
        self.files = E2BFiles(self.machine, self._folder, mounts)
        self.sessions: list[E2BSession] = []
        try:
            if self.machine.contexts is None:
                self.machine.contexts = {context.id for context in self._contexts()}
            self.files.ask("making a folder", lambda files: files.make_dir(self._folder))
            self.open_session()
            if mounts:
                self._upload()
        except BaseException as error:
            self.machine.lost = True
            self._give_back()
            if isinstance(error, OSError):  # no code has run
                raise SandboxFault(f"an E2B sandbox could not be prepared: {error}") from error
            raise

    def open_session(self) -> E2BSession:
        self.sessions[1:] = [session for session in self.sessions[1:] if not session.closed]
        if len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"a sandbox has at most {MAX_SESSIONS} sessions; close one first")
        self.sessions.append(E2BSession(self.machine, self._folder, self._limits))
        return self.sessions[-1]

    def close(self) -> None:
        try:
            for session in self.sessions:
                session.close()
            if self._settings.reuse and not self.machine.lost:
                self._sweep()
        except SandboxFault:
            self.machine.lost = True
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for name, amount in self.machine.usage().items():  # before another sandbox gets it
            self._used[name] = self._used.get(name, 0.0) + amount
        self._fleet.give_back(self.machine)

    def _upload(self) -> None:
        for mount in self._mounts:
            paths = sorted(mount.source.rglob("*")) if mount.source.is_dir() else [mount.source]
            for path in filter(Path.is_file, paths):
                target = PurePosixPath(self._folder, mount.target, path.relative_to(mount.source).as_posix())
                write = methodcaller("write", str(target), path.read_bytes())
                self.files.ask("uploading a mount", write)
        targets = [mount.target for mount in self._mounts]
        result = self.sessions[0].run(_PROTECT.format(targets), timeout_seconds=self._settings.request_seconds)
        if result.error is not None:
            raise SandboxFault(f"E2B, protecting a mount: {result.error.value}")
        self.sessions[0].drop_context()

    def _sweep(self) -> None:
        """Remove all traces of this sandbox, from a new context."""
        code = f"_toolrl.sweep({PurePosixPath(self._folder).name!r}, {MARKER!r})"
        open_context(self.machine, _PARENT, code, "cleaning up")
        for context in self._contexts():  # ours, and any whose creation we never heard of
            if context.id not in (self.machine.contexts or ()):
                remove_context(self.machine, context)

    def _contexts(self) -> list[Any]:
        contexts: list[Any] = self.machine.requests.make("listing contexts", self.machine.sdk.list_code_contexts)
        return contexts


_PROTECT = """
import os
for target in {}:
    for folder, _, files in os.walk(target, topdown=False):
        for name in files: os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    if os.path.isfile(target): os.chmod(target, 0o444)
"""
