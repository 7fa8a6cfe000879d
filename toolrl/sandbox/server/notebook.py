"""Results as E2B's code interpreter streams them: a JSON object a line, errors as IPython prints them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from toolrl.sandbox.base import Display, ExecError, ExecResult

_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "text/latex": "latex",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "application/json": "json",
    "application/javascript": "javascript",
}
_FRAME = re.compile(r'  File "<tool>", line (\d+)(?:, in (.+))?')
_WIDTH = 75


def result_messages(result: ExecResult, executions: int) -> Iterator[dict[str, Any]]:
    """What follows the output of a run: displays, the value, the error."""
    for shown in result.displays:
        yield _result(shown)
    if result.value is not None and not any(shown.is_result for shown in result.displays):
        yield _result(Display({"text/plain": result.value}, is_result=True))
    if result.error is not None:
        yield error_message(result.error, executions)


def error_message(error: ExecError, executions: int) -> dict[str, Any]:
    """An error as a message; a process that died is a context that was restarted."""
    if error.name == "SandboxDied":
        return {"type": "error", "name": "ContextRestarting", "value": error.value, "traceback": ""}
    return {
        "type": "error",
        "name": error.name,
        "value": error.value,
        "traceback": as_ipython_prints(error, executions),
    }


def as_ipython_prints(error: ExecError, executions: int) -> str:
    """The traceback in IPython's layout; frames and their lines are those of our own."""
    lines = []
    header = "Traceback (most recent call last)"
    frames = error.traceback.splitlines()
    numbers = iter(range(len(frames)))
    for index in numbers:
        line = frames[index]
        if line == header + ":":
            lines += ["-" * _WIDTH, f"{error.name:<{_WIDTH - len(header)}}{header}"]
        elif match := _FRAME.fullmatch(line):
            function = match[2] or "<module>"
            where = f"Cell In[{executions}], line {match[1]}" if function == "<module>" else f"{function}, {match[1]}"
            lines.append(where)
            if index + 1 < len(frames) and frames[index + 1].startswith("    "):
                lines += [f"----> {match[1]} {frames[next(numbers)].strip()}", ""]
        elif line.strip(" ~^"):
            lines.append(line)
    return "\n".join(lines)


def encoded(message: dict[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


def _result(shown: Display) -> dict[str, Any]:
    message: dict[str, Any] = {"type": "result", "is_main_result": shown.is_result, "extra": {}}
    for mime, text in shown.data.items():
        if mime == "application/json":
            message["json"] = _parsed(text)
        elif mime in _FIELDS:
            message[_FIELDS[mime]] = text
        else:
            message["extra"][mime] = text
    return message


def _parsed(text: str) -> object:
    """What the code calls JSON; text, if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
