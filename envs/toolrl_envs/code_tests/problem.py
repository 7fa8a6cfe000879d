"""The problems that rows are read into, and helpers for reading them."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolrl import TaskError
from toolrl.rewards import CodeSuite

_WORDS = {
    "assert", "assertion", "assertions", "asserts", "atol", "check", "checker", "grader", "input", "inputs",
    "interactive", "interactor", "judge", "oracle", "output", "outputs", "test", "tests", "timeout", "tolerance",
    "verification", "verifier",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A coding problem and its tests.

    Attributes:
        id: Unique within its set.
        prompt: The prompt.
        suite: The tests.
        solution: A program that passes them; empty if the data set has none.
        kind: The kind of problem, for metrics.
        needs_tool: Whether the code is worth trying out first.
    """

    id: str
    prompt: str
    suite: CodeSuite
    solution: str
    kind: str
    needs_tool: bool = True


def problem(row: Mapping[str, Any], id: Any, text: str, suite: CodeSuite, solution: str) -> Problem:
    """Make a problem from a row and its tests.

    Args:
        row: Gives the kind, and whether a tool is needed.
        id: Its id in the data set; None for a hash of the text and the tests.
        prompt: The prompt.
        suite: The tests.
        solution: The reference solution.
    """
    if id is None:
        id = hashlib.blake2b(f"{text}{suite.to_dict()}".encode(errors="replace"), digest_size=8).hexdigest()
    kind = row.get("kind") or row.get("difficulty") or "read"
    return Problem(str(id), text, suite, solution.strip(), str(kind), bool(row.get("needs_tool", True)))


def refuse_others(row: Mapping[str, Any], known: str) -> None:
    """Refuse a row with other fields that might decide which programs are right.

    Args:
        row: All fields of the row.
        known: Names of the fields that are read or decide nothing, separated by spaces.

    Raises:
        TaskError: Names the field.
    """
    for name, value in row.items():
        decides = _WORDS & set(name.lower().split("_"))
        if decides and name not in known.split() and value not in (None, "", [], {}, False):
            raise TaskError(
                f"the field {name!r} might decide which programs are right, but is not supported; if not, remove it"
            )


def json_of(text: Any, field: str) -> Any:
    """Decode a field that may hold JSON text.

    Raises:
        TaskError: The text is not JSON; names the field.
    """
    if not isinstance(text, (str, bytes)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{field} is not JSON: {error}") from None


def reference(solutions: Any) -> str:
    """The first solution that is Python 3, without fences around it; empty if no solution is."""
    for text in [solutions] if isinstance(solutions, str) else solutions or []:
        code = str(text).strip()
        if code.startswith("```") and code.endswith("```"):
            code = code.partition("\n")[2].rstrip("`")
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        if code:
            return code
    return ""
