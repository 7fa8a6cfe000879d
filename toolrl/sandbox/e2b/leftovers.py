"""Sandboxes that a killed process of this machine has left running: found by their metadata, and ended."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from toolrl.errors import InfrastructureError
from toolrl.sandbox.e2b.sdk import E2BSettings, Requests
from toolrl.support.cleanup import start_time

_OWNER = "toolrl-owner"


def owner_metadata() -> dict[str, str]:
    """What says that a sandbox is this process's."""
    return {_OWNER: f"{_place()}/{os.getpid()}/{start_time(os.getpid())}"}


def end_leftovers(sdk: ModuleType, requests: Requests) -> None:
    """End sandboxes whose process has died here. What cannot be reached now is left to its lifetime."""
    settings = requests.settings
    with contextlib.suppress(InfrastructureError):
        for info in requests.make("looking for leftovers", lambda: _listed(sdk, settings)):
            place, _, process = (info.metadata or {}).get(_OWNER, "").partition("/")
            pid, _, started = process.partition("/")
            if place == _place() and started != start_time(pid):
                end = partial(sdk.Sandbox.kill, info.sandbox_id, **settings.connection())
                requests.make("ending a leftover", end)


def _listed(sdk: ModuleType, settings: E2BSettings) -> list[Any]:
    pages, found = sdk.Sandbox.list(**settings.connection()), []
    while pages.has_next:
        found += pages.next_items()
    return found


def _place() -> str:
    """This boot of this machine, and the process namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
