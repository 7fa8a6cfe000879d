"""Turns what comes back from the place where code ran into an `ExecResult`, and trusts nothing in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from toolrl.sandbox.base import Display, ExecError, ExecResult, SandboxLimits

_NOTE = 100  # characters: that a text was cut
_LIMITS = ("seconds", "memory", "processes", "file_size", "disk", "output", "displays")


def result_of(
    outcome: Mapping[str, Any], stdout: object, stderr: object, seconds: float, limits: SandboxLimits
) -> ExecResult:
    """The result of a run that came to its end.

    Args:
        outcome: As `Runner.run` returns it, or whatever the code put in its place.
        stdout: Output of the run.
        stderr: The same of stderr.
        seconds: How long the run took.
        limits: Nothing is longer than they say, once it was cut.

    Raises:
        LookupError, TypeError, ValueError: It is no outcome.
    """
    value, error, most = outcome["value"], outcome["error"], limits.output_characters + _NOTE
    displays = tuple(_display(shown) for shown in outcome["displays"])
    if (
        displays
        and sum(len(mime) + len(text) for shown in displays for mime, text in shown.data.items())
        > limits.display_mb << 20
    ):
        raise ValueError("more is shown than may be")
    return ExecResult(
        _text(stdout, most),
        _text(stderr, most),
        None if value is None else _text(value, most),
        None if error is None else ExecError(*(_text(part, most) for part in error)),
        seconds,
        _known(outcome["limits"]),
        displays,
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


def _text(value: object, most: float = math.inf) -> str:
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"text of at most {most} characters expected, got {type(value).__name__}")
    return value.encode("utf-8", "replace").decode()
