"""What both ends of a local sandbox use; the zygote imports it too, so: standard library only."""

import fcntl
import json
import os
import socket
import struct

HEADER = struct.Struct("!I")  # every message is its length, then JSON; requests to run code are marshalled


def new_files() -> list[int]:
    """Files of a worker that its parent reads or writes too: stdout, stderr, and the run that is to be interrupted.

    Made by the parent, for which that is less work than for a process just forked.
    """
    files = [os.memfd_create(name) for name in ("stdout", "stderr", "interrupts")]
    for output in files[:2]:
        fcntl.fcntl(output, fcntl.F_SETFL, os.O_APPEND)  # each run begins at 0 again
    return files


def framed(payload: bytes) -> bytes:
    """A payload as a message."""
    return HEADER.pack(len(payload)) + payload


def send_message(sock: socket.socket, message: dict) -> None:
    """Send one message."""
    sock.sendall(framed(json.dumps(message).encode()))


def cut(text: str, limit: int) -> str:
    """Text without lone surrogates, and visibly without its middle if it is longer than `limit` characters."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else joined(text, text, limit, f"{len(text)} characters")


def joined(head: str, tail: str, limit: int, size: str) -> str:
    """The beginning of `head` and the end of `tail`, `limit` characters together, and a note between them."""
    kept = limit // 2
    return f"{head[:kept]}\n[... cut: {size}, of which {limit} characters are kept ...]\n{tail[kept - limit :]}"
