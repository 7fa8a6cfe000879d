"""The sandboxes of a server, from creation to expiry."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from toolrl.sandbox.base import ExecResult, OutputListener, SandboxLimits, Session, check_environment
from toolrl.sandbox.local.sandbox import LocalSandbox
from toolrl.sandbox.server.files import HOME, HostedFiles, inside
from toolrl.sandbox.server.notebook import PRELUDE
from toolrl.support.threads import Threads

_REAP_SECONDS = 0.5  # how late an expired sandbox may be ended
_FIRST_COMMAND = 100_000  # above the process ids inside a sandbox
_OPENED_AT_ONCE = 16  # sandboxes opened or closed concurrently
_AT_ONCE = 4  # concurrent requests for the files or contexts of one sandbox; others wait


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a server offers its clients.

    Attributes:
        limits: Limits of each sandbox. `seconds` bounds a run whose client never gives up.
        packages: Whether the code can import the packages of the server's Python.
        max_sandboxes: Maximum number of sandboxes; further requests get status 429.
        max_lifetime_seconds: Longest lifetime that a client may set.
        api_key: The key that clients must send; any key is accepted if None.
    """

    limits: SandboxLimits = field(
        default_factory=lambda: SandboxLimits(
            seconds=3600, memory_mb=1024, processes=64, disk_mb=512, files=65_536, output_characters=1_000_000
        )
    )
    packages: bool = False
    max_sandboxes: int = 20
    max_lifetime_seconds: float = 86_400.0
    api_key: str | None = None


class Context:
    """A session of a hosted sandbox as clients see it, with an id, a folder and a count of runs."""

    def __init__(self, session: Session, folder: str) -> None:
        self.id, self.session, self.folder = secrets.token_hex(8), session, folder
        self.executions = 0
        self._fresh = True
        self._lock = threading.Lock()

    def run(
        self,
        code: str,
        environment: Mapping[str, str],
        on_output: OutputListener,
        on_start: Callable[[int], None],
    ) -> ExecResult:
        """Run code, after any earlier run has finished.

        Args:
            code: Python source.
            environment: Environment variables for this run.
            on_output: Called with output.
            on_start: Called with the number of this run. If it raises, nothing runs.
        """
        with self._lock:
            on_start(self.executions + 1)
            self.executions += 1
            if self._fresh:
                prepared = self.session.run(f"{PRELUDE}\n_prelude({inside(self.folder)!r})\ndel _prelude")
                if lost_variables(prepared):  # the session was ended already
                    return prepared
            self._fresh = False
            result = self.session.run(code, environment=environment, on_output=on_output)
            self._fresh = lost_variables(result)
            return result


class HostedSandbox:
    """One sandbox and its contexts."""

    def __init__(
        self, settings: HostSettings, template: str, metadata: Mapping[str, str], environment: Mapping[str, str]
    ) -> None:
        self.id, self.token = f"i{secrets.token_hex(10)}", secrets.token_hex(16)
        self.template, self.metadata, self.environment = template, dict(metadata), check_environment(environment)
        self.started_at = self.end_at = time.time()
        self.key: str | None = None  # the client's idempotency key
        self.ended = False
        self.threads = Threads(_AT_ONCE)
        self.sandbox = LocalSandbox(settings.limits, packages=settings.packages)
        self.files = HostedFiles(self.sandbox)
        first = Context(self.sandbox.new_session(), HOME)
        self._commands: dict[int, tuple[Context, list[str]]] = {}
        self._last_command = _FIRST_COMMAND
        self._contexts, self._default_id = {first.id: first}, first.id
        self._lock = threading.Lock()

    def contexts(self) -> list[Context]:
        """All contexts, the default one first."""
        with self._lock:
            return list(self._contexts.values())

    def context(self, identifier: str | None) -> Context | None:
        """Look up a context; None means the default one. Returns None if it has been removed."""
        with self._lock:
            return self._contexts.get(self._default_id if identifier is None else identifier)

    def open_context(self, folder: str) -> Context:
        """Open another context, in a folder."""
        context = Context(self.sandbox.new_session(), folder)
        with self._lock:
            self._contexts[context.id] = context
        return context

    def restart(self, context: Context) -> None:
        """End the context's session and start a new one under the same id."""
        context.session.close()  # first, to make room for the new one
        fresh = Context(self.sandbox.new_session(), context.folder)
        fresh.id = context.id
        with self._lock:
            self._contexts[context.id] = fresh

    def remove(self, context: Context) -> None:
        """End and forget a context."""
        with self._lock:
            self._contexts.pop(context.id, None)
        context.session.close()

    def add_command(self, context: Context, command: list[str]) -> int:
        """Register a running command; return its number."""
        with self._lock:
            self._last_command += 1
            self._commands[self._last_command] = context, command
            return self._last_command

    def running_commands(self) -> dict[int, list[str]]:
        """The running commands, by number."""
        with self._lock:
            return {number: command for number, (_, command) in self._commands.items()}

    def end_command(self, number: int) -> bool:
        """End a command and everything it has started; False if it is not running."""
        with self._lock:
            context, _ = self._commands.pop(number, (None, None))
        if context is not None:
            context.session.close()
        return context is not None


class Hosting:
    """All sandboxes of a server; ends them when they expire. Thread-safe."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings, self.threads = settings, Threads(_OPENED_AT_ONCE)
        self._sandboxes: dict[str, HostedSandbox] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._opening = 0
        self._keys: set[str | None] = set()  # idempotency keys of sandboxes that are being opened
        self._closed = threading.Event()
        self._reaper = threading.Thread(target=self._reap, name="sandbox-reaper", daemon=True)
        self._reaper.start()

    def create(
        self,
        template: str,
        seconds: float,
        metadata: Mapping[str, str],
        environment: Mapping[str, str],
        key: str | None = None,
    ) -> HostedSandbox | None:
        """Open a sandbox; None if there are too many.

        A repeated request with the same key, from a client that lost the answer, gets the sandbox opened first.
        """
        with self._changed:
            self._changed.wait_for(lambda: key not in self._keys)
            earlier = [hosted for hosted in self._sandboxes.values() if key and hosted.key == key]
            if earlier:
                return earlier[0]
            if self._closed.is_set() or len(self._sandboxes) + self._opening >= self.settings.max_sandboxes:
                return None
            self._opening += 1
            self._keys |= {key} if key else set()
        try:
            hosted = HostedSandbox(self.settings, template, metadata, environment)
            hosted.key = key
            self.set_end(hosted, seconds)
            with self._lock:
                late = self._closed.is_set()
                if not late:
                    self._sandboxes[hosted.id] = hosted
            if late:
                hosted.sandbox.close()
                return None
            return hosted
        finally:
            with self._changed:
                self._opening -= 1
                self._keys.discard(key)
                self._changed.notify_all()

    def set_end(self, hosted: HostedSandbox, seconds: float, *, at_least: bool = False) -> None:
        """Let a sandbox live for `seconds` from now; with `at_least`, never shorten its lifetime."""
        end = time.time() + min(max(seconds, 0.0), self.settings.max_lifetime_seconds)
        hosted.end_at = max(end, hosted.end_at) if at_least else end

    def get(self, identifier: str | None) -> HostedSandbox | None:
        """Look up a live sandbox."""
        with self._lock:
            return self._sandboxes.get(identifier or "")

    def all(self) -> list[HostedSandbox]:
        """All live sandboxes, oldest first."""
        with self._lock:
            return list(self._sandboxes.values())

    def kill(self, identifier: str) -> bool:
        """End a sandbox; False if it does not exist."""
        with self._lock:
            hosted = self._sandboxes.pop(identifier, None)
        if hosted is not None:
            hosted.ended = True
            hosted.sandbox.close()
        return hosted is not None

    def close(self) -> None:
        """End all sandboxes."""
        self._closed.set()
        self._reaper.join()
        for hosted in self.all():
            self.kill(hosted.id)

    def _reap(self) -> None:
        while not self._closed.wait(_REAP_SECONDS):
            for hosted in self.all():
                if hosted.end_at <= time.time():
                    self.kill(hosted.id)


def lost_variables(result: ExecResult) -> bool:
    """Whether a run ended its process."""
    if result.error is None:
        return False
    died = result.error.name == "SandboxDied"
    return died or (result.error.name == "TimeoutError" and "seconds" in result.limits_hit)
