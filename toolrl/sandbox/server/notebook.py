"""Results as E2B's code interpreter streams them: JSON lines, with tracebacks in IPython's layout."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from toolrl.sandbox.base import Display, ExecError, ExecResult
from toolrl.sandbox.e2b.session import RESULT_FIELDS
from toolrl.sandbox.inside.displays import CHART

_OBJECTS = {"application/json": "json", CHART: "chart", "e2b/data": "data"}
_FRAME = re.compile(r'  File "<tool>", line (\d+)(?:, in (.+))?')
_EXCEPTION = re.compile(r"^(?:\w+\.)+(\w+)(?=: |$)")
_HEADER = "Traceback (most recent call last)"
_WIDTH = 75


def result_messages(result: ExecResult, executions: int, code: str) -> Iterator[dict[str, Any]]:
    """The messages after the output of a run: displays, the value, the error.

    Args:
        result: The result of the run.
        executions: Number of the run.
        code: Its source.
    """
    for shown in result.displays:
        yield _result(shown)
    if "displays" in result.limits_hit:
        yield {"type": "stderr", "text": "(some displays were too large and were left out)\n", "timestamp": ""}
    if result.value is not None and not any(shown.is_result for shown in result.displays):
        yield _result(Display({"text/plain": result.value}, is_result=True))
    if result.error is not None:
        yield _error(result.error, executions, code)


def _error(error: ExecError, executions: int, code: str) -> dict[str, Any]:
    """An error as a message; E2B reports a dead process as a restarted context."""
    name, traceback = error.name, ipython_traceback(error.traceback, executions, code)
    if name == "SandboxDied":
        name, traceback = "ContextRestarting", ""
    return {"type": "error", "name": name, "value": error.value, "traceback": traceback}


def ipython_traceback(traceback: str, executions: int, code: str) -> str:
    """Convert a traceback to IPython's layout, with one line of source per frame.

    Args:
        traceback: Python's traceback, with frames in "<tool>".
        executions: Number of the run, used as the cell's number.
        code: Source of the run; other frames come from earlier cells, whose numbers are unknown.
    """
    source, lines = code.splitlines(), traceback.splitlines()
    printed: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        frame = _FRAME.fullmatch(line)
        if line == f"{_HEADER}:":
            name = next((_plain(text) for text in lines[index:] if text[:1].strip()), "").partition(":")[0]
            printed += [*([] if printed else ["-" * _WIDTH]), f"{name:<{_WIDTH - len(_HEADER)}}{_HEADER}"]
        elif frame and frame[2] is None:  # a SyntaxError: the source line and a caret follow
            printed.append(f"  Cell In[{executions}], line {frame[1]}")
        elif frame:
            below = list(itertools.takewhile(lambda text: text.startswith("    "), lines[index:]))
            index += len(below)
            shown, number = below[0].strip() if below else "", int(frame[1])
            is_ours = number <= len(source) and source[number - 1].strip() == shown
            where = f"Cell In[{executions}], line {number}" if is_ours else f"File <tool>:{number}"
            printed.append(where + ("" if frame[2] == "<module>" else f", in {frame[2]}()"))
            printed += [*([f"----> {number} {source[number - 1] if is_ours else shown}"] if shown else []), ""]
        else:
            printed.append(_plain(line))
    return "\n".join(printed)


def _plain(line: str) -> str:
    """The line that names an exception, without its module."""
    return _EXCEPTION.sub(r"\1", line)


def encoded(message: dict[str, Any]) -> bytes:
    """Encode a message as a line."""
    return json.dumps(message).encode() + b"\n"


def _result(shown: Display) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "result", "is_main_result": shown.is_result, "extra": {}}
    for mime, text in shown.data.items():
        if mime in _OBJECTS:
            message[_OBJECTS[mime]] = _parsed(text)
        elif mime in RESULT_FIELDS:
            message[RESULT_FIELDS[mime]] = _unquoted(text) if mime == "text/plain" else text
        else:
            message["extra"][mime] = text
    return message


def _unquoted(text: str) -> str:
    """Remove the quotes of a string, as E2B does."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def _parsed(text: str) -> object:
    """Parse JSON from the code; return the text if it is invalid."""
    try:
        return json.loads(text, parse_constant=lambda _: None)  # other parsers reject NaN
    except (ValueError, RecursionError):
        return text


# Runs in each new session. Formats as in https://github.com/e2b-dev/code-interpreter, template/startup_scripts.
PRELUDE = '''
def _prelude(folder):
    import json, os, sys

    if folder != ".":
        try:
            os.makedirs(folder, exist_ok=True)
            os.chdir(folder)
        except OSError:
            pass  # such as an unwritable folder: stay in the home folder

    def plain(value):
        ways = [getattr(value, name) for name in ("isoformat", "item") if hasattr(value, name)]
        return ways[0]() if ways else str(value)

    def data(value):
        """Columns of a data frame; lists and dicts as JSON."""
        pandas = sys.modules.get("pandas")
        if pandas is not None and isinstance(value, pandas.DataFrame):
            columns = {str(name): list(column) for name, column in value.to_dict(orient="list").items()}
            return {"e2b/data": json.dumps(columns, default=plain)}
        return {"application/json": json.dumps(value)} if type(value) in (list, dict) else {}

    display.__self__.further_forms.append(data)
    pillow = sys.modules.get("PIL.Image")
    if pillow is not None:
        save = pillow.Image.save

        def save_and_show(image, file, format=None, **options):
            if isinstance(file, str):
                display(image)
            save(image, file, format, **options)

        pillow.Image.save = save_and_show
        show = sys.modules.get("PIL.ImageShow") or __import__("PIL.ImageShow").ImageShow
        show.UnixViewer.show_file = lambda self, path, **options: 1
'''
