"""Runs assertions about a function in another sandbox: sent into a sandbox after `runner`.

The test runs on a thread. When it calls the function, the run ends with a request; the next run brings the reply.
A candidate's code never runs in this process. Standard library only.
"""

import builtins
import json
import queue
import threading
from typing import Any

from toolrl.rewards.code.runner import Verbatim, decode, encode

_WAIT_SECONDS = 60.0


class LiveObject(BaseException):
    """The test passes an argument that cannot leave its process. The test's `except Exception` does not catch it."""


class Assertions:
    """A test on a thread, with a queue in each direction."""

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
        except BaseException as error:  # noqa: BLE001  a failed assertion, or an error caused by a wrong value
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
        """Continue until the test calls the function or ends.

        Args:
            reply: The reply of the function, as JSON text; None at the start.
        """
        if reply is not None:
            self.replies.put(json.loads(reply))
        return Verbatim(json.dumps(self.requests.get(timeout=_WAIT_SECONDS)))
