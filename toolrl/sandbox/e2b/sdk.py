"""All contact with E2B's SDK: settings, what its exceptions mean, and retries."""

from __future__ import annotations

import errno
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from toolrl.errors import ConfigError, MissingExtra, SandboxFault
from toolrl.sandbox.base import check_seconds

T = TypeVar("T")
_PACKAGES = ("e2b", "e2b_code_interpreter", "httpx", "connectrpc", "pyqwest")  # the SDK and what it talks through


@dataclass(frozen=True, slots=True)
class E2BSettings:
    """How E2B is used. The defaults fit its hobby tier; one set of settings is one fleet of the process.

    Attributes:
        api_key: E2B_API_KEY of the environment if None.
        template: What sandboxes are made from; E2B's code interpreter if None.
        max_concurrent: Sandboxes at one time.
        starts_per_second: How many may be started.
        lifetime_seconds: When E2B ends a sandbox, should we not have done it.
        wait_seconds: How long opening a sandbox may wait for a free one before it is a `SandboxFault`. (A tool
            gives up after `toolrl.tools.dispatch.OPENING_SECONDS`, which is a fault too.)
        request_seconds: How long one request may take, the run of code not included.
        attempts: Of a request that fails for no fault of ours.
        backoff_seconds: Wait before the second attempt; then twice as long each time, up to 20 seconds.
        reuse: Whether a sandbox serves one episode after another, cleaned in between. Processes that hide from
            the cleaning would see the next episode: switch it off for code that you do not trust that far.
        internet: Whether the code reaches the internet.
        dollars_per_hour: Price of a sandbox, for the estimate of costs. The default is that of E2B's default size
            (2 vCPU at $0.0504, half a GiB at $0.0162: https://e2b.dev/docs/faq/calculate-sandbox-price, read in
            November 2026); give your own for another size or another service.
    """

    api_key: str | None = field(default=None, repr=False)
    template: str | None = None
    max_concurrent: int = 20
    starts_per_second: float = 1.0
    lifetime_seconds: float = 3000.0
    wait_seconds: float = 600.0
    request_seconds: float = 30.0
    attempts: int = 5
    backoff_seconds: float = 0.5
    reuse: bool = True
    internet: bool = False
    dollars_per_hour: float = 0.109

    def __post_init__(self) -> None:
        for name in ("starts_per_second", "lifetime_seconds", "wait_seconds", "request_seconds", "backoff_seconds"):
            check_seconds(f"E2BSettings.{name}", getattr(self, name))
        for name in ("max_concurrent", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"E2BSettings.{name} must be at least 1, got {getattr(self, name)!r}")
        if not (math.isfinite(self.dollars_per_hour) and self.dollars_per_hour >= 0):
            raise ValueError(f"E2BSettings.dollars_per_hour must be finite and >= 0, got {self.dollars_per_hour!r}")

    def connection(self) -> dict[str, Any]:
        """Options of every call of the SDK."""
        return {"api_key": self.api_key, "request_timeout": self.request_seconds, "retries": 0}


def load_sdk(settings: E2BSettings) -> ModuleType:
    """The SDK.

    Raises:
        MissingExtra: It is not installed.
        ConfigError: There is no API key.
    """
    try:
        import e2b_code_interpreter
    except ImportError as error:
        raise MissingExtra("e2b-code-interpreter", "e2b") from error
    if not (settings.api_key or os.environ.get("E2B_API_KEY")):
        raise ConfigError(
            "E2B needs an API key: set E2B_API_KEY (https://e2b.dev/dashboard?tab=keys) or E2BSettings(api_key=...); "
            "or run `toolrl sandbox serve` and set what it prints; or use LocalSandbox"
        )
    return e2b_code_interpreter


class Vanished(SandboxFault):
    """A remote sandbox is gone; another one has to be opened."""


def as_ours(error: Exception, what: str) -> Exception:
    """What an exception of the SDK means to us.

    Returns:
        ConfigError for a refused key, an OSError for what the code has made of its files, `Vanished`, `SandboxFault`
        for all that may pass by itself; the exception itself if it is none of the SDK's.
    """
    import e2b_code_interpreter as sdk

    message = f"E2B, {what}: {type(error).__name__}: {error}"
    if isinstance(error, sdk.AuthenticationException):
        return ConfigError(f"E2B refuses the API key ({error}); check E2B_API_KEY")
    if isinstance(error, sdk.FileNotFoundException):
        return FileNotFoundError(str(error))
    if isinstance(error, sdk.NotEnoughSpaceException):
        return OSError(errno.ENOSPC, str(error))
    if type(error) is sdk.SandboxException and "permission denied" in str(error).lower():
        return PermissionError(errno.EACCES, str(error))
    gone = (sdk.SandboxNotFoundException, sdk.SandboxNotRunningException)
    if isinstance(error, gone) or "was not found" in str(error) or "was killed" in str(error):
        return Vanished(message)
    # ValueError: what is cut off in the middle is no JSON.
    if isinstance(error, (OSError, ValueError)) or type(error).__module__.split(".")[0] in _PACKAGES:
        return SandboxFault(message)
    return error


class Requests:
    """Makes requests, again where that may help, and counts how often it had to. Thread-safe.

    Args:
        settings: How often, and how long to wait in between.
        total: Counts these too.

    Attributes:
        retries: Attempts after the first, so far.
    """

    def __init__(self, settings: E2BSettings, total: Requests | None = None) -> None:
        self.settings, self.retries = settings, 0
        self._total, self._lock = total, threading.Lock()

    def make(self, what: str, call: Callable[[], T]) -> T:
        """Make a call that may be repeated; wait longer, by chance in part, before each new attempt.

        Raises:
            SandboxFault: The attempts are used up, or the sandbox is gone (`Vanished`).
            ConfigError, OSError: See `as_ours`.
        """
        for attempt in range(self.settings.attempts):
            try:
                return call()
            except Exception as error:
                ours = as_ours(error, what)
                if ours is error:
                    raise
                if type(ours) is not SandboxFault or attempt + 1 == self.settings.attempts:
                    raise ours from error
            self._count()
            time.sleep(min(self.settings.backoff_seconds * 2**attempt, 20.0) * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    def _count(self) -> None:
        with self._lock:
            self.retries += 1
        if self._total is not None:
            self._total._count()
