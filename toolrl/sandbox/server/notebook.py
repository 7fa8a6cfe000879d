"""Results as E2B's code interpreter streams them: a JSON object a line, errors as IPython prints them."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from toolrl.sandbox.base import Display, ExecError, ExecResult
from toolrl.sandbox.inside.displays import CHART

_FIELDS = {
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
_OBJECTS = {"application/json": "json", CHART: "chart", "e2b/data": "data"}
_FRAME = re.compile(r'  File "<tool>", line (\d+)(?:, in (.+))?')
_EXCEPTION = re.compile(r"^(?:\w+\.)+(\w+)(?=: |$)")
_HEADER = "Traceback (most recent call last)"
_WIDTH = 75


def result_messages(result: ExecResult, executions: int, code: str) -> Iterator[dict[str, Any]]:
    """What follows the output of a run: displays, the value, the error.

    Args:
        result: Of the run.
        executions: The run's number.
        code: What was run.
    """
    for shown in result.displays:
        yield _result(shown)
    if "displays" in result.limits_hit:
        yield {"type": "stderr", "text": "(some of what was to be shown is too large, and left out)\n", "timestamp": ""}
    if result.value is not None and not any(shown.is_result for shown in result.displays):
        yield _result(Display({"text/plain": result.value}, is_result=True))
    if result.error is not None:
        yield _error(result.error, executions, code)


def _error(error: ExecError, executions: int, code: str) -> dict[str, Any]:
    """An error as a message; a process that died is a context that was restarted."""
    name, traceback = error.name, as_ipython_prints(error.traceback, executions, code)
    if name == "SandboxDied":
        name, traceback = "ContextRestarting", ""
    return {"type": "error", "name": name, "value": error.value, "traceback": traceback}


def as_ipython_prints(traceback: str, executions: int, code: str) -> str:
    """A traceback in IPython's layout, with the one line of each frame that Python shows.

    Args:
        traceback: As Python prints it, of frames in "<tool>".
        executions: Number of the run, which becomes that of the cell.
        code: What was run; frames that are not of it come from an earlier cell, whose number is not known.
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
        elif frame and frame[2] is None:  # where the syntax is wrong: the code's line and a caret follow
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
    """The line that names an exception, without the module that it comes from."""
    return _EXCEPTION.sub(r"\1", line)


def encoded(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


def _result(shown: Display) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "result", "is_main_result": shown.is_result, "extra": {}}
    for mime, text in shown.data.items():
        if mime in _OBJECTS:
            message[_OBJECTS[mime]] = _parsed(text)
        elif mime in _FIELDS:
            message[_FIELDS[mime]] = _unquoted(text) if mime == "text/plain" else text
        else:
            message["extra"][mime] = text
    return message


def _unquoted(text: str) -> str:
    """A string without its quotes, as E2B shows it."""
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if is_quoted else text


def _parsed(text: str) -> object:
    """What the code calls JSON; text, if it is none."""
    try:
        return json.loads(text, parse_constant=lambda _: None)  # NaN is no JSON elsewhere
    except (ValueError, RecursionError):
        return text


# Runs in each fresh session. Forms as in https://github.com/e2b-dev/code-interpreter, template/startup_scripts.
PRELUDE = '''
def _prelude(folder):
    import json, os, sys

    if folder != ".":
        try:
            os.makedirs(folder, exist_ok=True)
            os.chdir(folder)
        except OSError:
            pass  # as an unwritable folder: code goes on at home

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
