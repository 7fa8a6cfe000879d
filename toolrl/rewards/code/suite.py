"""Tests of a program as data: calls, programs that read and print, and assertions; visible ones and hidden ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from toolrl.errors import TaskError
from toolrl.rewards.code.runner import decode, encode
from toolrl.rewards.code.values import Comparison

_MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class CallTest:
    """A call of a function, and what it must return. All values are plain: numbers, texts, bytes, and containers.

    Attributes:
        function: Its name; or that of a method of the class `Solution`.
        args: Arguments by position.
        expected: The right value.
        kwargs: Arguments by name.
        tolerance: The largest distance to `expected`, in place of equality; see `near`.
        relative: The same as a share.
        identical: Whether types count whatever the suite says, as under `is`.
    """

    function: str
    args: tuple[Any, ...]
    expected: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float | None = None
    relative: float = 0.0
    identical: bool = False


@dataclass(frozen=True, slots=True)
class StdioTest:
    """A run of the whole program.

    Attributes:
        stdin: What it reads.
        stdout: What it must print; see `same_output`.
    """

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class AssertTest:
    """Assertions that are no plain calls; they run in a sandbox of their own, where the function is a proxy.

    Attributes:
        code: Python that raises if the function is wrong. Arguments and values pass as plain values only.
        function: Its name in `code`, and in the program.
        setup: Run before `code`, such as helpers that it uses.
        alias: A second name of the function in `code`, such as "candidate".
    """

    code: str
    function: str
    setup: str = ""
    alias: str = "candidate"


CodeTest = CallTest | StdioTest | AssertTest
_KINDS: dict[str, type[CallTest] | type[StdioTest] | type[AssertTest]] = {
    "call": CallTest,
    "stdio": StdioTest,
    "assert": AssertTest,
}


@dataclass(frozen=True, slots=True)
class CodeSuite:
    """All tests of one task.

    Attributes:
        hidden: What decides; at least one.
        visible: Examples that the prompt shows. A right program passes them too; they earn nothing in part.
        comparison: How values are compared.
        prelude: Code that stands before the program, such as the imports that the prompt has made.
    """

    hidden: Sequence[CodeTest]
    visible: Sequence[CodeTest] = ()
    comparison: Comparison = field(default_factory=Comparison)
    prelude: str = ""

    def __post_init__(self) -> None:
        for part in ("hidden", "visible"):
            object.__setattr__(self, part, tuple(getattr(self, part)))
        if not self.hidden:
            raise TaskError("a suite of tests needs at least one hidden test; visible ones can be learnt by heart")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for `Task.metadata["tests"]`; `from_dict` reads them."""
        return {
            "hidden": [_written(test) for test in self.hidden],
            "visible": [_written(test) for test in self.visible],
            "comparison": {name: getattr(self.comparison, name) for name in Comparison.__dataclass_fields__},
            "prelude": self.prelude,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CodeSuite:
        """Read what `to_dict` wrote.

        Raises:
            TaskError: It is something else.
        """
        try:
            hidden, visible = ([_read(test) for test in data.get(part, ())] for part in ("hidden", "visible"))
            return cls(hidden, visible, Comparison(**data.get("comparison", {})), data.get("prelude", ""))
        except TaskError:
            raise
        except _MALFORMED as error:
            raise TaskError(f"broken tests: {error!r}; write them with CodeSuite.to_dict()") from None


def _written(test: CodeTest) -> dict[str, Any]:
    kind = next(name for name, known in _KINDS.items() if isinstance(test, known))
    fields = {name: getattr(test, name) for name in type(test).__dataclass_fields__}
    if isinstance(test, CallTest):
        try:
            fields |= {"args": encode(list(test.args)), "kwargs": encode(dict(test.kwargs))}
            fields["expected"] = encode(test.expected)
        except (TypeError, ValueError) as error:
            raise TaskError(f"a test of {test.function!r} has an argument or a value that is {error}") from None
    return {"kind": kind, **fields}


def _read(data: Mapping[str, Any]) -> CodeTest:
    fields = dict(data)
    kind = _KINDS[fields.pop("kind")]
    if kind is CallTest:
        fields |= {name: decode(fields[name]) for name in ("args", "kwargs", "expected")}
        fields["args"] = tuple(fields["args"])
    return kind(**fields)
