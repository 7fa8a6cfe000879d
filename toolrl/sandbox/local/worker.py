"""The Python session inside a sandbox: reads code from a socket, runs it, answers. Standard library only.

Nothing here is secret from the code: it can forge its own answers, but nothing else.
"""

import builtins
import io
import marshal
import math
import os
import resource
import signal
import socket
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

from toolrl.sandbox.inside.execution import Runner
from toolrl.sandbox.inside.plumbing import HEADER, cut, joined, send_message

CORES = os.cpu_count() or 1


def prepare() -> Runner:
    """Prepare this process, and with it every process it forks, for `serve`."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
        )
        vars(stream)["mode"] = "w"  # as in an interpreter, where `open` sets it
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv = [""]
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # usually defined by `site`, which is not imported here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # except during a run
    for name in ("random", "numpy.random"):
        if name in sys.modules:
            sys.modules[name].seed(0)  # the same seed gives the same trajectory
    runner = Runner(sys.modules["__main__"])
    for _ in range(10):  # warms up memory and the specialising interpreter for every fork
        runner.run("print(6 * 7)\n1", 0, {})
    runner.forget_values()
    return runner


def serve(
    runner: Runner, channel: socket.socket, outputs: Sequence[int], interrupts: int, limits: dict[str, int]
) -> None:
    """Answer requests (number, code, seconds, environment) until the channel closes.

    Args:
        runner: Returned by `prepare`.
        channel: The socket to read requests from.
        outputs: The files behind stdout and stderr.
        interrupts: A file with the number of the run that the last SIGINT was meant for.
        limits: `SandboxLimits` as a dict.
    """
    sys.path.insert(0, "")
    os.register_at_fork(after_in_child=sys.modules["random"].seed)  # as the module does; skipped in the zygote

    def take_interrupt(number: int) -> bool:
        noted = int.from_bytes(os.pread(interrupts, 8, 0), "little") == number
        if noted:
            os.ftruncate(interrupts, 0)
        return noted

    runner.display_bytes, runner.take_interrupt = limits["display_mb"] << 20, take_interrupt
    pid = os.getpid()
    reader = channel.makefile("rb")
    while header := reader.read(HEADER.size):
        number, code, seconds, environment = marshal.loads(reader.read(HEADER.unpack(header)[0]))
        _limit_cpu(seconds)
        outcome = runner.run(code, number, environment)
        for name in ("stdout", "stderr"):
            try:
                getattr(sys, name).flush()
            except Exception:  # noqa: BLE001  the code may have replaced the stream
                continue
        if os.getpid() != pid:
            os._exit(0)  # a forked child must not answer
        send_message(channel, {"run": number, **report(outputs, limits, outcome)})


def report(outputs: Sequence[int], limits: dict[str, int], outcome: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build the answer: the outcome and output of a run, truncated, and the limits that were reached."""
    limit = limits["output_characters"]
    outcome = outcome or {"value": None, "error": None, "limits": [], "displays": []}
    (stdout, was_cut), (stderr, was_cut_too) = (_captured(output, limit) for output in outputs)
    value, error, hit = outcome["value"], outcome["error"], outcome["limits"]
    was_cut = was_cut or was_cut_too or (value is not None and len(value) > limit)
    if "file_size" in hit and any(os.fstat(output).st_size >= limits["file_size_mb"] << 20 for output in outputs):
        hit = [name for name in hit if name != "file_size"]  # stdout or stderr grew too large
    return {
        "stdout": stdout,
        "stderr": stderr,
        "value": None if value is None else cut(value, limit),
        "error": error and [cut(text, limit) for text in error],
        "limits": [*hit, *(["output"] if was_cut else [])],
        "displays": outcome["displays"],
    }


def _limit_cpu(seconds: float) -> None:
    """Limit threads and children that outlive the run to the CPU time the run itself could have used."""
    allowed = math.ceil(time.process_time() + seconds * CORES + 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    if hard != resource.RLIM_INFINITY:
        allowed = min(allowed, hard)
    if allowed != soft:
        resource.setrlimit(resource.RLIMIT_CPU, (allowed, hard))


def _captured(output: int, limit: int) -> tuple[str, bool]:
    """Text of an output file, and whether it was truncated; reads no more than is kept."""
    size = os.lseek(output, 0, os.SEEK_END)
    if not size:
        return "", False
    if size <= 4 * limit:
        text = os.pread(output, size, 0).decode("utf-8", "replace")
        return cut(text, limit), len(text) > limit
    head, tail = (os.pread(output, 2 * limit, start).decode("utf-8", "replace") for start in (0, size - 2 * limit))
    return joined(head, tail, limit, f"{size} bytes"), True
