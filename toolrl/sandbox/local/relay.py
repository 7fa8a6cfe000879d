"""Passes on output while code runs, no more of it than a result would keep."""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from typing import Literal

from toolrl.sandbox.base import OutputListener

Stream = Literal["stdout", "stderr"]
_CHUNK_BYTES = 1 << 16


class Relay:
    """Counts what a listener has been told.

    Args:
        listener: Called with the stream's name and the new text.
        limit: Characters of each stream; then a note, and nothing more.
    """

    def __init__(self, listener: OutputListener, limit: int) -> None:
        self._listener = listener
        self._left: dict[Stream, int] = {"stdout": limit, "stderr": limit}

    def send(self, stream: Stream, text: str) -> None:
        """Tell the listener of new text."""
        left = self._left[stream]
        if text and left > 0:
            self._listener(stream, text[:left])
            self._left[stream] = left - len(text)
            if len(text) > left:
                self._listener(stream, "\n[... no more is shown while the code runs ...]\n")

    def wants(self, stream: Stream) -> bool:
        """Whether more text of this stream would be passed on."""
        return self._left[stream] > 0


class FileRelay:
    """Reads growing files for a relay.

    Args:
        relay: What the text goes to.
        descriptors: The files that hold stdout and stderr; they stay the caller's.
    """

    def __init__(self, relay: Relay, descriptors: Sequence[int]) -> None:
        self._relay = relay
        self._offsets: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        streams: tuple[Stream, Stream] = ("stdout", "stderr")
        self._files = dict(zip(streams, descriptors, strict=True))
        self._decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in streams}

    def read(self) -> None:
        """Pass on what has been written since the last call."""
        for stream, descriptor in self._files.items():
            while self._relay.wants(stream):
                chunk = os.pread(descriptor, _CHUNK_BYTES, self._offsets[stream])
                if not chunk:
                    break
                self._offsets[stream] += len(chunk)
                self._relay.send(stream, self._decoders[stream].decode(chunk))
