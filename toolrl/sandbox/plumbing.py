"""What both ends of a local sandbox use; the zygote imports it too, so: standard library only."""

import fcntl
import json
import os
import socket
import struct

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
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


def start_time(pid: int | str) -> str | None:
    """When a process started, in clock ticks since boot: with its id this names it for good. None if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return None


def remove_tree(path: str) -> None:
    """Remove a directory whatever is in it: locked folders too, and nesting deeper than any stack or path.

    Nobody may be writing to it any more. Nothing happens if it is gone.
    """
    try:
        os.chmod(path, 0o700)
        here = os.open(path, _FOLDER)
    except FileNotFoundError:
        return
    pending = [_remove_files(here)]  # from the top down to `here`: folders yet to be removed
    while pending:
        if pending[-1]:
            step = pending[-1][-1]
        else:
            pending.pop()
            step = ".."
        if pending:
            there = os.open(step, _FOLDER, dir_fd=here)
            os.close(here)
            here = there
            if step == "..":
                os.rmdir(pending[-1].pop(), dir_fd=here)
            else:
                pending.append(_remove_files(here))
    os.close(here)
    os.rmdir(path)


def _remove_files(directory: int) -> list[str]:
    """Remove what is no folder; the names of the folders, unlocked."""
    folders = []
    for name in os.listdir(directory):
        try:
            os.unlink(name, dir_fd=directory)
        except IsADirectoryError:
            os.chmod(name, 0o700, dir_fd=directory)
            folders.append(name)
    return folders
