"""Runs code as a REPL does, where the code runs: in a local worker or in a remote kernel.

Standard library only; a remote kernel is sent the text of this file.
"""

import _signal  # type: ignore[import-not-found]  # signal.signal makes enums, which takes ten times as long
import ast
import errno
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from toolrl.sandbox.displays import Displays

_NUMBERED = re.compile(r"<tool \d+>")  # every run has a file name of its own, so that old functions show their lines


class Runner:
    """One namespace, in which runs follow each other; on the main thread only.

    Attributes:
        take_interrupt: Tells whether an interrupt was noted for the run of this number, and forgets it. SIGINT
            interrupts the code as well, but it may come when that has not begun.
        display_bytes: Size of what one run may show, as JSON.

    Args:
        main: The module whose names the code sees.
    """

    def __init__(self, main: types.ModuleType) -> None:
        self._main, self._displays = main, Displays()
        self._number = 0
        self.take_interrupt: Callable[[int], bool] = lambda number: False
        self.display_bytes = 0
        self._libraries = frozenset(sys.path_importer_cache)  # folders that code does not write to
        vars(main)["display"] = self._displays.display
        self._displays.take_over_figures()

    def run(
        self, code: str, number: int, environment: dict[str, str], started: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Execute code: {"value", "error": [name, value, traceback] or None, "limits", "displays"}.

        Args:
            code: Python source.
            number: Of the run, for file names.
            environment: Variables that hold for this run.
            started: Called when SIGINT has begun to mean KeyboardInterrupt in the code.
        """
        filename = f"<tool {number}>"
        linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
        finders: dict[str, Any] = sys.path_importer_cache
        for path, finder in finders.items():  # for modules among the files written since
            if path not in self._libraries and finder is not None:
                finder.invalidate_caches()
        self._displays.begin(self.display_bytes)
        self._number = number
        previous = _signal.signal(_signal.SIGINT, self._on_interrupt)
        before = {name: os.environ.get(name) for name in environment}
        if environment:
            os.environ.update(environment)
        try:
            if started is not None:
                started()
            value, error = self._attempt(self._execute, code, filename)
            if self._displays.may_have_figures:
                _, late_error = self._attempt(self._displays.show_figures)
                error = error or late_error
            described, limit = error and _describe(error), error and _limit_behind(error)
        finally:
            _signal.signal(_signal.SIGINT, previous)
            for name, text in before.items():
                os.environ.pop(name, None)
                if text is not None:
                    os.environ[name] = text
        displays, overflowed = self._displays.taken()
        limits = [name for name in (limit, "displays" if overflowed else "") if name]
        return {"value": None if error else value, "error": described, "limits": limits, "displays": displays}

    def _execute(self, code: str, filename: str) -> str | None:
        namespace = vars(self._main)
        tree = ast.parse(code, filename)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        if tree.body:
            exec(compile(tree, filename, "exec", dont_inherit=True), namespace)
        if not isinstance(last, ast.Expr):
            return None
        value = eval(compile(ast.Expression(last.value), filename, "eval", dont_inherit=True), namespace)
        return None if value is None else self._displays.show_result(value)

    def _attempt(self, function: Callable[..., Any], *arguments: object) -> tuple[Any, BaseException | None]:
        try:
            return self._interruptible(function, *arguments), None
        except BaseException as error:  # noqa: BLE001  SystemExit too: everything the code raises is its own
            return None, error

    def _interruptible(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self.take_interrupt(self._number):
            raise KeyboardInterrupt
        return function(*arguments)

    def _on_interrupt(self, number: int, frame: types.FrameType | None) -> None:
        """Interrupt the code, but not what surrounds it."""
        while frame is not None and frame.f_code is not Runner._interruptible.__code__:
            frame = frame.f_back
        if frame is not None:
            self.take_interrupt(self._number)
            raise KeyboardInterrupt


def _describe(error: BaseException) -> list[str]:
    """Name, message, and a traceback that shows only the frames of the code."""
    name = type(error).__name__
    try:
        reports = [traceback.TracebackException.from_exception(error, compact=True)]
        for item in reports:  # grows: causes and groups come after
            item.stack[:] = [frame for frame in item.stack if frame.filename.startswith("<tool ")]
            reports += filter(None, (item.__cause__, item.__context__, *(item.exceptions or ())))
        lines = "".join(reports[0].format())
        return [name, _NUMBERED.sub("<tool>", str(error)), _NUMBERED.sub("<tool>", lines)]
    except Exception:  # noqa: BLE001  an exception that cannot even be printed, or no memory left to do it
        return [name, "(no message)", f"{name}: (no message)"]


def _limit_behind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "file_size"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk"
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    return "processes" if no_thread or (isinstance(error, OSError) and error.errno == errno.EAGAIN) else ""
