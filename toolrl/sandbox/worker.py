"""The Python session inside a sandbox: reads code from a socket, runs it, answers. Standard library only.

Nothing here is secret from the code that runs: it can forge its own answers, and no more than those.
"""

import io
import json
import math
import os
import random
import resource
import signal
import socket
import sys
import types
from collections.abc import Sequence

from toolrl.sandbox.execution import Runner
from toolrl.sandbox.plumbing import HEADER, cut, joined, send_message


def prepare() -> None:
    """Set the process up for `serve`; what it forks is then set up too."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # except during a run


def serve(channel: socket.socket, outputs: tuple[int, int], limits: dict) -> None:
    """Answer messages {"run", "code", "seconds", "environment"} until the channel closes.

    Two answers for each: one when an interrupt (SIGINT) would reach the code, one at its end.
    """
    sys.path.insert(0, "")
    random.seed(0)  # the same seed gives the same trajectory
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(0)
    runner = Runner(sys.modules["__main__"], limits["display_mb"] << 20)
    pid = os.getpid()
    reader = channel.makefile("rb")
    while header := reader.read(HEADER.size):
        request = json.loads(reader.read(HEADER.unpack(header)[0]))
        for output in outputs:
            os.ftruncate(output, 0)
        _limit_cpu(request["seconds"])
        number = request["run"]
        outcome = runner.run(
            request["code"], number, request["environment"], lambda: send_message(channel, {"started": True})
        )
        for name in ("stdout", "stderr"):
            try:
                getattr(sys, name).flush()
            except Exception:  # noqa: BLE001  whatever the code put in its place
                continue
        if os.getpid() != pid:
            os._exit(0)  # a child that the code forked must not answer
        send_message(channel, {"run": number, **report(outputs, limits, outcome)})


def report(outputs: Sequence[int], limits: dict, outcome: dict | None = None) -> dict:
    """The end of a run as a message: all text cut to its limit, and the limits that were hit."""
    limit = limits["output_characters"]
    outcome = outcome or {"value": None, "error": None, "limits": [], "displays": []}
    (stdout, was_cut), (stderr, was_cut_too) = (_captured(output, limit) for output in outputs)
    value, error, hit = outcome["value"], outcome["error"], outcome["limits"]
    if "file_size" in hit and any(os.fstat(output).st_size >= limits["file_size_mb"] << 20 for output in outputs):
        hit = [name for name in hit if name != "file_size"]  # it was stdout that grew too large
    return {
        "stdout": stdout,
        "stderr": stderr,
        "value": None if value is None else cut(value, limit),
        "error": error and [cut(text, limit) for text in error],
        "limits": [*hit, *(["output"] if was_cut or was_cut_too else [])],
        "displays": outcome["displays"],
    }


def _limit_cpu(seconds: float) -> None:
    """Let threads and children that outlive the run burn no more than the run itself could have."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    allowed = usage.ru_utime + usage.ru_stime + seconds * (os.cpu_count() or 1) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(allowed), resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _captured(output: int, limit: int) -> tuple[str, bool]:
    """Text of an output file and whether it had to be cut, without reading more than is kept."""
    size = os.fstat(output).st_size
    if size <= 4 * limit:
        text = os.pread(output, size, 0).decode("utf-8", "replace")
        return cut(text, limit), len(text) > limit
    head, tail = (os.pread(output, 2 * limit, start).decode("utf-8", "replace") for start in (0, size - 2 * limit))
    return joined(head, tail, limit, f"{size} bytes"), True
