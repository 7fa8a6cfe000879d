"""The E2B sandboxes of this process: how many, how fast they start, who has them, what they cost."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from toolrl.errors import InfrastructureError, SandboxFault
from toolrl.sandbox.e2b.leftovers import end_leftovers, owner_metadata
from toolrl.sandbox.e2b.sdk import E2BSettings, Requests, load_sdk

_USABLE_SHARE = 0.25  # of its lifetime a sandbox must have left to serve another episode


@dataclass(frozen=True, slots=True)
class E2BUsage:
    """What a fleet has used so far.

    Attributes:
        started: Sandboxes that were started.
        reused: How often one served a further episode.
        lost: Sandboxes that vanished or failed.
        retries: Requests that had to be made again.
        sandbox_seconds: Time that sandboxes have lived, all together.
        dollars: What that costs, estimated by the price in the settings.
    """

    started: int
    reused: int
    lost: int
    retries: int
    sandbox_seconds: float
    dollars: float


@dataclass(eq=False, slots=True)
class Remote:
    """A sandbox that is running in the cloud.

    Attributes:
        sdk: The SDK's object.
        requests: Makes requests to it.
        started: When it was started (time.monotonic).
        lost: Whether it has turned out to be gone or unusable.
        contexts: Ids of those that it came with; None before somebody has looked.
        reported: What of it has been reported as somebody's usage.
    """

    sdk: Any
    requests: Requests
    started: float = field(default_factory=time.monotonic)
    lost: bool = False
    contexts: set[str] | None = None
    reported: dict[str, float] = field(default_factory=dict)

    def usage(self) -> dict[str, float]:
        """What has been used of it since the last call: time in which it lay idle belongs to whom it serves next."""
        seconds = time.monotonic() - self.started
        used = {
            "sandboxes_started": 1.0,
            "sandbox_seconds": seconds,
            "sandbox_dollars": seconds / 3600 * self.requests.settings.dollars_per_hour,
            "sandbox_retries": float(self.requests.retries),
            "sandbox_faults": float(self.lost),
        }
        earlier, self.reported = self.reported, used
        return {name: amount - earlier.get(name, 0.0) for name, amount in used.items()}


class E2BFleet:
    """Starts, lends and ends sandboxes, within the limits of an account. Thread-safe.

    Args:
        settings: The limits.

    Raises:
        MissingExtra: The SDK is not installed.
        ConfigError: There is no API key.
    """

    def __init__(self, settings: E2BSettings | None = None) -> None:
        self.settings = settings or E2BSettings()
        self._module = load_sdk(self.settings)
        self._requests = Requests(self.settings)
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._lent: set[Remote] = set()
        self._idle: list[Remote] = []
        self._starting = 0
        self._next_start = 0.0
        self._started = self._reused = self._lost = 0
        self._past_seconds = 0.0
        self._closed = False
        end_leftovers(self._module, self._requests)
        atexit.register(self.close)

    @property
    def usable(self) -> bool:
        """Whether it lends sandboxes: it has not been closed, and was made in this process."""
        return not self._closed and self._pid == os.getpid()

    def lease(self) -> Remote:
        """A clean sandbox, used before or new.

        Raises:
            SandboxFault: None came free, or could be started, in time.
            ConfigError: E2B refuses the API key.
        """
        deadline = time.monotonic() + self.settings.wait_seconds
        while (remote := self._used_one(deadline)) is not None:
            if self._has_time(remote):
                return remote
            self.discard(remote)
        try:
            with self._changed:
                start = max(self._next_start, time.monotonic())
                self._next_start = start + 1 / self.settings.starts_per_second
            time.sleep(max(0.0, start - time.monotonic()))
            remote = self._start()
            with self._changed:
                self._started += 1
                self._lent.add(remote)
                late = self._closed
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
        if late:
            self.discard(remote)
            raise SandboxFault("the fleet of E2B sandboxes was closed meanwhile")
        return remote

    def give_back(self, remote: Remote) -> None:
        """Take back a sandbox that has been cleaned, for the next who asks."""
        with self._changed:
            if self.settings.reuse and self.usable and not remote.lost and remote in self._lent:
                self._lent.remove(remote)
                self._idle.append(remote)
                self._changed.notify()
                return
        self.discard(remote)

    def discard(self, remote: Remote) -> None:
        """End a sandbox. One that cannot be reached any more is left to its lifetime."""
        with self._changed:
            known = remote in self._lent or remote in self._idle
            self._lent.discard(remote)
            if remote in self._idle:
                self._idle.remove(remote)
        if not known or self._pid != os.getpid():
            return
        try:
            with contextlib.suppress(InfrastructureError):
                remote.requests.make("ending a sandbox", lambda: remote.sdk.kill(**self.settings.connection()))
        finally:
            with self._changed:
                self._past_seconds += time.monotonic() - remote.started
                self._lost += remote.lost
                self._changed.notify()

    @property
    def usage(self) -> E2BUsage:
        """What has been used so far."""
        with self._changed:
            now = time.monotonic()
            seconds = self._past_seconds + sum(now - remote.started for remote in (*self._lent, *self._idle))
            dollars = seconds / 3600 * self.settings.dollars_per_hour
            return E2BUsage(self._started, self._reused, self._lost, self._requests.retries, seconds, dollars)

    def close(self) -> None:
        """End all sandboxes, those that are lent included."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            remotes = [*self._lent, *self._idle]
            self._changed.notify_all()
        for remote in remotes:
            self.discard(remote)

    def _used_one(self, deadline: float) -> Remote | None:
        """An idle sandbox, or None and the right to start one."""
        with self._changed:
            while True:
                if not self.usable:
                    raise SandboxFault("this fleet of E2B sandboxes is closed, or another process's")
                if self._idle:
                    remote = self._idle.pop()
                    self._lent.add(remote)
                    self._reused += 1
                    return remote
                if len(self._lent) + self._starting < self.settings.max_concurrent:
                    self._starting += 1
                    return None
                if not self._changed.wait(deadline - time.monotonic()):
                    raise SandboxFault(
                        f"no E2B sandbox came free within {self.settings.wait_seconds:g} seconds; "
                        f"all {self.settings.max_concurrent} are in use"
                    )

    def _has_time(self, remote: Remote) -> bool:
        left = self.settings.lifetime_seconds - (time.monotonic() - remote.started)
        return left > self.settings.lifetime_seconds * _USABLE_SHARE

    def _start(self) -> Remote:
        settings, key = self.settings, str(uuid.uuid4())
        requests = Requests(settings, self._requests)
        sdk = requests.make(
            "starting a sandbox",
            lambda: self._module.Sandbox.create(
                template=settings.template,
                timeout=int(settings.lifetime_seconds),
                metadata=owner_metadata(),
                allow_internet_access=settings.internet,
                idempotency_key=key,
                **settings.connection(),
            ),
        )
        return Remote(sdk, requests)


_fleets: dict[E2BSettings, E2BFleet] = {}
_fleets_lock = threading.Lock()


def shared_fleet(settings: E2BSettings | None = None) -> E2BFleet:
    """The fleet of this process for these settings, made at the first call; it ends with the process."""
    settings = settings or E2BSettings()
    with _fleets_lock:
        fleet = _fleets.get(settings)
        if fleet is None or not fleet.usable:
            fleet = _fleets[settings] = E2BFleet(settings)
        return fleet


def _forget_inherited() -> None:
    global _fleets_lock
    _fleets_lock = threading.Lock()
    _fleets.clear()


os.register_at_fork(after_in_child=_forget_inherited)
