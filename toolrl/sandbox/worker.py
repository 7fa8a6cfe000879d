"""The Python session inside a sandbox: reads code from a socket, runs it, answers. Standard library only.

Nothing here is secret from the code that runs: it can forge its own answers, and no more than those.
"""

import ast
import errno
import importlib
import io
import json
import linecache
import math
import os
import random
import re
import resource
import socket
import sys
import traceback
import types

from toolrl.sandbox.plumbing import HEADER, send_message

_NUMBERED = re.compile(r"<tool \d+>")  # every run has a file name of its own, so that old functions show their lines


def serve(channel: socket.socket, outputs: tuple[int, int], limits: dict) -> None:
    """Answer messages {"run", "code", "seconds"} until the channel closes."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.FileIO(descriptor, "w", closefd=False), "utf-8", "backslashreplace", line_buffering=True
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.argv, sys.path = [""], ["", *sys.path]
    random.seed(0)  # the same seed gives the same trajectory
    pid = os.getpid()
    reader = channel.makefile("rb")
    while header := reader.read(HEADER.size):
        request = json.loads(reader.read(HEADER.unpack(header)[0]))
        for output in outputs:
            os.ftruncate(output, 0)
        _limit_cpu(request["seconds"])
        importlib.invalidate_caches()  # for modules among the files written since
        value, error, hit = _run(request["code"], f"<tool {request['run']}>", main.__dict__)
        for name in ("stdout", "stderr"):
            try:
                getattr(sys, name).flush()
            except Exception:  # noqa: BLE001  whatever the code put in its place
                continue
        if os.getpid() != pid:
            os._exit(0)  # a child that the code forked must not answer
        send_message(channel, {"run": request["run"], **report(outputs, limits, value, error, hit)})


def report(
    outputs: tuple[int, int], limits: dict, value: str | None = None, error: tuple | None = None, hit: str = ""
) -> dict:
    """The end of a run as a message: all text cut to its limit, and the limits that were hit."""
    limit = limits["output_characters"]
    (stdout, cut), (stderr, cut_too) = (_captured(output, limit) for output in outputs)
    full = any(os.fstat(output).st_size >= limits["file_size_mb"] << 20 for output in outputs)
    if full and hit == "file_size":
        hit = ""  # it was stdout that grew too large
    return {
        "stdout": stdout,
        "stderr": stderr,
        "value": None if value is None else _cut(value, limit),
        "error": error and [_cut(text, limit) for text in error],
        "limits": [name for name in (hit, "output" if cut or cut_too else "") if name],
    }


def _run(code: str, filename: str, namespace: dict) -> tuple[str | None, tuple[str, str, str] | None, str]:
    """Execute as a REPL does: (repr of the final expression, error, limit that caused the error)."""
    linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
    try:
        tree = ast.parse(code, filename)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, filename, "exec", dont_inherit=True), namespace)
        if not isinstance(last, ast.Expr):
            return None, None, ""
        result = eval(compile(ast.Expression(last.value), filename, "eval", dont_inherit=True), namespace)
        return None if result is None else repr(result), None, ""
    except BaseException as error:  # noqa: BLE001  SystemExit too: everything the code raises is its own
        return None, _describe(error), _limit_behind(error)


def _describe(error: BaseException) -> tuple[str, str, str]:
    """Name, message, and a traceback that shows only the frames of the code."""
    name = type(error).__name__
    try:
        reports = [traceback.TracebackException.from_exception(error, compact=True)]
        for item in reports:  # grows: causes and groups come after
            item.stack[:] = [frame for frame in item.stack if frame.filename.startswith("<tool")]
            reports += filter(None, (item.__cause__, item.__context__, *(item.exceptions or ())))
        lines = "".join(reports[0].format())
        return name, _NUMBERED.sub("<tool>", str(error)), _NUMBERED.sub("<tool>", lines)
    except Exception:  # noqa: BLE001  an exception that cannot even be printed, or no memory left to do it
        return name, "(no message)", f"{name}: (no message)"


def _limit_behind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "file_size"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk"
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    return "processes" if no_thread or (isinstance(error, OSError) and error.errno == errno.EAGAIN) else ""


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
        return _cut(text, limit), len(text) > limit
    head, tail = (os.pread(output, 2 * limit, start).decode("utf-8", "replace") for start in (0, size - 2 * limit))
    return _joined(head, tail, limit, f"{size} bytes"), True


def _cut(text: str, limit: int) -> str:
    text = text.encode("utf-8", "replace").decode()  # no lone surrogates
    return text if len(text) <= limit else _joined(text, text, limit, f"{len(text)} characters")


def _joined(head: str, tail: str, limit: int, size: str) -> str:
    kept = limit // 2
    return f"{head[:kept]}\n[... cut: {size}, of which {limit} characters are kept ...]\n{tail[kept - limit :]}"
