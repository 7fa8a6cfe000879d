"""The outcome of a run: output relayed as it is written, and a checked result. Nothing received is trusted."""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from toolrl.sandbox.base import Display, ExecError, ExecResult, OutputListener, SandboxLimits

Stream = Literal["stdout", "stderr"]
_CHUNK_BYTES = 1 << 16
_NOTE = 100  # characters of the note that says that a text was cut
_KEPT = "; its variables are lost, its files kept"
_LIMITS = ("seconds", "memory", "processes", "file_size", "disk", "output", "displays")


def parse_outcome(
    outcome: Mapping[str, Any], stdout: object, stderr: object, seconds: float, limits: SandboxLimits
) -> ExecResult:
    """Build the result of a run that finished.

    Args:
        outcome: As `Runner.run` returns it, or whatever the code sent instead.
        stdout: Captured stdout, already truncated.
        stderr: Captured stderr, already truncated.
        seconds: Duration of the run.
        limits: Anything longer is rejected.

    Raises:
        LookupError, TypeError, ValueError: The outcome is malformed.
    """
    value, error, most = outcome["value"], outcome["error"], limits.output_characters + _NOTE
    displays = tuple(_display(shown) for shown in outcome["displays"])
    if (
        displays
        and sum(len(mime) + len(text) for shown in displays for mime, text in shown.data.items())
        > limits.display_mb << 20
    ):
        raise ValueError("the displays exceed their limit")
    return ExecResult(
        _text(stdout, most),
        _text(stderr, most),
        None if value is None else _text(value, most),
        None if error is None else ExecError(*(_text(part, most) for part in error)),
        seconds,
        _known(outcome["limits"]),
        displays,
    )


def dead_result(name: str, reason: str, stdout: str, stderr: str, seconds: float, limits: Iterable[str]) -> ExecResult:
    """Build the result of a run whose process is gone; `name` is "TimeoutError" or "SandboxDied"."""
    message = reason.removesuffix(_KEPT) + _KEPT  # the server of a remote sandbox may have said it already
    error = ExecError(name, message, f"{name}: {message}")
    return ExecResult(stdout, stderr, None, error, seconds, _known(limits))


def _known(limits: Iterable[str]) -> tuple[str, ...]:
    limits = tuple(limits)
    return tuple(name for name in _LIMITS if name in limits)


def _display(shown: Mapping[str, Any]) -> Display:
    data = dict(shown["data"])
    return Display({_text(mime): _text(text) for mime, text in data.items()}, shown["is_result"] is True)


def _text(value: object, most: float = math.inf) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"text of at most {most} characters expected, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()


class Relay:
    """Passes output on to a listener, up to a limit.

    Args:
        listener: Called with the stream's name and the new text.
        limit: Characters of each stream; beyond it the listener gets a note, then nothing more.
    """

    def __init__(self, listener: OutputListener, limit: int) -> None:
        self._listener = listener
        self._left: dict[Stream, int] = {"stdout": limit, "stderr": limit}

    def send(self, stream: Stream, text: str) -> None:
        """Pass on new text."""
        left = self._left[stream]
        if text and left > 0:
            self._listener(stream, text[:left])
            self._left[stream] = left - len(text)
            if len(text) > left:
                self._listener(stream, "\n[... no more is shown while the code runs ...]\n")

    def wants(self, stream: Stream) -> bool:
        """Whether this stream is still below the limit."""
        return self._left[stream] > 0


class FileRelay:
    """Feeds a relay from growing files.

    Args:
        relay: Receives the text.
        descriptors: The files that hold stdout and stderr; the caller closes them.
    """

    def __init__(self, relay: Relay, descriptors: Sequence[int]) -> None:
        self._relay = relay
        self._offsets: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        self._files = dict(zip(streams, descriptors, strict=True))
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in streams}

    def read(self) -> None:
        """Pass on what was written since the last call."""
        for stream, descriptor in self._files.items():
            while self._relay.wants(stream):
                chunk = os.pread(descriptor, _CHUNK_BYTES, self._offsets[stream])
                if not chunk:
                    break
                self._offsets[stream] += len(chunk)
                self._relay.send(stream, self._decoders[stream].decode(chunk))
