"""Shared by both ends of a local sandbox and by the zygote: messages, files, truncation. Standard library only."""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Mapping

HEADER = struct.Struct("!I")  # a message is its length, then JSON, or marshal for requests to run code


def new_files() -> list[int]:
    """Create the files that a worker shares with its parent: stdout, stderr, and the number of the interrupted run.

    The parent creates them: that is cheaper than in a process just forked.
    """
    files = [os.memfd_create(name) for name in ("stdout", "stderr", "interrupts")]
    for output in files[:2]:
        fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)  # each run starts at 0 again
    return files


def framed(payload: bytes) -> bytes:
    """Frame a payload as a message."""
    return HEADER.pack(len(payload)) + payload


def send_message(sock: socket.socket, message: Mapping[str, object]) -> None:
    """Send one message."""
    sock.sendall(framed(json.dumps(message).encode()))


def cut(text: str, limit: int) -> str:
    """Replace lone surrogates, and visibly cut out the middle of text longer than `limit` characters."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else joined(text, text, limit, f"{len(text)} characters")


def joined(head: str, tail: str, limit: int, size: str) -> str:
    """Join the beginning of `head` and the end of `tail`, `limit` characters in total, with a note between them."""
    kept = limit // 2
    return f"{head[:kept]}\n[... cut: {size}, of which {limit} characters are kept ...]\n{tail[kept - limit :]}"
