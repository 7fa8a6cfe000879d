"""The sandboxes that a server hosts, from their creation to the end of their time."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from toolrl.sandbox.base import ExecResult, OutputListener, SandboxLimits, Session, check_environment
from toolrl.sandbox.local.sandbox import LocalSandbox
from toolrl.sandbox.server.files import HOME, GuestFiles, inside
from toolrl.sandbox.server.notebook import PRELUDE
from toolrl.support.serving import Threads

_LOOK_SECONDS = 0.5  # how late a sandbox may be ended
_FIRST_COMMAND = 100_000  # no number that a process has in there
_OPENED_AT_ONCE = 16  # sandboxes that are made or ended
_AT_ONCE = 4  # requests for the files or contexts of one sandbox; the next wait for their turn


@dataclass(frozen=True, slots=True)
class HostSettings:
    """What a server gives its clients.

    Attributes:
        limits: Of each sandbox. `seconds` bounds a run whose client never gives up.
        packages: Whether the code can import the packages of the server's Python.
        max_sandboxes: How many there may be at a time; more are answered with status 429.
        max_lifetime_seconds: How far ahead a client may set a sandbox's end.
        api_key: What clients must know; any key will do if None.
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
    """A session of a hosted sandbox as clients see it: with an id, a folder and a count of runs."""

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
        """Run code after what runs already.

        Args:
            code: What to run.
            environment: Variables that hold for this run.
            on_output: Told of output.
            on_start: Told the number of this run. If it raises, nothing runs.
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
        self.key: str | None = None  # that its client made it with
        self.ended = False
        self.threads = Threads(_AT_ONCE)
        self.sandbox = LocalSandbox(settings.limits, packages=settings.packages)
        self.files = GuestFiles(self.sandbox)
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
        """One context; the default one if None is asked for, which may have been removed."""
        with self._lock:
            return self._contexts.get(self._default_id if identifier is None else identifier)

    def open_context(self, folder: str) -> Context:
        """A further context in a folder."""
        context = Context(self.sandbox.new_session(), folder)
        with self._lock:
            self._contexts[context.id] = context
        return context

    def restart(self, context: Context) -> None:
        """End what the context runs and start it afresh under its id."""
        context.session.close()  # first, or there might be no room for another one
        fresh = Context(self.sandbox.new_session(), context.folder)
        fresh.id = context.id
        with self._lock:
            self._contexts[context.id] = fresh

    def remove(self, context: Context) -> None:
        """End a context for good."""
        with self._lock:
            self._contexts.pop(context.id, None)
        context.session.close()

    def add_command(self, context: Context, command: list[str]) -> int:
        """Count a command among those that run; its number."""
        with self._lock:
            self._last_command += 1
            self._commands[self._last_command] = context, command
            return self._last_command

    def running_commands(self) -> dict[int, list[str]]:
        """The commands that run, by their numbers."""
        with self._lock:
            return {number: command for number, (_, command) in self._commands.items()}

    def end_command(self, number: int) -> bool:
        """End a command and all that it has started; whether it ran."""
        with self._lock:
            context, _ = self._commands.pop(number, (None, None))
        if context is not None:
            context.session.close()
        return context is not None


class Hosting:
    """All sandboxes of a server; ends them when their time is over. Thread-safe."""

    def __init__(self, settings: HostSettings) -> None:
        self.settings, self.threads = settings, Threads(_OPENED_AT_ONCE)
        self._sandboxes: dict[str, HostedSandbox] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._opening = 0
        self._keys: set[str | None] = set()  # of sandboxes that are being made
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
        """A new sandbox, or None if there are as many as there may be.

        Asked again with the same key, by a client to whom the answer was lost, it is the one made then.
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
        """Let a sandbox live for so long from now, or if that is longer anyway `at_least` so long."""
        end = time.time() + min(max(seconds, 0.0), self.settings.max_lifetime_seconds)
        hosted.end_at = max(end, hosted.end_at) if at_least else end

    def get(self, identifier: str | None) -> HostedSandbox | None:
        """A sandbox that still lives."""
        with self._lock:
            return self._sandboxes.get(identifier or "")

    def all(self) -> list[HostedSandbox]:
        """All sandboxes that live, oldest first."""
        with self._lock:
            return list(self._sandboxes.values())

    def kill(self, identifier: str) -> bool:
        """End a sandbox; whether there was one."""
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
        while not self._closed.wait(_LOOK_SECONDS):
            for hosted in self.all():
                if hosted.end_at <= time.time():
                    self.kill(hosted.id)


def lost_variables(result: ExecResult) -> bool:
    """Whether a run took its process along."""
    if result.error is None:
        return False
    died = result.error.name == "SandboxDied"
    return died or (result.error.name == "TimeoutError" and "seconds" in result.limits_hit)
