"""The documentation of the running interpreter's standard library, as a corpus.

About eight thousand real documents that every machine with Python has, with nothing to download: one
per documented module, function, class, method and exception, one per public constant, and the
language topics of `help()`. `python_symbols` returns the same as typed records, for generating tasks
with a known answer.

`stdlib_scan` collects them in an isolated child interpreter in less than a second (two without a
bytecode cache), so this is done once per process and not cached on disk. The corpus depends on the
interpreter's version, platform and build (with or without tkinter).
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from toolrl.errors import RetrieverFault
from toolrl.search.base import Document

SymbolKind = Literal["module", "function", "class", "method", "exception", "constant"]
ParameterKind = Literal["positional_only", "positional_or_keyword", "var_positional", "keyword_only", "var_keyword"]

_SCAN_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a callable, from `inspect.signature`.

    Attributes:
        name: Its name, without stars.
        default: The repr of its default; None if it has none (the default None is `"None"`).
        kind: How arguments are passed to it.
    """

    name: str
    default: str | None
    kind: ParameterKind


@dataclass(frozen=True, slots=True)
class Symbol:
    """A documented name of the standard library.

    Attributes:
        name: The last component of its dotted name: `most_common`.
        module: The module under which it is documented: `collections`.
        qualname: Its name within the module: `Counter.most_common`; empty for a module.
        kind: What the name refers to.
        parameters: The parameters of its signature, including `self` of a method; empty if it has none or
            Python does not know them (`signature_known`).
        signature_known: Whether `parameters` is the callable's real signature.
        summary: The first sentence of its docstring, on one line; empty for a constant.
        value: A constant's value, of an enum member its plain value; None for anything else.
        document_id: The id of its document: the dotted name.
    """

    name: str
    module: str
    qualname: str
    kind: SymbolKind
    parameters: tuple[Parameter, ...]
    signature_known: bool
    summary: str
    value: int | float | str | None
    document_id: str


def python_documentation() -> list[Document]:
    """The documents, ordered by id. The title is the dotted name; the text starts with the signature.

    Raises:
        RetrieverFault: The interpreter that reads the docstrings could not be started.
    """
    return list(_corpus()[0])


def python_symbols() -> tuple[Symbol, ...]:
    """A record per document that is not a language topic, ordered by dotted name.

    Raises:
        RetrieverFault: The interpreter that reads the docstrings could not be started.
    """
    return _corpus()[1]


@functools.cache
def _corpus() -> tuple[tuple[Document, ...], tuple[Symbol, ...]]:
    scanned = scan_standard_library()
    documents = tuple(Document(*fields) for fields in scanned["documents"])
    symbols = tuple(
        Symbol(
            name, module, qualname, kind, tuple(Parameter(*p) for p in parameters or ()), parameters is not None, *rest
        )
        for name, module, qualname, kind, parameters, *rest in scanned["symbols"]
    )
    return documents, symbols


def scan_standard_library() -> dict[str, Any]:
    """Run `stdlib_scan` in a child interpreter.

    Raises:
        RetrieverFault: It could not be run.
    """
    script = Path(__file__).with_name("stdlib_scan.py")
    # Isolated and without site-packages: the corpus depends on neither the caller's modules nor its settings.
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-W", "ignore", str(script)]
    try:
        finished = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SCAN_TIMEOUT_SECONDS, check=True
        )
        scanned: dict[str, Any] = json.loads(finished.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        stderr = getattr(error, "stderr", None) or b""
        detail = stderr.decode(errors="replace").strip().rpartition("\n")[2] or str(error)
        raise RetrieverFault(f"could not read the standard library's documentation with {command}: {detail}") from error
    return scanned
