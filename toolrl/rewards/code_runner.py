"""Runs a candidate program where it may do no harm: the text of this file is sent into its sandbox.

Nothing here is secret from the candidate, which shares its process: it sees inputs, and can forge its replies. Without
the expected values that is only another way to choose an answer. Standard library only.
"""

import atexit
import contextlib
import fcntl
import io
import json
import os
import random
import resource
import signal
import sys
import types
from collections.abc import Callable
from typing import Any

_MAX_DEPTH = 64
_JSON_INTEGER = 1 << 63
_MAX_REPLY_BYTES = 1 << 26
_STACK_BYTES = 1 << 27
PLAIN_TYPES = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, object, type)
# What equals a plain value to Python is sent as one. Fractions and decimals are looked up, not imported.
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
    """A plain value as what JSON has. Of an instance of a subclass only what the base class holds counts.

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
    if tag == "k":
        return next(kind for kind in PLAIN_TYPES if kind.__name__ == content)
    if tag == "r":
        from fractions import Fraction

        return Fraction(*(int(part, 16) for part in content))
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


class Program:
    """A candidate's program, in the process that runs it.

    Args:
        prelude: Code that stands before it, in the same namespace.
        code: Its own.
    """

    def __init__(self, prelude: str, code: str) -> None:
        self.parts = [compile(part, "<candidate>", "exec", dont_inherit=True) for part in (prelude, code)]
        self.names: dict[str, Any] | None = None
        self.given: dict[str, Any] = {}  # the prelude's names

    def load(self, name: str = "solution") -> dict[str, Any]:
        """Execute it as a module of this name: one whose functions are called is not the main one. Its names."""
        self.module = sys.modules[name] = types.ModuleType(name)
        names = self.module.__dict__
        for part in self.parts:
            self.given = dict(names)
            exec(part, names)
        return names

    def call(self, function: str, arguments: str) -> str:
        """Call a function, or the method of that name of the class Solution; the value, or the error, as JSON text."""

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

    def main(self, folder: str, is_last: bool = False) -> str:
        """Run it to its end.

        Args:
            folder: Where its input is.
            is_last: Whether the process ends with it, as an interpreter does: it waits for threads, runs exit
                handlers, and writes what open files still hold.
        """

        def run() -> None:
            _open(os.path.join(folder, ".stdin"), os.O_RDONLY, 0)
            sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  the program reads from it
            with contextlib.suppress(SystemExit):  # how many a program ends; the code that it gives says nothing
                self.load("__main__")
            if is_last:
                threading = sys.modules.get("threading")
                if threading is not None:
                    threading._shutdown()
                atexit._run_exitfuncs()
                flush()
                self.module.__dict__.clear()  # which closes files that it has left open

        return self.reply(run)

    def reply(self, run: Callable[[], Any], encode: Any = encode, dumps: Any = json.dumps) -> str:
        """What a function gives, or the name of what it raises."""
        try:
            return f'{{"value":{dumps(encode(run()))}}}'
        except BaseException as error:  # noqa: BLE001  SystemExit too: whatever it raises is its own
            return str(dumps({"error": type(error).__name__}))


def flush() -> None:
    """Write out what the streams hold, whatever a program has put in their place."""
    for name in ("stdout", "stderr", "__stdout__", "__stderr__"):
        with contextlib.suppress(Exception):
            getattr(sys, name).flush()


class Candidate:
    """A program under test, asked from the session's process, which it runs in only if it can leave nothing behind.

    Else each test has a process of its own:

        session ── requests ──> keeper, which has loaded the functions ──forks──> one test ── replies ──> session

    Args:
        prelude: See `Program`.
        code: See `Program`.
        folder: Where inputs may be written.
        relayed: Whether what is printed must be handed to the session's own streams, which no other process can write.
    """

    def __init__(self, prelude: str, code: str, folder: str, relayed: bool) -> None:
        self.program, self.folder, self.relayed = Program(prelude, code), folder, relayed
        self.requests: io.BufferedWriter | None = None
        self.is_open = False  # a test has begun and may be asked more
        sys.set_int_max_str_digits(0)
        _, most = resource.getrlimit(resource.RLIMIT_STACK)
        if most == resource.RLIM_INFINITY or most >= _STACK_BYTES:  # for recursion through C, as of cached functions
            resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, most))

    def call(self, function: str, arguments: str, shared: bool, begins: bool = True, ends: bool = True) -> Reply:
        """Call a function; see `Program.call`.

        Args:
            function: Its name.
            arguments: As `encode` writes them.
            shared: Whether calls may follow each other in the session's own process.
            begins: Whether this is the first call of a test.
            ends: Whether it is the last.
        """
        if shared:
            return Reply(self.program.call(function, arguments))
        return self._ask([function, arguments], begins, ends)

    def run(self, text: str, shared: bool) -> Reply:
        """Run the program with a text on its standard input; what it prints is the session's to keep.

        Args:
            text: The input.
            shared: Whether runs may follow each other in the session's own process.
        """
        with open(os.path.join(self.folder, ".stdin"), "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        return Reply(self.program.main(self.folder)) if shared else self._ask([], True, True)

    def _ask(self, request: list[str], begins: bool, ends: bool) -> Reply:
        try:
            if self.requests is None:
                self._start()
            if begins and self.is_open:
                self._send(None)
                self._ended()
            self.is_open = not ends
            self._send([*request, ends])
            reply = self.replies.readline(_MAX_REPLY_BYTES)
            if reply.startswith(b"ended"):  # without a reply: an exit is how some programs end
                self.is_open = False
                reply = b'{"error": "SandboxDied"}' if request or b"-" in reply else b'{"value": "exit"}'
            elif ends:
                self._ended()
        except OSError:
            reply = b""
        if not reply:  # the keeper has gone: another will be made
            self.requests, self.is_open = None, False
            reply = b'{"error": "SandboxDied"}'
        if self.relayed and not request:
            for name in ("stdout", "stderr"):
                with open(os.path.join(self.folder, f".{name}"), encoding="utf-8", errors="replace") as file:
                    getattr(sys, name).write(file.read())
        return Reply(reply.decode("utf-8", "replace"))

    def _send(self, request: list[Any] | None) -> None:
        assert self.requests is not None
        self.requests.write(json.dumps(request).encode() + b"\n")
        self.requests.flush()

    def _ended(self) -> None:
        while (line := self.replies.readline(_MAX_REPLY_BYTES)) and not line.startswith(b"ended"):
            continue

    def _start(self) -> None:
        flush()
        # Of high numbers, so that they are not in the way of a program that opens files under numbers of its own.
        theirs, ours, replies, answers = (_moved(end) for end in (*os.pipe(), *os.pipe()))
        state = random.getstate()
        if os.fork() == 0:
            try:
                random.setstate(state)  # every fork is given another
                os.close(ours)
                os.close(replies)
                _Keeper(self, open(theirs, "rb"), answers).serve()  # noqa: SIM115
            finally:
                os._exit(0)
        os.close(theirs)
        os.close(answers)
        self.requests, self.replies = open(ours, "wb"), open(replies, "rb")  # noqa: SIM115


class _Keeper:
    """The process between the session's and those of the tests."""

    def __init__(self, candidate: Candidate, requests: io.BufferedReader, answers: int) -> None:
        self.program, self.folder, self.relayed = candidate.program, candidate.folder, candidate.relayed
        self.requests, self.answers = requests, answers
        self.is_warm = False

    def serve(self) -> None:
        """Have each test run in a fork, and tell of its end."""
        while line := self.requests.readline():
            request = json.loads(line)
            if not self.is_warm and request is not None:
                self._warm(loads=len(request) > 1)
            state = random.getstate()
            pid = os.fork()
            if pid == 0:
                try:
                    os.setpgid(0, 0)
                    random.setstate(state)  # every fork is given another
                    self._test(request)
                finally:
                    os._exit(1)
            _, status = os.waitpid(pid, 0)
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)  # what it has left running
            os.write(self.answers, b"ended %d\n" % os.waitstatus_to_exitcode(status))

    def _warm(self, loads: bool) -> None:
        """Do what all tests would do, unless a fork would lose it: threads stay behind."""
        self.is_warm = True
        with contextlib.suppress(BaseException):  # each test will say why
            if loads:
                self.program.names = self.program.load()
            else:
                exec(self.program.parts[0], {})
        threading = sys.modules.get("threading")
        if threading is not None and threading.active_count() > 1:
            self.program.names = None

    def _test(self, request: list[Any] | None) -> None:
        pid = os.getpid()
        if self.relayed:
            self._open_streams()
        while request is not None:
            *call, ends = request
            if call:
                reply = self.program.call(*call)
            else:
                atexit._clear()
                reply = self.program.main(self.folder, is_last=True)
            if os.getpid() != pid:
                os._exit(0)  # a child that the program forked must not answer
            with open(self.answers, "wb", closefd=False) as file:
                file.write(reply.encode() + b"\n")
            line = b"" if ends else self.requests.readline()
            request = json.loads(line) if line else None
        os._exit(0)

    def _open_streams(self) -> None:
        for number, name in ((1, "stdout"), (2, "stderr")):
            _open(os.path.join(self.folder, f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, number)
            stream = open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _moved(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 100)
    os.close(descriptor)
    return moved


def _open(path: str, flags: int, number: int) -> None:
    """Open a file under this number."""
    opened = os.open(path, flags, 0o600)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
