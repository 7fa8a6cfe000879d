"""Rows of a data set, from a file or the Hugging Face hub, each with its place for messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError, TaskError

FILE_SUFFIXES = (".json", ".jsonl", ".parquet", ".json.gz", ".jsonl.gz")

Rows = Iterator[tuple[str, dict[str, Any]]]


def is_file_name(source: str | Path) -> bool:
    """Whether a source is a file, by its name; else it is the id of a data set on the hub."""
    return str(source).endswith(FILE_SUFFIXES)


def is_arrow(source: str | Path) -> bool:
    """Whether the rows of a source come from Arrow, which fills in nulls: Parquet, and what is on the hub."""
    return Path(source).suffix not in (".json", ".jsonl")


def read_rows(source: str | Path, *, split: str = "train") -> Rows:
    """Read the rows of a data set one by one, each with its place ("FILE, line 3").

    Args:
        source: A `.jsonl` or `.parquet` file, or a `.json` file that is a list or has a row on each line, JSON perhaps
            packed with gzip (`.gz`); or the id of a data set on the hub, `OWNER/NAME`, with `:CONFIGURATION` behind it
            if it has several.
        split: Of a set on the hub.

    Raises:
        TaskError: There is no such file, or a line of it is broken; names the line.
        ConfigError: The set cannot be loaded from the hub.
    """
    path = Path(source)
    if not is_file_name(source):
        if path.is_file():
            raise TaskError(f"{str(path)!r}: expected a file named {', '.join(FILE_SUFFIXES)}, got {path.suffix!r}")
        yield from _read_hub(str(source), split)
        return
    if not path.is_file():
        raise TaskError(f"no data file at {str(path)!r}")
    for where, row in _read_parquet(path) if path.suffix == ".parquet" else _read_json(path):
        place = f"{path}, {where}"
        if not isinstance(row, dict):
            raise TaskError(f"{place}: expected a JSON object, got {type(row).__name__}")
        yield place, row


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{path}: not a Parquet file ({error})") from None
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"row {number}", {field.name: _plain(row[field.name], field.type) for field in table.schema}


def _plain(value: Any, kind: Any) -> Any:
    """A value of Arrow's. What has several types in one column `datasets` writes as JSON, at any level."""
    import pyarrow

    if value is not None and isinstance(kind, pyarrow.JsonType):
        return json.loads(value)
    if isinstance(value, dict) and pyarrow.types.is_struct(kind):
        return {field.name: _plain(value[field.name], field.type) for field in kind}
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_plain(item, kind.value_type) for item in value]
    return value


def _read_json(path: Path) -> Iterator[tuple[str, Any]]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rb") as lines:
            if path.name.removesuffix(".gz").endswith(".json"):
                try:
                    whole = json.loads(lines.read())
                except (ValueError, RecursionError):
                    whole = None  # perhaps a row on each line
                whole = [whole] if isinstance(whole, dict) else whole
                if isinstance(whole, list):
                    yield from ((f"entry {number}", row) for number, row in enumerate(whole, 1))
                    return
                lines.seek(0)
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise TaskError(f"{path}, line {number}: not valid JSON ({error})") from None
                    yield f"line {number}", row
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TaskError(f"{path}: not a whole gzip file ({error})") from None


def _read_hub(source: str, split: str) -> Rows:
    import datasets

    name, _, configuration = source.partition(":")
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # no such set or split, or no connection
        raise ConfigError(f"cannot load the data set {source!r}, split {split!r}: {error}") from error
    yield from ((f"{source}[{split}], row {number}", dict(row)) for number, row in enumerate(rows, 1))
