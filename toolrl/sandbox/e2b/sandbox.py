"""A sandbox in E2B's cloud: a folder in a leased machine, sessions and files in it."""

from __future__ import annotations

import uuid
import weakref
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import MAX_SESSIONS, Mount, SandboxLimits
from toolrl.sandbox.e2b.files import RemoteFiles
from toolrl.sandbox.e2b.fleet import E2BFleet, Remote, shared_fleet
from toolrl.sandbox.e2b.sdk import E2BSettings
from toolrl.sandbox.e2b.session import MARKER, E2BSession, open_context, remove_context
from toolrl.sandbox.handle import SandboxHandle

_ABOVE = "/home/user"


class E2BSandbox(SandboxHandle):
    """A `Sandbox` in a virtual machine of E2B's, leased from a fleet that all sandboxes of the process share.

    What the machine allows bounds memory, processes and files; of the limits, only time, output and displays
    are enforced. When it is closed its folder is removed and its processes are killed, and the machine serves
    the next sandbox, unless the settings forbid that. A machine that has vanished or failed is a
    `SandboxFault`, in this sandbox until it is `reset`.

    Args:
        limits: Time, output and displays of a run.
        mounts: What the code may read of this machine: uploaded, and made read-only as far as the user that
            the kernel runs as is bound by that.
        settings: Of the fleet that all sandboxes with equal settings share.
        fleet: In place of that one.

    Raises:
        MissingExtra: The SDK is not installed.
        ConfigError: There is no API key, or E2B refuses it.
        SandboxFault: No machine came free, or could be started.
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
        self._place = _Place(self.fleet, self.limits, self.mounts, self._used)
        self._finalizer = weakref.finalize(self, self._place.close)
        self._finalizer.atexit = False  # the fleet ends the machine then, which needs no cleaning

    @property
    def usage(self) -> dict[str, float]:
        """What it has used up to its last `reset` or `close`: machines started or lost, seconds, dollars, retries.

        The time in which a machine was idle belongs to whom it serves next. Of what serves nobody, such as a
        machine that did not start, only the fleet's `usage` tells.
        """
        return dict(self._used)

    def new_session(self) -> E2BSession:
        """See `Sandbox.new_session`."""
        return self._own_place().open_session()

    def reset(self) -> None:
        """See `Sandbox.reset`."""
        self._own_place()
        self._finalizer()
        self._open()

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._finalizer()

    def _own_place(self) -> _Place:
        if not self._finalizer.alive:
            raise ValueError("this sandbox is closed; open another one")
        return self._place


class _Place:
    """A folder in a leased machine and the sessions over it; all gone when closed."""

    def __init__(
        self, fleet: E2BFleet, limits: SandboxLimits, mounts: tuple[Mount, ...], used: dict[str, float]
    ) -> None:
        self._fleet, self._limits, self._mounts, self._used = fleet, limits, mounts, used
        self._settings = fleet.settings
        self._remote: Remote = fleet.lease()
        self._folder = f"{_ABOVE}/toolrl-{uuid.uuid4().hex}"
        self.files = RemoteFiles(self._remote, self._folder, mounts)
        self.sessions: list[E2BSession] = []
        try:
            if self._remote.contexts is None:
                self._remote.contexts = {context.id for context in self._contexts()}
            self.files.ask("making a folder", lambda files: files.make_dir(self._folder))
            self.open_session()
            if mounts:
                self._upload()
        except BaseException as error:
            self._remote.lost = True
            self._give_back()
            if isinstance(error, OSError):  # no code has run
                raise SandboxFault(f"an E2B sandbox could not be prepared: {error}") from error
            raise

    def open_session(self) -> E2BSession:
        self.sessions[1:] = [session for session in self.sessions[1:] if not session.closed]
        if len(self.sessions) >= MAX_SESSIONS:
            raise ValueError(f"a sandbox has {MAX_SESSIONS} sessions at most; close one")
        self.sessions.append(E2BSession(self._remote, self._folder, self._limits, self._settings))
        return self.sessions[-1]

    def close(self) -> None:
        try:
            for session in self.sessions:
                session.close()
            if self._settings.reuse and not self._remote.lost:
                self._sweep()
        except SandboxFault:
            self._remote.lost = True
        finally:
            self._give_back()

    def _give_back(self) -> None:
        for name, amount in self._remote.usage().items():  # before it is somebody else's
            self._used[name] = self._used.get(name, 0.0) + amount
        self._fleet.give_back(self._remote)

    def _upload(self) -> None:
        uploads = []
        for mount in self._mounts:
            paths = sorted(mount.source.rglob("*")) if mount.source.is_dir() else [mount.source]
            for path in paths:
                target = PurePosixPath(self._folder, mount.target, path.relative_to(mount.source).as_posix())
                if path.is_file():
                    uploads.append((str(target), path))
        for name, path in uploads:
            content = path.read_bytes()
            self.files.ask("uploading a mount", lambda files, name=name, content=content: files.write(name, content))
        targets = [mount.target for mount in self._mounts]
        result = self.sessions[0].run(_PROTECT.format(targets), timeout_seconds=self._settings.request_seconds)
        if result.error is not None:
            raise SandboxFault(f"E2B, protecting a mount: {result.error.value}")
        self.sessions[0].restart()

    def _sweep(self) -> None:
        """Leave the machine as if we had not been there, from a context of its own."""
        code = f"_toolrl.sweep({PurePosixPath(self._folder).name!r}, {MARKER!r})"
        open_context(self._remote, _ABOVE, code, "cleaning up")
        for context in self._contexts():  # ours, and those whose opening was answered to nobody
            if context.id not in (self._remote.contexts or ()):
                remove_context(self._remote, context)

    def _contexts(self) -> list[Any]:
        contexts: list[Any] = self._remote.requests.make("listing contexts", self._remote.sdk.list_code_contexts)
        return contexts


_PROTECT = """
import os
for target in {}:
    for folder, _, files in os.walk(target, topdown=False):
        for name in files: os.chmod(os.path.join(folder, name), 0o444)
        os.chmod(folder, 0o555)
    if os.path.isfile(target): os.chmod(target, 0o444)
"""
