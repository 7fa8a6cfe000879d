"""Our end in a remote kernel: runs code there as a local worker does. Standard library only.

A kernel is sent the text of this file and of those that it imports; see `toolrl.sandbox.e2b.session`.
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

_LOOK_SECONDS = 0.05


class Outcome:
    """What a run came to, for the client alone: the value of the cell, whose JSON form travels."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def _repr_json_(self) -> dict[str, Any]:
        return self._content


class Kernel:
    """Runs code in a namespace beside the kernel's own.

    Args:
        display_bytes: Size of what one run may show, as JSON.
        characters: Length of a value, and of each part of an error.
        marker: A variable that the environment of subprocesses is marked with.
    """

    def __init__(self, display_bytes: int, characters: int, marker: str) -> None:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        self._runner, self._characters = Runner(main), characters
        self._runner.display_bytes, self._runner.take_interrupt = display_bytes, self._take_interrupt
        self._interrupted = False
        self._above = os.path.dirname(os.getcwd())
        if "" not in sys.path:
            sys.path.insert(0, "")
        os.environ[marker] = "1"
        random.seed(0)  # as everywhere

    def run(self, code: str, number: int, environment: dict[str, str], started: str, interrupt: str) -> Outcome:
        """Run code.

        Args:
            code: Python source.
            number: Of the run.
            environment: Variables that hold for this run.
            started: Written to stdout first.
            interrupt: A file above the working directory; when it appears, KeyboardInterrupt is raised in the code.
        """
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(f"{self._above}/{interrupt}", over), daemon=True)
        self._interrupted, pid = False, os.getpid()

        def begin() -> None:
            print(started, end="", flush=True)
            watch.start()

        try:
            outcome = self._runner.run(code, number, environment, begin)
        finally:
            over.set()
        if os.getpid() != pid:
            os._exit(0)  # a child that the code forked must not answer
        watch.join()
        if outcome["value"] is not None:
            outcome["value"] = cut(outcome["value"], self._characters)
        if outcome["error"] is not None:
            outcome["error"] = [cut(text, self._characters) for text in outcome["error"]]
        return Outcome(outcome)

    def _take_interrupt(self, number: int) -> bool:
        interrupted, self._interrupted = self._interrupted, False
        return interrupted

    def _watch(self, path: str, over: threading.Event) -> None:
        while not over.wait(_LOOK_SECONDS):
            if os.path.exists(path):
                os.unlink(path)
                self._interrupted = True
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def sweep(name: str, marker: str) -> None:
    """Kill the processes that code in a folder here has left behind; remove the folder and what lies beside it."""
    import shutil

    above = os.getcwd()
    folder = os.path.join(above, name)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                is_marked = f"{marker}=".encode() in file.read()
            if int(pid) != os.getpid() and (is_marked or os.readlink(f"/proc/{pid}/cwd").startswith(folder)):
                os.kill(int(pid), signal.SIGKILL)
        except OSError:
            continue  # it has ended, or is another user's
    for entry in os.listdir(above):
        if entry.startswith(name):
            path = os.path.join(above, entry)
            if os.path.isdir(path) and not os.path.islink(path):
                for found, folders, _ in os.walk(path):
                    for below in (found, *(os.path.join(found, one) for one in folders)):
                        if not os.path.islink(below):
                            os.chmod(below, 0o700)
                shutil.rmtree(path)
            else:
                os.unlink(path)
