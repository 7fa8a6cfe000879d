"""E2B's SDK: its settings, the translation of its exceptions, and retries."""

from __future__ import annotations

import errno
import math
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeVar

from toolrl.errors import ConfigError, MissingExtra, SandboxFault
from toolrl.sandbox.base import check_seconds

T = TypeVar("T")
_PACKAGES = ("e2b", "e2b_code_interpreter", "httpx", "connectrpc", "pyqwest")  # the SDK and its transport
_MAX_PAUSE_SECONDS = 20.0
_random = random.SystemRandom()  # the program's seeded generator is left alone


@dataclass(frozen=True, slots=True)
class E2BSettings:
    """How to use E2B. The defaults fit its hobby tier; sandboxes with equal settings share one fleet per process.

    Attributes:
        api_key: The environment's E2B_API_KEY if None.
        template: E2B template of the sandboxes; its code interpreter if None.
        max_concurrent: Sandboxes that may exist at the same time.
        starts_per_second: Rate limit on starting sandboxes.
        lifetime_seconds: When E2B ends a sandbox that we have not ended.
        wait_seconds: How long to wait for a free sandbox before raising `SandboxFault`. (A tool gives up after
            `toolrl.tools.dispatch.OPENING_SECONDS`, which is a fault too.)
        request_seconds: Timeout of one request, not counting the code it runs.
        attempts: Attempts at a request that fails for a transient reason.
        backoff_seconds: Pause before the second attempt; it doubles each time, up to 20 seconds.
        reuse: Whether a sandbox serves one episode after another, cleaned in between. A process that escapes
            the cleaning could see the next episode: switch this off for code that you do not trust that far.
        internet: Whether the code has internet access.
        dollars_per_hour: Price of a sandbox, to estimate costs. The default is for E2B's default size (2 vCPU at
            $0.0504, half a GiB at $0.0162: https://e2b.dev/docs/faq/calculate-sandbox-price, read in November
            2026); set your own for another size or service.
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
        """Options for every call of the SDK."""
        return {"api_key": self.api_key, "request_timeout": self.request_seconds, "retries": 0}


def load_sdk(settings: E2BSettings) -> ModuleType:
    """Import the SDK.

    Raises:
        MissingExtra: The SDK is not installed.
        ConfigError: No API key is set.
    """
    try:
        import e2b_code_interpreter
    except ImportError as error:
        raise MissingExtra("e2b-code-interpreter", "e2b") from error
    if not (settings.api_key or os.environ.get("E2B_API_KEY")):
        raise ConfigError(
            "E2B needs an API key: set E2B_API_KEY (https://e2b.dev/dashboard?tab=keys) or E2BSettings(api_key=...); "
            "or run `toolrl sandbox serve` and export what it prints; or use LocalSandbox"
        )
    return e2b_code_interpreter


class MachineLost(SandboxFault):
    """The machine behind a sandbox is gone; a new one must be opened."""


def translate_error(error: Exception, what: str) -> Exception:
    """Translate an exception of the SDK into one of toolrl's.

    Returns:
        ConfigError for a refused key, an OSError for a state of the files that the code caused, `MachineLost`,
        `SandboxFault` for anything that may be transient; the exception itself if the SDK did not raise it.
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
        return MachineLost(message)
    # ValueError: a truncated response is not valid JSON.
    if isinstance(error, (OSError, ValueError)) or type(error).__module__.split(".")[0] in _PACKAGES:
        return SandboxFault(message)
    return error


class Requests:
    """Makes requests with retries, and counts the retries. Thread-safe.

    Args:
        settings: Number of attempts and pauses between them.
        total: Its count includes these retries.

    Attributes:
        retries: Attempts after the first, so far.
    """

    def __init__(self, settings: E2BSettings, total: Requests | None = None) -> None:
        self.settings, self.retries = settings, 0
        self._total, self._lock = total, threading.Lock()

    def make(self, what: str, call: Callable[[], T]) -> T:
        """Make an idempotent call; retry transient failures with exponential, jittered pauses.

        Args:
            what: Names the request in error messages.
            call: Makes one attempt.

        Raises:
            SandboxFault: Every attempt failed, or the machine is gone (`MachineLost`).
            ConfigError, OSError: See `translate_error`.
        """
        # Here, since only users of E2B should pay for the import.
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

        def attempt() -> T:
            try:
                return call()
            except Exception as error:
                translated = translate_error(error, what)
                if translated is error:
                    raise
                raise translated from error

        pause = wait_exponential(self.settings.backoff_seconds, max=_MAX_PAUSE_SECONDS)
        retrying = Retrying(
            stop=stop_after_attempt(self.settings.attempts),
            wait=lambda state: pause(state) * _random.uniform(0.5, 1.0),
            retry=retry_if_exception(lambda error: type(error) is SandboxFault),
            before_sleep=lambda _: self._count(),
            reraise=True,
        )
        return retrying(attempt)

    def _count(self) -> None:
        with self._lock:
            self.retries += 1
        if self._total is not None:
            self._total._count()
