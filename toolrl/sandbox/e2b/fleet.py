"""The E2B machines of this process: their number, start rate, leases, costs, and leftovers of killed processes."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from toolrl.errors import InfrastructureError, SandboxFault
from toolrl.sandbox.e2b.sdk import E2BSettings, Requests, load_sdk
from toolrl.support.cleanup import start_time

_OWNER = "toolrl-owner"  # metadata of a sandbox: the process that started it
_USABLE_SHARE = 0.25  # of its lifetime, which a machine must have left to serve another episode


@dataclass(frozen=True, slots=True)
class E2BUsage:
    """Usage of a fleet so far.

    Attributes:
        started: Machines started.
        reused: How often a machine served another episode.
        lost: Machines that vanished or failed.
        retries: Requests that were retried.
        sandbox_seconds: Total lifetime of all machines.
        dollars: Estimated cost, by the price in the settings.
    """

    started: int
    reused: int
    lost: int
    retries: int
    sandbox_seconds: float
    dollars: float


@dataclass(eq=False, slots=True)
class Machine:
    """A virtual machine running in the cloud; E2B calls it a sandbox.

    Attributes:
        sdk: The SDK's object.
        requests: Makes requests to it.
        started: Start time (time.monotonic).
        lost: Whether it turned out to be gone or unusable.
        contexts: Ids of the contexts it came with; None until they have been listed.
        reported: Usage that has been charged to a sandbox already.
    """

    sdk: Any
    requests: Requests
    started: float = field(default_factory=time.monotonic)
    lost: bool = False
    contexts: set[str] | None = None
    reported: dict[str, float] = field(default_factory=dict)

    def usage(self) -> dict[str, float]:
        """Usage since the last call; idle time is charged to the next sandbox."""
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
    """Starts, leases and ends machines within the limits of an account. Thread-safe.

    Args:
        settings: The limits.

    Raises:
        MissingExtra: The SDK is not installed.
        ConfigError: No API key is set.
    """

    def __init__(self, settings: E2BSettings | None = None) -> None:
        self.settings = settings or E2BSettings()
        self._module = load_sdk(self.settings)
        self._requests = Requests(self.settings)
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._leased: set[Machine] = set()
        self._idle: list[Machine] = []
        self._starting = 0
        self._next_start = 0.0
        self._started = self._reused = self._lost = 0
        self._past_seconds = 0.0
        self._closed = False
        _end_leftovers(self._module, self._requests)
        atexit.register(self.close)

    @property
    def usable(self) -> bool:
        """Whether it can lease machines: it is open and belongs to this process."""
        return not self._closed and self._pid == os.getpid()

    def lease(self) -> Machine:
        """Lease a clean machine, reused or new.

        Raises:
            SandboxFault: No machine became free or could be started in time.
            ConfigError: E2B refuses the API key.
        """
        deadline = time.monotonic() + self.settings.wait_seconds
        while (machine := self._idle_machine(deadline)) is not None:
            if self._has_time(machine):
                return machine
            self.discard(machine)
        try:
            with self._changed:
                start = max(self._next_start, time.monotonic())
                self._next_start = start + 1 / self.settings.starts_per_second
            time.sleep(max(0.0, start - time.monotonic()))
            machine = self._start()
            with self._changed:
                self._started += 1
                self._leased.add(machine)
                late = self._closed
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify()
        if late:
            self.discard(machine)
            raise SandboxFault("the fleet of E2B sandboxes was closed while one was starting")
        return machine

    def give_back(self, machine: Machine) -> None:
        """Take back a cleaned machine and keep it for the next lease."""
        with self._changed:
            if self.settings.reuse and self.usable and not machine.lost and machine in self._leased:
                self._leased.remove(machine)
                self._idle.append(machine)
                self._changed.notify()
                return
        self.discard(machine)

    def discard(self, machine: Machine) -> None:
        """End a machine. One that is unreachable ends with its lifetime."""
        with self._changed:
            known = machine in self._leased or machine in self._idle
            self._leased.discard(machine)
            if machine in self._idle:
                self._idle.remove(machine)
        if not known or self._pid != os.getpid():
            return
        try:
            with contextlib.suppress(InfrastructureError):
                machine.requests.make("ending a sandbox", lambda: machine.sdk.kill(**self.settings.connection()))
        finally:
            with self._changed:
                self._past_seconds += time.monotonic() - machine.started
                self._lost += machine.lost
                self._changed.notify()

    @property
    def usage(self) -> E2BUsage:
        """The usage so far."""
        with self._changed:
            now = time.monotonic()
            seconds = self._past_seconds + sum(now - machine.started for machine in (*self._leased, *self._idle))
            dollars = seconds / 3600 * self.settings.dollars_per_hour
            return E2BUsage(self._started, self._reused, self._lost, self._requests.retries, seconds, dollars)

    def close(self) -> None:
        """End all machines, including leased ones."""
        atexit.unregister(self.close)
        with self._changed:
            self._closed = True
            machines = [*self._leased, *self._idle]
            self._changed.notify_all()
        for machine in machines:
            self.discard(machine)

    def _idle_machine(self, deadline: float) -> Machine | None:
        """An idle machine; None reserves the right to start one."""
        with self._changed:
            while True:
                if not self.usable:
                    raise SandboxFault("this fleet of E2B sandboxes is closed, or belongs to another process")
                if self._idle:
                    machine = self._idle.pop()
                    self._leased.add(machine)
                    self._reused += 1
                    return machine
                if len(self._leased) + self._starting < self.settings.max_concurrent:
                    self._starting += 1
                    return None
                if not self._changed.wait(deadline - time.monotonic()):
                    raise SandboxFault(
                        f"no E2B sandbox became free within {self.settings.wait_seconds:g} seconds; "
                        f"all {self.settings.max_concurrent} are in use"
                    )

    def _has_time(self, machine: Machine) -> bool:
        left = self.settings.lifetime_seconds - (time.monotonic() - machine.started)
        return left > self.settings.lifetime_seconds * _USABLE_SHARE

    def _start(self) -> Machine:
        settings, key = self.settings, str(uuid.uuid4())
        requests = Requests(settings, self._requests)
        sdk = requests.make(
            "starting a sandbox",
            lambda: self._module.Sandbox.create(
                template=settings.template,
                timeout=int(settings.lifetime_seconds),
                metadata=_owner_metadata(),
                allow_internet_access=settings.internet,
                idempotency_key=key,
                **settings.connection(),
            ),
        )
        return Machine(sdk, requests)


def _owner_metadata() -> dict[str, str]:
    """Metadata that marks a machine as started by this process."""
    return {_OWNER: f"{_host()}/{os.getpid()}/{start_time(os.getpid())}"}


def _end_leftovers(sdk: ModuleType, requests: Requests) -> None:
    """End machines whose owner was a process of this host that has died. Unreachable ones end with their lifetime."""
    settings = requests.settings
    with contextlib.suppress(InfrastructureError):
        for info in requests.make("looking for leftovers", lambda: _listed(sdk, settings)):
            host, _, process = (info.metadata or {}).get(_OWNER, "").partition("/")
            pid, _, started = process.partition("/")
            if host == _host() and started != start_time(pid):
                end = partial(sdk.Sandbox.kill, info.sandbox_id, **settings.connection())
                requests.make("ending a leftover", end)


def _listed(sdk: ModuleType, settings: E2BSettings) -> list[Any]:
    pages, found = sdk.Sandbox.list(**settings.connection()), []
    while pages.has_next:
        found += pages.next_items()
    return found


def _host() -> str:
    """Identify this boot of this host, and the process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"


_fleets: dict[E2BSettings, E2BFleet] = {}
_fleets_lock = threading.Lock()


def shared_fleet(settings: E2BSettings | None = None) -> E2BFleet:
    """The fleet of this process for these settings, created on first use; it ends with the process."""
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
