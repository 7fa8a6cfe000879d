"""Runs code in a remote kernel as a local worker does. Standard library only.

The text of this file and of its imports is sent to the kernel; see `toolrl.sandbox.e2b.session`.
"""

import os
import random
import signal
import sys
import threading
import types
from typing import Any

from toolrl.sandbox.inside.execution import Runner
from toolrl.sandbox.inside.plumbing import cut

_POLL_SECONDS = 0.05


class RunOutcome:
    """The outcome of a run, sent to the client as the JSON representation of the cell's value."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def _repr_json_(self) -> dict[str, Any]:
        return self._content


class Kernel:
    """Runs code in a namespace separate from the kernel's own.

    Args:
        display_bytes: Limit on the displays of one run, as JSON.
        characters: Limit on the length of a value and of each part of an error.
        marker: An environment variable that marks subprocesses.
    """

    def __init__(self, display_bytes: int, characters: int, marker: str) -> None:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        self._runner, self._characters = Runner(main), characters
        self._runner.display_bytes, self._runner.take_interrupt = display_bytes, self._take_interrupt
        self._interrupted = False
        self._parent = os.path.dirname(os.getcwd())
        if "" not in sys.path:
            sys.path.insert(0, "")
        os.environ[marker] = "1"
        random.seed(0)  # as in local sandboxes

    def run(self, code: str, number: int, environment: dict[str, str], started: str, interrupt: str) -> RunOutcome:
        """Run code.

        Args:
            code: Python source.
            number: Number of the run.
            environment: Environment variables for this run.
            started: Token written to stdout first.
            interrupt: A file in the parent folder; when it appears, KeyboardInterrupt is raised in the code.
        """
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(f"{self._parent}/{interrupt}", over), daemon=True)
        self._interrupted, pid = False, os.getpid()

        def begin() -> None:
            print(started, end="", flush=True)
            watch.start()

        try:
            outcome = self._runner.run(code, number, environment, begin)
        finally:
            over.set()
        if os.getpid() != pid:
            os._exit(0)  # a forked child must not answer
        watch.join()
        if outcome["value"] is not None:
            if len(outcome["value"]) > self._characters:
                outcome["limits"] = [*outcome["limits"], "output"]
            outcome["value"] = cut(outcome["value"], self._characters)
        if outcome["error"] is not None:
            outcome["error"] = [cut(text, self._characters) for text in outcome["error"]]
        return RunOutcome(outcome)

    def _take_interrupt(self, number: int) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _watch(self, path: str, over: threading.Event) -> None:
        while not over.wait(_POLL_SECONDS):
            if os.path.exists(path):
                os.unlink(path)
                self._interrupted = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def sweep(name: str, marker: str) -> None:
    """Kill the processes that code in a folder has left behind; remove the folder and its companion files."""
    import shutil

    parent = os.getcwd()
    folder = os.path.join(parent, name)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                is_marked = f"{marker}=".encode() in file.read()
            if int(pid) != os.getpid() and (is_marked or os.readlink(f"/proc/{pid}/cwd").startswith(folder)):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or belongs to another user
    for entry in os.listdir(parent):
        if entry.startswith(name):
            path = os.path.join(parent, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                for found, folders, _ in os.walk(path):
                    for below in (found, *(os.path.join(found, one) for one in folders)):
                        if not os.path.islink(below):
                            os.chmod(below, 0o700)
                shutil.rmtree(path)
            else:
                os.unlink(path)
