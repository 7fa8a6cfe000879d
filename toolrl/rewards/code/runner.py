"""Runs a candidate program inside a sandbox, into which the text of this file is sent.

Nothing here is secret from the candidate, which shares the process: it sees the inputs and can forge replies. Without
the expected values, a forged reply is just another answer. Standard library only.
"""

import builtins
import contextlib
import json
import os
import resource
import sys
import types
from collections.abc import Callable
from typing import Any

_MAX_DEPTH = 64
_JSON_INTEGER = 1 << 63
_STACK_BYTES = 1 << 27
MALFORMED = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
PLAIN_TYPES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, object, type)
# Subclasses are sent as their base class. Fractions and decimals are recognised by name, not imported.
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (list, lambda value: list(list.__iter__(value))),
    (tuple, lambda value: tuple(tuple.__iter__(value))),
    (dict, lambda value: dict(dict.items(value))),
    (set, lambda value: set(set.__iter__(value))),
    (frozenset, lambda value: frozenset(frozenset.__iter__(value))),
    (bytes, lambda value: bytes.__add__(value, b"")),
    (bytearray, lambda value: bytes(bytearray.__add__(value, b""))),
    (type({}.keys()), set),
    (type({}.items()), set),
)


def pack(value: Any, depth: int = 0, kind: Callable[[object], Any] = type) -> Any:
    """Convert a plain value to JSON values. An instance of a subclass is converted as its base class.

    Raises:
        TypeError: The value holds something that is not plain.
        ValueError: The value is nested too deeply.
    """
    exact = kind(value)
    if value is None or exact is bool or exact is str or exact is float:
        return value
    if exact is int:
        return value if -_JSON_INTEGER < value < _JSON_INTEGER else {"i": hex(value)}
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    if exact is list:
        return [pack(item, depth + 1) for item in value]
    if exact is tuple or exact is set or exact is frozenset:
        return {"t" if exact is tuple else "s" if exact is set else "z": [pack(item, depth + 1) for item in value]}
    if exact is dict:
        return {"d": [[pack(key, depth + 1), pack(item, depth + 1)] for key, item in value.items()]}
    if exact is bytes:
        return {"b": value.hex()}
    if exact is complex:
        return {"c": [value.real, value.imag]}
    if exact is type and value in PLAIN_TYPES:
        return {"k": value.__name__}
    return _pack_kin(value, depth, exact)


def _pack_kin(value: Any, depth: int, exact: type) -> Any:
    lineage = exact.__mro__
    for base, plain in _BASES:
        if base in lineage:
            return pack(plain(value), depth)
    names = {(base.__module__, base.__name__) for base in lineage}
    if names & {("fractions", "Fraction"), ("decimal", "Decimal")} and value == value and abs(value) != float("inf"):
        return {"r": [hex(part) for part in value.as_integer_ratio()]}
    if ("numpy", "generic") in names:
        return pack(value.item(), depth + 1)
    raise TypeError(f"not a plain value ({exact.__name__})")


def encode(value: Any, dumps: Callable[..., str] = json.dumps, pack: Callable[[Any], Any] = pack) -> str:
    """Write a plain value as JSON text.

    Raises:
        TypeError, ValueError: As `pack` does.
    """
    return dumps(pack(value))


def _tagged(item: dict[str, Any]) -> Any:
    ((tag, content),) = item.items()
    if tag == "i":
        return int(content, 16)
    if tag == "b":
        return bytes.fromhex(content)
    if tag == "c":
        return complex(*content)
    if tag == "k":
        return next(kind for kind in PLAIN_TYPES if kind.__name__ == content)
    if tag == "r":
        from fractions import Fraction

        return Fraction(*(int(part, 16) for part in content))
    return {"t": tuple, "s": set, "z": frozenset, "d": dict}[tag](content)


def decode(text: str, loads: Callable[..., Any] = json.loads) -> Any:
    """Read a text that `encode` wrote.

    Raises:
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError: Another text (`MALFORMED`).
    """
    return loads(text, object_hook=_tagged)


class Verbatim:
    """A text whose repr is the text itself: a session returns the repr of its last expression."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Program:
    """A candidate's program, in the process that runs it.

    Args:
        prelude: Code to run first, in the same namespace.
        code: The program.
    """

    def __init__(self, prelude: str, code: str) -> None:
        self.parts = [
            compile(part, "<candidate>", "exec", dont_inherit=True) for part in (prelude, code.lstrip("\ufeff"))
        ]
        self.names: dict[str, Any] | None = None
        self.given: dict[str, Any] = {}  # the prelude's names

    def load(self, name: str = "solution") -> dict[str, Any]:
        """Execute the program as a module of this name, and return its namespace. Only a whole run is `__main__`."""
        self.module = sys.modules[name] = types.ModuleType(name)
        names = self.module.__dict__
        names["__builtins__"] = builtins  # as in a script, where it is the module
        for part in self.parts:
            self.given = dict(names)
            exec(part, names)
        return names

    def call(self, function: str, arguments: str) -> str:
        """Call a function, or a method of the class Solution, and return the value or the error as JSON text."""

        def run() -> Any:
            if self.names is None:
                self.names = self.load()
            args, kwargs = decode(arguments)
            found = getattr(self.names.get("Solution"), function, None) and getattr(self.names["Solution"](), function)
            if found is None:
                found = self.names.get(function)
            if found is None or found is self.given.get(function):
                raise NameError(f"no function {function}")
            return found(*args, **kwargs)

        return self.reply(run)

    def main(self, folder: str, finish: Callable[[], None] | None = None) -> str:
        """Run the program to its end.

        Args:
            folder: The folder with its input.
            finish: Called at the end of a process that ends with the program, before its open files are closed.
        """

        def run() -> None:
            open_as(os.path.join(folder, ".stdin"), os.O_RDONLY, 0)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the program reads it
            with contextlib.suppress(SystemExit):  # a normal way to end; the exit code says nothing
                self.load("__main__")
            if finish is not None:
                finish()
                self.module.__dict__.clear()

        return self.reply(run)

    def reply(self, run: Callable[[], Any], encode: Any = encode, dumps: Any = json.dumps) -> str:
        """The value that a function returns, or the name of what it raises, as JSON text."""
        try:
            return f'{{"value":{dumps(encode(run()))}}}'
        except BaseException as error:  # noqa: BLE001  SystemExit too: the program may raise anything
            return str(dumps({"error": type(error).__name__}))


class Candidate:
    """A program under test in the session's own process, for programs that leave nothing behind.

    Args:
        prelude: See `Program`.
        code: See `Program`.
        folder: A folder to which inputs can be written.
    """

    def __init__(self, prelude: str, code: str, folder: str) -> None:
        self.program, self.folder = Program(prelude, code), folder
        sys.set_int_max_str_digits(0)
        _, most = resource.getrlimit(resource.RLIMIT_STACK)
        if most == resource.RLIM_INFINITY or most >= _STACK_BYTES:  # for recursion through C, as in cached functions
            resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, most))

    def call(self, function: str, arguments: str, begins: bool = True, ends: bool = True) -> Verbatim:
        """Call a function; see `Program.call`.

        Args:
            function: Name of the function.
            arguments: The arguments, written by `encode`.
            begins: Whether this is the first call of a test.
            ends: Whether this is the last call of a test.
        """
        return Verbatim(self.program.call(function, arguments))

    def calls(self, *calls: tuple[str, str]) -> Verbatim:
        """Call functions, each with its arguments; see `call`."""
        return Verbatim(f"[{','.join(self.program.call(*call) for call in calls)}]")

    def run(self, text: str) -> Verbatim:
        """Run the program with a text on standard input; the session captures its output."""
        self.write(text)
        return Verbatim(self.program.main(self.folder))

    def write(self, text: str) -> None:
        """Write the input of the next run."""
        with open(os.path.join(self.folder, ".stdin"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)


def open_as(path: str, flags: int, number: int) -> None:
    """Open a file under a given descriptor."""
    opened = os.open(path, flags, 0o600)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
