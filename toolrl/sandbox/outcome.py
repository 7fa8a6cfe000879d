"""Turns what comes back from the place where code ran into an `ExecResult`, and trusts nothing in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from toolrl.sandbox.base import Display, ExecError, ExecResult

_LIMITS = ("seconds", "memory", "processes", "file_size", "disk", "output", "displays")


def result_of(outcome: Mapping[str, Any], stdout: object, stderr: object, seconds: float) -> ExecResult:
    """The result of a run that came to its end.

    Args:
        outcome: As `Runner.run` returns it, or whatever the code put in its place.
        stdout: Output of the run.
        stderr: The same of stderr.
        seconds: How long the run took.

    Raises:
        LookupError, TypeError, ValueError: It is no outcome.
    """
    value, error = outcome["value"], outcome["error"]
    return ExecResult(
        _text(stdout),
        _text(stderr),
        None if value is None else _text(value),
        None if error is None else ExecError(*(_text(part) for part in error)),
        seconds,
        _known(outcome["limits"]),
        tuple(_display(shown) for shown in outcome["displays"]),
    )


def died(name: str, reason: str, stdout: str, stderr: str, seconds: float, limits: Iterable[str]) -> ExecResult:
    """The result of a run whose process is gone; `name` is "TimeoutError" or "SandboxDied"."""
    message = f"{reason}; its variables are lost, its files kept"
    error = ExecError(name, message, f"{name}: {message}")
    return ExecResult(stdout, stderr, None, error, seconds, _known(limits))


def _known(limits: Iterable[str]) -> tuple[str, ...]:
    limits = tuple(limits)
    return tuple(name for name in _LIMITS if name in limits)


def _display(shown: Mapping[str, Any]) -> Display:
    data = dict(shown["data"])
    return Display({_text(mime): _text(text) for mime, text in data.items()}, shown["is_result"] is True)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"text expected, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()
