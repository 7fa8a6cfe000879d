"""A running cell: the SDK's blocking call on a thread, its output as it arrives."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Literal

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import SandboxLimits
from toolrl.sandbox.e2b.sdk import translate_error
from toolrl.sandbox.inside.plumbing import cut
from toolrl.sandbox.results import Relay, Stream

Event = tuple[Literal["stdout", "stderr", "end", "failed"], Any]


class _Abandoned(Exception):
    """Ends a call of the SDK whose result is no longer wanted."""


class RunningCell:
    """One `run_code` of the SDK.

    Args:
        sdk: The SDK's sandbox.
        context: The context to run in.
        code: Python source.
        timeout_seconds: Timeout of the call; a backstop, since `follow` gives up earlier.
    """

    def __init__(self, sdk: Any, context: Any, code: str, timeout_seconds: float) -> None:
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        options = {"context": context, "timeout": timeout_seconds, "request_timeout": timeout_seconds}
        thread = threading.Thread(target=self._run, args=(sdk, code, options), name="e2b-cell", daemon=True)
        thread.start()

    def next(self, deadline: float) -> Event | None:
        """Wait for the next event; None if the deadline (time.monotonic) passes first.

        Raises:
            SandboxFault, ConfigError: The call failed.
        """
        try:
            kind, content = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if kind == "failed":
            error = translate_error(content, "running code")
            raise error from (None if error is content else content)
        return kind, content

    def abandon(self) -> None:
        """Let the call end at its next event."""
        self._abandoned.set()

    def _run(self, sdk: Any, code: str, options: dict[str, Any]) -> None:
        try:
            execution = sdk.run_code(
                code,
                on_stdout=lambda message: self._put("stdout", message.line),
                on_stderr=lambda message: self._put("stderr", message.line),
                **options,
            )
            self._events.put(("end", execution))
        except Exception as error:  # noqa: BLE001  classified by `next`
            self._events.put(("failed", error))

    def _put(self, stream: Stream, text: str) -> None:
        if self._abandoned.is_set():
            raise _Abandoned
        self._events.put((stream, text))


class CellOutput:
    """The output of a cell, without the token that marks the start of its code.

    Args:
        token: Appears in stdout once.
        limits: How much output is kept.
        relay: Receives new text; None if nobody listens.

    Attributes:
        started: When the code started (time.monotonic), or None.
    """

    def __init__(self, token: str, limits: SandboxLimits, relay: Relay | None) -> None:
        self._token, self._limits, self._relay = token, limits, relay
        self._texts: dict[Stream, list[str]] = {"stdout": [], "stderr": []}
        self._size = 0
        self.started: float | None = None

    @property
    def is_too_large(self) -> bool:
        """Whether the code has written more than the limit on a file's size."""
        return self._size > self._limits.file_size_mb << 20

    def add(self, stream: Stream, text: str) -> None:
        """Add new text."""
        self._size += len(text)
        if stream == "stdout" and self.started is None:
            text = "".join((*self._texts["stdout"], text))
            self._texts["stdout"] = []
            before, found, after = text.partition(self._token)
            if not found:
                self._texts["stdout"] = [text]
                return
            self.started = time.monotonic()
            text = before + after
        self._texts[stream].append(text)
        if self._relay is not None:
            self._relay.send(stream, text)

    def texts(self) -> tuple[str, str]:
        """Stdout and stderr, each visibly truncated at the limit."""
        stdout, stderr = (cut("".join(parts), self._limits.output_characters) for parts in self._texts.values())
        return stdout, stderr

    def limits_hit(self) -> tuple[str, ...]:
        """("output",) if something was truncated."""
        lengths = (sum(map(len, parts)) for parts in self._texts.values())
        return ("output",) if max(lengths) > self._limits.output_characters else ()


def follow(cell: RunningCell, output: CellOutput, seconds: float, patience_seconds: float, on_start: Any) -> Any:
    """Collect a cell's output until it ends.

    Args:
        cell: The running cell.
        output: Receives the text.
        seconds: Time limit of the code.
        patience_seconds: Time limit for the code to start.
        on_start: Called when the code has started.

    Returns:
        The SDK's execution, or None if the code ran out of time or wrote too much.

    Raises:
        SandboxFault: The code did not start in time, or the call failed.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        event = cell.next(deadline)
        if event is None and output.started is None:
            raise SandboxFault(f"E2B did not start the code within {patience_seconds:g} seconds")
        if event is None:
            return None
        kind, content = event
        if kind == "end":
            return content
        was_started = output.started
        output.add("stdout" if kind == "stdout" else "stderr", content)
        if output.is_too_large:
            return None
        if output.started is not None and was_started is None:
            deadline = output.started + seconds
            on_start()
