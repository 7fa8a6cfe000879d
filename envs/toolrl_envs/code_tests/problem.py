"""What readers of rows make, and what they share."""

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
    """What is to be written, and its tests.

    Attributes:
        id: Unique within its set.
        text: For the model: all that it is told.
        suite: The tests.
        solution: A program that passes them; empty if the set has none.
        kind: What sort of problem it is.
        needs_tool: Whether it is worth trying the code first.
    """

    id: str
    text: str
    suite: CodeSuite
    solution: str
    kind: str
    needs_tool: bool = True


def problem(row: Mapping[str, Any], id: Any, text: str, suite: CodeSuite, solution: str) -> Problem:
    """A problem with what a row says besides its tests.

    Args:
        row: For its kind, and whether it needs a tool.
        id: What the set calls it; if None, a hash of the text and the tests.
        text: For the model.
        suite: The tests.
        solution: The reference.
    """
    if id is None:
        id = hashlib.blake2b(f"{text}{suite.to_dict()}".encode(errors="replace"), digest_size=8).hexdigest()
    kind = row.get("kind") or row.get("difficulty") or "read"
    return Problem(str(id), text, suite, solution.strip(), str(kind), bool(row.get("needs_tool", True)))


def refuse_others(row: Mapping[str, Any], known: str) -> None:
    """Refuse a row that has further fields by which answers would be judged.

    Args:
        row: With all of its fields.
        known: The names of those that are read, or that decide nothing.

    Raises:
        TaskError: Names the field.
    """
    for name, value in row.items():
        decides = _WORDS & set(name.lower().split("_"))
        if decides and name not in known.split() and value not in (None, "", [], {}, False):
            raise TaskError(
                f"the field {name!r} may say which programs are right, and is not read; remove it if it does not"
            )


def json_of(text: Any, field: str) -> Any:
    """What a field holds as JSON text, or as it is.

    Raises:
        TaskError: It is a text that is not JSON; names the field.
    """
    if not isinstance(text, (str, bytes)):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{field} is not JSON: {error}") from None


def reference(solutions: Any) -> str:
    """The first of some solutions that is Python 3, without fences around it; empty if there is none."""
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
