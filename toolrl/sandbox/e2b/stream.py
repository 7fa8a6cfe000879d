"""A cell that runs in a context: the SDK's blocking call on a thread, its output as it comes."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Literal

from toolrl.errors import SandboxFault
from toolrl.sandbox.base import SandboxLimits
from toolrl.sandbox.e2b.sdk import as_ours
from toolrl.sandbox.inside.plumbing import cut
from toolrl.sandbox.local.relay import Relay, Stream

News = tuple[Literal["stdout", "stderr", "end", "failed"], Any]


class _Abandoned(Exception):
    """Ends a call of the SDK that nobody waits for any more."""


class RunningCell:
    """One `run_code` of the SDK.

    Args:
        sdk: The SDK's sandbox.
        context: Where to run.
        code: What to run.
        timeout_seconds: When the call gives up; a backstop, since whoever follows the news does so earlier.
    """

    def __init__(self, sdk: Any, context: Any, code: str, timeout_seconds: float) -> None:
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._abandoned = threading.Event()
        options = {"context": context, "timeout": timeout_seconds, "request_timeout": timeout_seconds}
        thread = threading.Thread(target=self._run, args=(sdk, code, options), name="e2b-cell", daemon=True)
        thread.start()

    def next(self, deadline: float) -> News | None:
        """The next piece of news, or None if there is none by then (time.monotonic).

        Raises:
            SandboxFault, ConfigError: The call failed.
        """
        try:
            kind, content = self._news.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return None
        if kind == "failed":
            ours = as_ours(content, "running code")
            raise ours from (None if ours is content else content)
        return kind, content

    def abandon(self) -> None:
        """Let the call end as soon as it hears something."""
        self._abandoned.set()

    def _run(self, sdk: Any, code: str, options: dict[str, Any]) -> None:
        try:
            execution = sdk.run_code(
                code,
                on_stdout=lambda message: self._tell("stdout", message.line),
                on_stderr=lambda message: self._tell("stderr", message.line),
                **options,
            )
            self._news.put(("end", execution))
        except Exception as error:  # noqa: BLE001  classified where it is heard of
            self._news.put(("failed", error))

    def _tell(self, stream: Stream, text: str) -> None:
        if self._abandoned.is_set():
            raise _Abandoned
        self._news.put((stream, text))


class CellOutput:
    """What a cell has written, without the token that tells that its code has begun.

    Args:
        token: Comes in stdout once.
        limits: How much is kept.
        relay: Told of new text, if anybody listens.

    Attributes:
        started: When the code began (time.monotonic), or None.
    """

    def __init__(self, token: str, limits: SandboxLimits, relay: Relay | None) -> None:
        self._token, self._limits, self._relay = token, limits, relay
        self._texts: dict[Stream, list[str]] = {"stdout": [], "stderr": []}
        self._size = 0
        self.started: float | None = None

    @property
    def is_too_large(self) -> bool:
        """Whether the code has written more than a file may hold."""
        return self._size > self._limits.file_size_mb << 20

    def add(self, stream: Stream, text: str) -> None:
        """Take in new text."""
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
        """Stdout and stderr, each visibly cut at the limit."""
        stdout, stderr = (cut("".join(parts), self._limits.output_characters) for parts in self._texts.values())
        return stdout, stderr

    def limits_hit(self) -> tuple[str, ...]:
        """("output",) if something had to be cut."""
        lengths = (sum(map(len, parts)) for parts in self._texts.values())
        return ("output",) if max(lengths) > self._limits.output_characters else ()


def follow(cell: RunningCell, output: CellOutput, seconds: float, patience_seconds: float, on_start: Any) -> Any:
    """Take in a cell's output until its end.

    Args:
        cell: What runs.
        output: Takes the text.
        seconds: How long the code may take.
        patience_seconds: How long it may take to begin.
        on_start: Called when it has begun.

    Returns:
        The SDK's execution, or None if the time was over or the output too large.

    Raises:
        SandboxFault: The code did not begin in time, or the call failed.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        news = cell.next(deadline)
        if news is None and output.started is None:
            raise SandboxFault(f"E2B did not start the code within {patience_seconds:g} seconds")
        if news is None:
            return None
        kind, content = news
        if kind == "end":
            return content
        was_started = output.started
        output.add("stdout" if kind == "stdout" else "stderr", content)
        if output.is_too_large:
            return None
        if output.started is not None and was_started is None:
            deadline = output.started + seconds
            on_start()
