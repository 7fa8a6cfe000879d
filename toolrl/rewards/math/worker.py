"""The script of a math-verify process: reads requests and writes verdicts, one JSON value per line.

A model can write a formula that takes forever, and math-verify's own timeouts only work on a main thread. Here the
kernel stops the process when a request has used up its CPU time, whatever the interpreter is doing: `ITIMER_PROF` with
SIGPROF's default action. The timer does not run while the process is not scheduled.

The script receives its `sys.path` as an argument, and imports nothing from toolrl.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Answer requests until the input ends."""
    sys.path[:] = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # no output of a library is read as a verdict
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    logging.disable(logging.CRITICAL)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        equal = load()
    except ImportError as error:
        reply({"missing": error.name or str(error)})
        return
    reply({"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        try:
            verdict: dict[str, Any] = {"equal": equal(request["gold"], request["parts"])}
        except (MemoryError, RecursionError) as error:
            verdict = {"equal": False, "reason": f"too large to be compared ({type(error).__name__})"}
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply({"id": request["id"], **verdict})


def load() -> Callable[[str, list[str]], bool]:
    """Import `compare.py` next to this script, with math-verify, and return the comparison.

    Raises:
        ImportError: A package is missing.
    """
    spec = importlib.util.spec_from_file_location("math_compare", Path(__file__).with_name("compare.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def equal(gold: str, parts: list[str]) -> bool:
        return all(module.equal(gold, part) for part in parts)

    equal("1", ["2"])  # builds the parser's tables
    return equal


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(0)
