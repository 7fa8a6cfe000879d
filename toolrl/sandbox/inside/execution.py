"""Runs code like a REPL, inside a local worker or a remote kernel.

Standard library only; the text of this file is sent to remote kernels.
"""

import _signal  # type: ignore[import-not-found]  # signal.signal creates enums, which takes ten times as long
import ast
import builtins
import errno
import linecache
import os
import re
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from toolrl.sandbox.inside.displays import Displays
from toolrl.sandbox.inside.ipython import magic, parsed, stand_in

_VALUES = ("_", "__", "___")  # the last three
_COROUTINE = 0x80  # inspect.CO_COROUTINE, without inspect
_OURS = {function.__code__.co_filename for function in (Displays.display, magic, lambda: None)}
_COMPILED = (".pyx", ".pxi", ".pxd")
_NUMBERED = re.compile(r"<tool \d+>")  # a file name per run, so that tracebacks of older functions show the right lines


class Runner:
    """A namespace for successive runs; on the main thread only.

    Attributes:
        take_interrupt: Returns and clears whether an interrupt is pending for the run of this number. SIGINT
            interrupts the code too, but may arrive before it has started.
        display_bytes: Limit on the displays of one run, as JSON.

    Args:
        main: The module in which the code runs.
    """

    def __init__(self, main: types.ModuleType) -> None:
        self._main, self._displays = main, Displays()
        self._number = 0
        self.take_interrupt: Callable[[int], bool] = lambda number: False
        self.display_bytes = 0
        self._libraries = frozenset(sys.path_importer_cache)  # folders that the code does not write to
        self._values: list[object] = []  # values shown, the latest first
        self._loop: Any = None
        folders = {os.path.dirname(os.__file__), sys.prefix, sys.base_prefix, *filter(os.path.isabs, sys.path)}
        folders -= {os.getcwd()}
        self._of_libraries = (*(f"{folder.rstrip('/')}/" for folder in folders), "<frozen ", "/proc/self/fd/")
        vars(main)["display"] = self._displays.display
        vars(builtins)["__magic__"] = lambda line, body=None, is_wanted=False: magic(line, body, is_wanted, vars(main))
        stand_in(self._displays.display)
        self._displays.take_over_figures()

    def run(
        self, code: str, number: int, environment: dict[str, str], started: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Execute code: {"value", "error": [name, value, traceback] or None, "limits", "displays"}.

        Args:
            code: Python source.
            number: Number of the run, for file names.
            environment: Environment variables for this run.
            started: Called once SIGINT raises KeyboardInterrupt in the code.
        """
        filename, code = f"<tool {number}>", _dedented(code)
        linecache.cache[filename] = (len(code), None, code.splitlines(keepends=True), filename)
        finders: dict[str, Any] = sys.path_importer_cache
        for path, finder in finders.items():  # to find modules written since
            if path not in self._libraries and finder is not None:
                finder.invalidate_caches()
        self._displays.begin(self.display_bytes)
        self._number = number
        events: Any = sys.modules.get("asyncio.events")  # hide a kernel's own event loop from the code
        loop = events and events._get_running_loop()
        if loop is not None:
            events._set_running_loop(None)
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
            described, limit = error and _describe(error, self._of_libraries), error and _limit_behind(error)
        finally:
            _signal.signal(_signal.SIGINT, previous)
            if loop is not None:
                events._set_running_loop(loop)
            for name, text in before.items():
                os.environ.pop(name, None)
                if text is not None:
                    os.environ[name] = text
        displays, overflowed = self._displays.taken()
        limits = [name for name in (limit, "displays" if overflowed else "") if name]
        return {"value": None if error else value, "error": described, "limits": limits, "displays": displays}

    def forget_values(self) -> None:
        """Clear the last values."""
        self._values = []
        for name in _VALUES:
            vars(self._main).pop(name, None)

    def _execute(self, code: str, filename: str) -> str | None:
        namespace = vars(self._main)
        tree = parsed(code, filename)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        if tree.body:
            self._evaluate(tree, filename, namespace)
        if not isinstance(last, ast.Expr):
            return None
        value = self._evaluate(ast.Expression(last.value), filename, namespace)
        if value is None or _is_silent(code, last):
            return None
        shown = self._displays.show_result(value)
        for name, earlier in zip(_VALUES, self._values):  # noqa: B905
            if namespace.get(name, earlier) is not earlier:
                break  # the code has assigned this name
        else:
            self._values = [value, *self._values[:2]]
            namespace.update(zip(_VALUES, self._values))  # noqa: B905
        return shown

    def _evaluate(self, tree: ast.Module | ast.Expression, filename: str, namespace: dict[str, Any]) -> Any:
        mode = "eval" if isinstance(tree, ast.Expression) else "exec"
        compiled = compile(tree, filename, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        value = eval(compiled, namespace)
        return self._awaited(value) if compiled.co_flags & _COROUTINE else value

    def _awaited(self, coroutine: Any) -> Any:
        """The result of a top-level `await`; background tasks continue in the next cell that awaits."""
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # interrupted while waiting
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task]))
            raise

    def _attempt(self, function: Callable[..., Any], *arguments: object) -> tuple[Any, BaseException | None]:
        try:
            return self._interruptible(function, *arguments), None
        except BaseException as error:  # noqa: BLE001  whatever the code raises is its result, SystemExit too
            return None, error

    def _interruptible(self, function: Callable[..., Any], *arguments: object) -> Any:
        if self.take_interrupt(self._number):
            raise KeyboardInterrupt
        return function(*arguments)

    def _on_interrupt(self, number: int, frame: types.FrameType | None) -> None:
        """Interrupt the code, but not the runner around it."""
        while frame is not None and frame.f_code is not Runner._interruptible.__code__:
            frame = frame.f_back
        if frame is not None:
            self.take_interrupt(self._number)
            raise KeyboardInterrupt


def _dedented(code: str) -> str:
    """Remove the indentation of a cell's first line from all lines."""
    if not code[:1].isspace():
        return code
    start = len(code) - len(code.lstrip())
    indent = code[code.rfind("\n", 0, start) + 1 : start]
    return "".join(line.removeprefix(indent) for line in code.splitlines(keepends=True)) if indent.strip("\n") else code


def _is_silent(code: str, last: ast.Expr) -> bool:
    """Whether a semicolon follows the last expression."""
    if ";" not in code:
        return False
    lines = code.encode().splitlines()[last.end_lineno - 1 :] if last.end_lineno else []
    rest = b"\n".join([lines[0][last.end_col_offset :], *lines[1:]]) if lines else b""
    return b";" in re.sub(rb"#.*", b"", rest)


def _describe(error: BaseException, of_libraries: tuple[str, ...]) -> list[str]:
    """Name, message, and traceback of an error, with only the frames of the code and of modules it wrote.

    Args:
        error: The exception that the code raised.
        of_libraries: Prefixes of file names that are not the code's.
    """
    name = type(error).__name__
    try:
        first = error.__traceback__
        while first is not None and first.tb_frame.f_code.co_filename in _OURS:
            first = first.tb_next
        reports = [traceback.TracebackException(type(error), error, first, lookup_lines=False, compact=True)]
        for item in reports:  # grows: causes and groups are appended
            item.stack[:] = [frame for frame in item.stack if not _is_foreign(frame.filename, of_libraries)]
            reports += filter(None, (item.__cause__, item.__context__, *(item.exceptions or ())))
        lines = "".join(reports[0].format())
        if 'File "/' in lines:
            lines = lines.replace(f'File "{os.getcwd()}/', 'File "')  # the directory's name differs from run to run
        return [name, _NUMBERED.sub("<tool>", str(error)), _NUMBERED.sub("<tool>", lines)]
    except Exception:  # noqa: BLE001  the exception cannot be printed, or memory ran out
        return [name, "(no message)", f"{name}: (no message)"]


def _is_foreign(filename: str, of_libraries: tuple[str, ...]) -> bool:
    return filename in _OURS or filename.startswith(of_libraries) or filename.endswith(_COMPILED)


def _limit_behind(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno == errno.EFBIG:
        return "file_size"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "disk"
    no_thread = isinstance(error, RuntimeError) and "start new thread" in str(error)
    return "processes" if no_thread or (isinstance(error, OSError) and error.errno == errno.EAGAIN) else ""
