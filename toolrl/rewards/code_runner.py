"""Runs a candidate program where it may do no harm: the text of this file is sent into its sandbox.

Nothing here is secret from the candidate, which shares its process: it sees inputs, and can forge its replies. Without
the expected values that is only another way to choose an answer. Standard library only.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

_MAX_DEPTH = 64
_JSON_INTEGER = 1 << 63


def pack(value: Any, depth: int = 0, kind: Callable[[object], Any] = type) -> Any:
    """A plain value as what JSON has; types are compared by identity, so that a subclass has no say.

    Raises:
        TypeError: It holds something else than plain values.
        ValueError: It is nested too deeply.
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
    raise TypeError(f"not a plain value ({exact.__name__})")


def encode(value: Any, dumps: Callable[..., str] = json.dumps, pack: Callable[[Any], Any] = pack) -> str:
    """A plain value as JSON text.

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
    return {"t": tuple, "s": set, "z": frozenset, "d": dict}[tag](content)


def decode(text: str, loads: Callable[..., Any] = json.loads) -> Any:
    """What `encode` has made a text of.

    Raises:
        ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError: It has not.
    """
    return loads(text, object_hook=_tagged)


class Reply:
    """Shows a text as it is when the session asks for the value of the last expression."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Candidate:
    """A program and, for calls, the names that it defines."""

    def __init__(self, code: str, folder: str) -> None:
        self.code, self.folder = compile(code, "<candidate>", "exec", dont_inherit=True), folder
        self.names: dict[str, Any] | None = None

    def _fresh(self) -> dict[str, Any]:
        return {"__name__": "__main__", "__builtins__": __builtins__}

    def call(self, function: str, arguments: str) -> Reply:
        """Call a function, or the method of that name of the class Solution."""

        def run() -> Any:
            if self.names is None:
                names = self._fresh()
                exec(self.code, names)
                self.names = names
            args, kwargs = decode(arguments)
            found = self.names.get(function)
            if found is None and "Solution" in self.names:
                found = getattr(self.names["Solution"](), function)
            if found is None:
                raise NameError(f"no function {function}")
            return found(*args, **kwargs)

        return self._reply(run)

    def program(self, text: str) -> Reply:
        """Run the program with a text on its standard input; what it prints is the session's to keep."""
        path = os.path.join(self.folder, ".stdin")
        with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        opened = os.open(path, os.O_RDONLY)
        if opened:  # an earlier run may have closed its input
            os.dup2(opened, 0)
            os.close(opened)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the program reads from it

        def run() -> Any:
            try:
                exec(self.code, self._fresh())
            except SystemExit:
                return "exit"  # how many a program ends; the code that it gives says nothing
            return None

        return self._reply(run)

    def _reply(self, run: Callable[[], Any], encode: Any = encode, dumps: Any = json.dumps) -> Reply:
        try:
            return Reply(f'{{"value":{dumps(encode(run()))}}}')
        except BaseException as error:  # noqa: BLE001  SystemExit too: whatever it raises is its own
            return Reply(dumps({"error": type(error).__name__}))
