"""A session on an E2B machine: a context, our runner in it, and the events of its stream.

The runner is that of the local backend, so that values, errors and displays do not depend on where the
code runs. It writes a token to stdout when the code starts: failures before that are E2B's, and the time
limit counts from then.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox.backend import BaseSession
from toolrl.sandbox.base import Display, ExecResult, OutputListener, SandboxLimits
from toolrl.sandbox.e2b.fleet import Machine
from toolrl.sandbox.e2b.sdk import MachineLost
from toolrl.sandbox.e2b.stream import CellOutput, RunningCell, follow
from toolrl.sandbox.results import Relay, dead_result, parse_outcome

MARKER = "TOOLRL_SANDBOX"
_MODULES = ("plumbing", "ipython", "displays", "execution", "remote")  # in the order of their imports
_RESTARTED = "ContextRestarting"
RESULT_FIELDS = {  # of E2B's results, by MIME type
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/javascript": "javascript",
}
_SERVICE_ERRORS = ("UnexpectedEndOfExecution", "WebSocketError", "ExecutionAborted")


def bootstrap() -> str:
    """Code that makes our modules importable in a kernel without leaving files there."""
    folder = Path(__file__).parents[1] / "inside"
    sources = {name: (folder / f"{name}.py").read_text("utf-8") for name in _MODULES}
    return f"""
import sys, types
for _name in ("toolrl", "toolrl.sandbox", "toolrl.sandbox.inside"):
    sys.modules.setdefault(_name, types.ModuleType(_name)).__path__ = []
for _name, _source in {sources!r}.items():
    _module = sys.modules["toolrl.sandbox.inside." + _name] = types.ModuleType("toolrl.sandbox.inside." + _name)
    exec(compile(_source, "<toolrl " + _name + ">", "exec"), vars(_module))
_toolrl = sys.modules["toolrl.sandbox.inside.remote"]
for _name in [_name for _name in sys.modules if _name.split(".")[0] == "toolrl"]:
    del sys.modules[_name]
"""


def open_context(machine: Machine, folder: str, code: str, what: str) -> Any:
    """Open a context, load our modules and run `code` in it.

    Args:
        machine: The machine.
        folder: Working directory of the context.
        code: May use `_toolrl`, which is `toolrl.sandbox.inside.remote`.
        what: Names the purpose in error messages.

    Raises:
        SandboxFault: The code failed.
    """
    sdk, seconds = machine.sdk, machine.requests.settings.request_seconds
    context = machine.requests.make(what, lambda: sdk.create_code_context(folder, request_timeout=seconds))
    done = machine.requests.make(
        what,
        lambda: sdk.run_code(f"{bootstrap()}\n{code}", context=context, timeout=seconds, request_timeout=seconds),
    )
    if done.error is not None:
        raise SandboxFault(f"E2B, {what}: {done.error.name}: {done.error.value}")
    return context


def remove_context(machine: Machine, context: Any) -> None:
    """End a context and its code; it is not an error if the context is already gone."""

    def remove() -> None:
        try:
            machine.sdk.remove_code_context(context)
        except Exception as error:
            if type(error).__name__ != "NotFoundException":
                raise

    machine.requests.make("ending a context", remove)


class E2BSession(BaseSession):
    """A `Session` on an E2B machine.

    Args:
        machine: The machine.
        folder: Its working directory.
        limits: Limits of a run; the machine's size bounds memory, processes and files.
    """

    def __init__(self, machine: Machine, folder: str, limits: SandboxLimits) -> None:
        super().__init__(limits)
        self._machine, self._folder = machine, folder
        self._context: Any = None
        self._runs = 0
        self._lock = threading.Lock()
        self._interruptible = self._interrupted = False
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether the session has been closed."""
        return self._closed.is_set()

    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        if self.closed:
            raise ValueError("this session is closed; open a new one")
        if self._machine.lost:
            raise MachineLost("the E2B sandbox is lost; reset() opens a new one")
        with self._lock:
            self._interrupted = False
        try:
            if self._context is None:
                self._open_context()
            return self._run_in_context(code, seconds, environment, on_output)
        except SandboxFault:
            if self._closed.is_set():  # by another thread, which ended the run
                return dead_result("SandboxDied", "the session was closed", "", "", 0.0, ())
            self._machine.lost = True
            raise
        finally:
            with self._lock:
                self._interruptible = False

    def interrupt(self) -> None:
        """See `Session.interrupt`."""
        with self._lock:
            self._interrupted = True
            if self._interruptible:
                self._send_interrupt()

    def close(self) -> None:
        """See `Session.close`."""
        if not self.closed:
            self._closed.set()
            if not self._machine.lost:
                self.drop_context()

    def _open_context(self) -> None:
        arguments = (self._limits.display_mb << 20, self._limits.output_characters, MARKER)
        code = f"_toolrl_kernel = _toolrl.Kernel{arguments}"
        self._context = open_context(self._machine, self._folder, code, "opening a context")

    def drop_context(self) -> None:
        """Discard the variables; the next run opens a new context."""
        context, self._context = self._context, None
        if context is not None:
            remove_context(self._machine, context)

    def _run_in_context(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        self._runs += 1
        token, patience = f"\x1e{secrets.token_hex(16)}\n", self._machine.requests.settings.request_seconds
        call = f"_toolrl_kernel.run{(code, self._runs, environment, token, self._interrupt_name())}"
        relay = Relay(on_output, self._limits.output_characters) if on_output else None
        output = CellOutput(token, self._limits, relay)
        cell = RunningCell(self._machine.sdk, self._context, call, seconds + 2 * patience)
        try:
            execution = follow(cell, output, seconds, patience, self._begin_interrupts)
        except SandboxFault:
            raise
        except BaseException:
            self.drop_context()  # ends the code
            raise
        finally:
            cell.abandon()
        elapsed = 0.0 if output.started is None else time.monotonic() - output.started
        if execution is not None:
            return self._result(execution, output, elapsed)
        self.drop_context()
        if output.is_too_large:
            reason = f"the code wrote more than {self._limits.file_size_mb} MB"
            return dead_result("SandboxDied", reason, *output.texts(), elapsed, ("output",))
        reason = f"the code was stopped after {seconds:g} seconds"
        return dead_result("TimeoutError", reason, *output.texts(), elapsed, ("seconds", *output.limits_hit()))

    def _result(self, execution: Any, output: CellOutput, elapsed: float) -> ExecResult:
        error = execution.error
        if error is not None and error.name in _SERVICE_ERRORS:
            raise SandboxFault(f"E2B, running code: {error.name}: {error.value}")
        main = [result for result in execution.results if result.is_main_result]
        if error is None and not main:
            raise SandboxFault("E2B, running code: the stream ended before the code did")
        if error is None:
            try:
                result = parse_outcome(main[0].json, *output.texts(), elapsed, self._limits)
            except (ValueError, LookupError, TypeError):
                reason = "the process sent an invalid answer"
            else:
                natives = tuple(_display(native) for native in execution.results if not native.is_main_result)
                limits = tuple(dict.fromkeys((*result.limits_hit, *output.limits_hit())))
                return replace(result, limits_hit=limits, displays=natives + result.displays)
        elif error.name == _RESTARTED:
            if not self._machine.requests.make("looking for the sandbox", self._machine.sdk.is_running):
                raise MachineLost("the E2B sandbox ended while code was running")
            reason = f"the process ended: {error.value}"
        else:
            reason = f"the process answered with {error.name}: {error.value}"
        self.drop_context()
        return dead_result("SandboxDied", reason, *output.texts(), elapsed, output.limits_hit())

    def _interrupt_name(self) -> str:
        return f"{self._folder.rpartition('/')[2]}-interrupt-{id(self)}-{self._runs}"

    def _begin_interrupts(self) -> None:
        with self._lock:
            self._interruptible = True
            if self._interrupted:
                self._send_interrupt()

    def _send_interrupt(self) -> None:
        path = f"{self._folder.rpartition('/')[0]}/{self._interrupt_name()}"
        with contextlib.suppress(OSError):  # the code filled the disk; its time limit ends it
            self._machine.requests.make("interrupting code", lambda: self._machine.sdk.files.write(path, b""))


def _display(native: Any) -> Display:
    """A display by the kernel itself, such as matplotlib's inline backend."""
    forms = {mime: getattr(native, name) for mime, name in RESULT_FIELDS.items()}
    return Display({mime: data for mime, data in forms.items() if isinstance(data, str)})
