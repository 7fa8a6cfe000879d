"""Runs assertions whose function lives elsewhere: the text of this file goes into a sandbox after `code_runner`'s.

The test runs on a thread. When it calls the function, the run ends with a request; the next run brings the reply.
No code of a candidate ever runs in this process. Standard library only.
"""

import builtins
import json
import queue
import threading
from typing import Any

from toolrl.rewards.code.runner import Verbatim, decode, encode

_WAIT_SECONDS = 60.0


class LiveObject(BaseException):
    """The test passes an argument that cannot leave its process; no `except Exception` of the test's hides it."""


class Assertions:
    """One test on its thread, and the two queues to it."""

    def __init__(self, setup: str, code: str, names: list[str]) -> None:
        self.requests: queue.Queue[dict[str, Any]] = queue.Queue()
        self.replies: queue.Queue[dict[str, str]] = queue.Queue()
        self.setup, self.code, self.names = setup, code, names
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        space: dict[str, Any] = {"__name__": "__test__"}
        try:
            exec(compile(self.setup, "<setup>", "exec", dont_inherit=True), space)
            space |= dict.fromkeys(self.names, self._function)
            exec(compile(self.code, "<test>", "exec", dont_inherit=True), space)
            outcome: dict[str, Any] = {"verdict": True}
        except LiveObject as error:
            outcome = {"live": str(error)}
        except BaseException as error:  # noqa: BLE001  an assertion, or what a wrong value leads to
            outcome = {"verdict": False, "error": type(error).__name__}
        self.requests.put(outcome)

    def _function(self, *args: Any, **kwargs: Any) -> Any:
        try:
            arguments = encode([list(args), kwargs])
        except TypeError as error:
            raise LiveObject(str(error)) from None
        self.requests.put({"call": arguments})
        reply = self.replies.get(timeout=_WAIT_SECONDS)
        if "error" in reply:
            kind = getattr(builtins, reply["error"], None)
            if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, UnicodeError):
                raise kind()
            raise RuntimeError(reply["error"])
        return decode(reply["value"])

    def step(self, reply: str | None = None) -> Verbatim:
        """Go on until the test calls or ends.

        Args:
            reply: What the function gave, as JSON text; None at the start.
        """
        if reply is not None:
            self.replies.put(json.loads(reply))
        return Verbatim(json.dumps(self.requests.get(timeout=_WAIT_SECONDS)))
