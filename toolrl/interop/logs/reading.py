"""`read_log`: which format a file has, and its episodes."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet

from toolrl.errors import ConfigError, TaskError
from toolrl.interop.logs.atif import read_atif
from toolrl.interop.logs.base import Record
from toolrl.interop.logs.chat import read_chat, read_trl
from toolrl.interop.logs.inspect import open_inspect
from toolrl.interop.logs.verifiers import read_verifiers
from toolrl.trajectory import Trajectory

FORMATS = {
    "chat": "message lists of chat-completions APIs, one a line: `messages`, perhaps `reward`, `task_id`",
    "trl": "TRL's logged completions (Parquet)",
    "inspect": "logs of Inspect (.eval, .json)",
    "verifiers": "traces of verifiers 0.4 (traces.jsonl)",
    "atif": "sessions in the Agent Trajectory Interchange Format (.json, or one a line)",
}


def read_log(path: str | Path, format: str = "") -> Iterator[Trajectory]:
    """The episodes of a log that another program wrote.

    Args:
        path: The file.
        format: A name in `FORMATS`; by default what the file looks like.

    Raises:
        ConfigError: There is no such format.
        TaskError: The file cannot be read, or is not of this format; names the line or the sample.
    """
    path = Path(path)
    if format and format not in FORMATS:
        raise ConfigError(f"there is no log format {format!r}; the formats are {', '.join(FORMATS)}")
    try:
        format = format or _format_of(path)
        number = 0
        for number, (where, record) in enumerate(_RECORDS[format](path), 1):
            try:
                episode = record.episode(f"{format}/{path.stem}/{number}")
            except ValueError as error:
                raise _Broken(where, error) from None
            yield episode
    except OSError as error:
        raise TaskError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except _Broken as broken:
        raise TaskError(f"{path}, {broken.where}: not what {format!r} logs hold: {broken}") from None
    if not number:
        raise TaskError(f"{path} has no episodes")


class _Broken(Exception):
    """A line that cannot be read."""

    def __init__(self, where: str, reason: object):
        super().__init__(str(reason))
        self.where = where


def _format_of(path: Path) -> str:
    """What a file looks like.

    Raises:
        TaskError: Like nothing that is read.
    """
    if path.suffix in (".eval", ".parquet"):
        return "inspect" if path.suffix == ".eval" else "trl"
    try:
        row = next((row for _, row in _rows(path)), {})
    except _Broken as broken:
        raise TaskError(f"{path}, {broken.where}: neither JSON nor JSON lines ({broken}); name its --format") from None
    for name, marks in _MARKS.items():
        if all(mark in row for mark in marks):
            return name
    raise TaskError(
        f"{path} looks like no log that is read (it has {', '.join(map(str, row))[:200] or 'nothing'}); name its "
        f"--format: {', '.join(FORMATS)}"
    )


_MARKS = {
    "atif": ("schema_version", "steps"), "inspect": ("version", "eval", "status"), "verifiers": ("traces",),
    "chat": ("messages",),
}  # fmt: skip


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a file: one a line, or a single one or a list of them on several lines."""
    with path.open(encoding="utf-8", errors="replace") as file:
        number, line = next(((number, line) for number, line in enumerate(file, 1) if line.strip()), (0, ""))
        if not line:
            return
        try:
            first = json.loads(line)
        except _UNREADABLE:  # a value of many lines, or nothing that can be read
            with _naming("the file" if path.suffix == ".json" else f"line {number}"):
                first = json.loads(line + file.read())
        lines: Iterator[tuple[str, Any]]
        if isinstance(first, list):
            lines = ((f"entry {entry}", row) for entry, row in enumerate(first, 1))
        else:
            lines = chain([(f"line {number}", first)], _lines(file, number + 1))
        for where, row in lines:
            if not isinstance(row, Mapping):
                raise _Broken(where, f"a {type(row).__name__}, not an object")
            yield where, row


def _lines(file: TextIO, first: int) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(file, first):
        if line.strip():
            with _naming(f"line {number}"):
                row = json.loads(line)
            yield f"line {number}", row


def _each(read: Callable[[Mapping[str, Any]], Iterator[Record]], path: Path) -> Iterator[tuple[str, Record]]:
    for where, row in _rows(path):
        with _naming(where):
            records = list(read(row))
        yield from ((where, record) for record in records)


def _parquet(path: Path) -> Iterator[tuple[str, Record]]:
    with _naming("its table"):
        file = pyarrow.parquet.ParquetFile(path)
    number = 0
    for batch in file.iter_batches(1_000):
        for row in batch.to_pylist():
            number += 1
            with _naming(f"row {number}"):
                record = read_trl(row, "trl")
            yield f"row {number}", record


def _samples(path: Path) -> Iterator[tuple[str, Record]]:
    with _naming("its header"):
        samples = open_inspect(path)
    number = 0
    while True:
        number += 1
        with _naming(f"sample {number}"):
            record = next(samples, None)
        if record is None:
            return
        yield f"sample {number}", record


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """Say where it was, if what is read is not what it should be."""
    try:
        yield
    except _MISTAKES as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise _Broken(where, reason) from None


_UNREADABLE = (ValueError, RecursionError)  # of JSON: wrong, or nested too deeply
_MISTAKES = (
    *_UNREADABLE, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile, pyarrow.ArrowException,
)  # fmt: skip
_RECORDS: dict[str, Callable[[Path], Iterator[tuple[str, Record]]]] = {
    "chat": lambda path: _each(lambda row: iter([read_chat(row, path.stem)]), path),
    "trl": _parquet,
    "inspect": _samples,
    "verifiers": lambda path: _each(read_verifiers, path),
    "atif": lambda path: _each(lambda row: iter([read_atif(row)]), path),
}
