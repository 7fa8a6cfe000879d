"""One namespace in an E2B sandbox: a context, our runner in it, and what its stream says.

The runner is the one of the local backend, so that values, errors and displays do not depend on where the
code runs. It writes a token to stdout as the code starts: what goes wrong before is E2B's fault, and time
counts from then.
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
from toolrl.sandbox.base import Display, ExecResult, OutputListener, SandboxLimits
from toolrl.sandbox.e2b.fleet import Remote
from toolrl.sandbox.e2b.sdk import E2BSettings, Vanished
from toolrl.sandbox.e2b.stream import CellOutput, RunningCell, follow
from toolrl.sandbox.handle import SessionHandle
from toolrl.sandbox.local.relay import Relay
from toolrl.sandbox.outcome import died, result_of

MARKER = "TOOLRL_SANDBOX"
_MODULES = ("plumbing", "ipython", "displays", "execution", "remote")  # in the order of their imports
_RESTARTED = "ContextRestarting"
_NATIVE_FORMS = {
    "text": "text/plain",
    "html": "text/html",
    "markdown": "text/markdown",
    "latex": "text/latex",
    "svg": "image/svg+xml",
    "png": "image/png",
    "jpeg": "image/jpeg",
}
_NOT_THE_CODES = ("UnexpectedEndOfExecution", "WebSocketError", "ExecutionAborted")  # errors of the service


def bootstrap() -> str:
    """Code that makes our modules importable in a kernel, without leaving files there."""
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


def open_context(remote: Remote, folder: str, code: str, what: str) -> Any:
    """A new context, in which our modules are there and `code` has run.

    Args:
        remote: The sandbox.
        folder: Working directory of the context.
        code: Uses `_toolrl`, which is `toolrl.sandbox.inside.remote`.
        what: For the messages of faults.

    Raises:
        SandboxFault: The code failed.
    """
    sdk, seconds = remote.sdk, remote.requests.settings.request_seconds
    context = remote.requests.make(what, lambda: sdk.create_code_context(folder, request_timeout=seconds))
    done = remote.requests.make(
        what,
        lambda: sdk.run_code(f"{bootstrap()}\n{code}", context=context, timeout=seconds, request_timeout=seconds),
    )
    if done.error is not None:
        raise SandboxFault(f"E2B, {what}: {done.error.name}: {done.error.value}")
    return context


def remove_context(remote: Remote, context: Any) -> None:
    """End a context and what runs in it; one that is gone already is no error."""

    def remove() -> None:
        try:
            remote.sdk.remove_code_context(context)
        except Exception as error:
            if type(error).__name__ != "NotFoundException":
                raise

    remote.requests.make("ending a context", remove)


class E2BSession(SessionHandle):
    """A `Session` in an E2B sandbox.

    Args:
        remote: The sandbox.
        folder: Working directory there.
        limits: What a run may use; the sandbox's size bounds memory, processes and files.
        settings: How requests are made.
    """

    def __init__(self, remote: Remote, folder: str, limits: SandboxLimits, settings: E2BSettings) -> None:
        super().__init__(limits)
        self._remote, self._folder, self._settings = remote, folder, settings
        self._context: Any = None
        self._runs = 0
        self._lock = threading.Lock()
        self._interruptible = self._interrupted = False
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed.is_set()

    def _run(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        if self.closed:
            raise ValueError("this session is closed; open another one")
        if self._remote.lost:
            raise Vanished("the E2B sandbox is lost; reset() opens another one")
        with self._lock:
            self._interrupted = False
        try:
            if self._context is None:
                self._open_context()
            return self._run_in_context(code, seconds, environment, on_output)
        except SandboxFault:
            if self._closed.is_set():  # meanwhile, which is how it was ended
                return died("SandboxDied", "the session was closed", "", "", 0.0, ())
            self._remote.lost = True
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

    def restart(self) -> None:
        """Forget the variables."""
        self._drop_context()

    def close(self) -> None:
        """See `Session.close`."""
        if not self.closed:
            self._closed.set()
            if not self._remote.lost:
                self._drop_context()

    def _open_context(self) -> None:
        arguments = (self._limits.display_mb << 20, self._limits.output_characters, MARKER)
        code = f"_toolrl_kernel = _toolrl.Kernel{arguments}"
        self._context = open_context(self._remote, self._folder, code, "opening a context")

    def _drop_context(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            remove_context(self._remote, context)

    def _run_in_context(
        self, code: str, seconds: float, environment: dict[str, str], on_output: OutputListener | None
    ) -> ExecResult:
        self._runs += 1
        token, patience = f"\x1e{secrets.token_hex(16)}\n", self._settings.request_seconds
        call = f"_toolrl_kernel.run{(code, self._runs, environment, token, self._interrupt_name())}"
        relay = Relay(on_output, self._limits.output_characters) if on_output else None
        output = CellOutput(token, self._limits, relay)
        cell = RunningCell(self._remote.sdk, self._context, call, seconds + 2 * patience)
        try:
            execution = follow(cell, output, seconds, patience, self._begin_interrupts)
        except SandboxFault:
            raise
        except BaseException:
            self._drop_context()  # which ends what runs
            raise
        finally:
            cell.abandon()
        elapsed = 0.0 if output.started is None else time.monotonic() - output.started
        if execution is not None:
            return self._result(execution, output, elapsed)
        self._drop_context()
        if output.is_too_large:
            reason = f"the code wrote more than {self._limits.file_size_mb} MB"
            return died("SandboxDied", reason, *output.texts(), elapsed, ("output",))
        reason = f"the code was stopped after {seconds:g} seconds"
        return died("TimeoutError", reason, *output.texts(), elapsed, ("seconds", *output.limits_hit()))

    def _result(self, execution: Any, output: CellOutput, elapsed: float) -> ExecResult:
        error = execution.error
        if error is not None and error.name in _NOT_THE_CODES:
            raise SandboxFault(f"E2B, running code: {error.name}: {error.value}")
        main = [result for result in execution.results if result.is_main_result]
        if error is None and not main:
            raise SandboxFault("E2B, running code: the stream ended before the code did")
        if error is None:
            try:
                result = result_of(main[0].json, *output.texts(), elapsed, self._limits)
            except (ValueError, LookupError, TypeError):
                reason = "the process sent something that is no answer"
            else:
                natives = tuple(_display(native) for native in execution.results if not native.is_main_result)
                limits = tuple(dict.fromkeys((*result.limits_hit, *output.limits_hit())))
                return replace(result, limits_hit=limits, displays=natives + result.displays)
        elif error.name == _RESTARTED:
            if not self._remote.requests.make("looking for the sandbox", self._remote.sdk.is_running):
                raise Vanished("the E2B sandbox ended while code ran in it")
            reason = f"the process ended: {error.value}"
        else:
            reason = f"the process answered with {error.name}: {error.value}"
        self._drop_context()
        return died("SandboxDied", reason, *output.texts(), elapsed, output.limits_hit())

    def _interrupt_name(self) -> str:
        return f"{self._folder.rpartition('/')[2]}-interrupt-{id(self)}-{self._runs}"

    def _begin_interrupts(self) -> None:
        with self._lock:
            self._interruptible = True
            if self._interrupted:
                self._send_interrupt()

    def _send_interrupt(self) -> None:
        path = f"{self._folder.rpartition('/')[0]}/{self._interrupt_name()}"
        with contextlib.suppress(OSError):  # the code has filled the disk: its time limit ends it
            self._remote.requests.make("interrupting code", lambda: self._remote.sdk.files.write(path, b""))


def _display(native: Any) -> Display:
    """What the kernel itself shows, as matplotlib's inline backend does."""
    forms = {mime: getattr(native, name) for name, mime in _NATIVE_FORMS.items()}
    return Display({mime: data for mime, data in forms.items() if isinstance(data, str)})
