"""Tests of a program as data: calls, runs of the whole program, and assertions; visible and hidden."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from toolrl.errors import TaskError
from toolrl.rewards.code.runner import MALFORMED, decode, encode
from toolrl.rewards.code.values import Comparison


@dataclass(frozen=True, slots=True)
class CallTest:
    """A function call and its expected value. All values are plain: numbers, strings, bytes, and containers of them.

    Attributes:
        function: Name of the function, or of a method of the class `Solution`.
        args: Positional arguments.
        expected: The expected value.
        kwargs: Keyword arguments.
        tolerance: Maximum absolute distance to `expected`, instead of equality; see `near`.
        relative: Maximum relative distance.
        identical: Whether types must be equal regardless of the suite's comparison, as with `is`.
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
        stdin: Its input.
        stdout: Its expected output; see `same_output`.
    """

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class AssertTest:
    """Assertions that are not plain calls. They run in a separate sandbox, where the function is a proxy.

    Attributes:
        code: Python that raises if the function is wrong. Only plain values are passed and returned.
        function: Name of the function in `code` and in the program.
        setup: Code to run first, such as helpers.
        alias: Another name of the function in `code`, such as "candidate".
    """

    code: str
    function: str
    setup: str = ""
    alias: str = "candidate"


CodeTest = CallTest | StdioTest | AssertTest
_KINDS: dict[str, type[CodeTest]] = {"call": CallTest, "stdio": StdioTest, "assert": AssertTest}


@dataclass(frozen=True, slots=True)
class CodeSuite:
    """All tests of one task.

    Attributes:
        hidden: The tests that decide; at least one.
        visible: Examples shown in the prompt. A right program passes them too, but they earn no partial credit.
        comparison: How values are compared.
        prelude: Code that is run before the program, such as imports given in the prompt.
    """

    hidden: Sequence[CodeTest]
    visible: Sequence[CodeTest] = ()
    comparison: Comparison = field(default_factory=Comparison)
    prelude: str = ""

    def __post_init__(self) -> None:
        for part in ("hidden", "visible"):
            object.__setattr__(self, part, tuple(getattr(self, part)))
        if not self.hidden:
            raise TaskError("a suite needs at least one hidden test; visible ones can be memorised")

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values for `Task.metadata["tests"]`; `from_dict` reads them."""
        return {
            "hidden": [_written(test) for test in self.hidden],
            "visible": [_written(test) for test in self.visible],
            "comparison": asdict(self.comparison),
            "prelude": self.prelude,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CodeSuite:
        """Read what `to_dict` wrote.

        Raises:
            TaskError: The data has another form.
        """
        try:
            hidden, visible = ([_read(test) for test in data.get(part, ())] for part in ("hidden", "visible"))
            return cls(hidden, visible, Comparison(**data.get("comparison", {})), data.get("prelude", ""))
        except TaskError:
            raise
        except MALFORMED as error:
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
