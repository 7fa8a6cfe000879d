"""Reads the rows of a data set, from a file or the Hugging Face hub; each row comes with its place, for messages."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError, TaskError

_JSON_SUFFIXES = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz")
FILE_SUFFIXES = (*_JSON_SUFFIXES, ".parquet")
_BATCH = 4096  # rows of a Parquet file in memory at a time

Rows = Iterator[tuple[str, dict[str, Any]]]


def is_file_name(source: str | Path) -> bool:
    """Whether a source is a file, judged by its name; otherwise it is the id of a data set on the hub."""
    return str(source).endswith(FILE_SUFFIXES)


def is_arrow(source: str | Path) -> bool:
    """Whether the rows come from Arrow, which fills in nulls: Parquet files and sets on the hub."""
    return not str(source).endswith(_JSON_SUFFIXES)


def read_rows(source: str | Path, *, split: str = "train") -> Rows:
    """Read the rows of a data set one by one, each with its place ("FILE, line 3").

    Args:
        source: A Parquet file; a JSON file, optionally gzipped, that is a list or has a row per line; or the id of a
            data set on the hub, `OWNER/NAME`, or `OWNER/NAME:CONFIGURATION` if it has several configurations.
        split: The split of a set on the hub.

    Raises:
        TaskError: The file does not exist, or a line of it is broken; names the line.
        ConfigError: The set cannot be loaded from the hub.
    """
    path = Path(source)
    if not is_file_name(source):
        if path.is_file():
            raise TaskError(f"{str(path)!r}: expected a file named {', '.join(FILE_SUFFIXES)}, got {path.suffix!r}")
        for number, row in enumerate(load_hub_set(str(source), split), 1):
            yield f"{source}[{split}], row {number}", dict(row)
        return
    if not path.is_file():
        raise TaskError(f"no data file at {str(path)!r}")
    for where, row in _read_parquet(path) if path.suffix == ".parquet" else _read_json(path):
        place = f"{path}, {where}"
        if not isinstance(row, dict):
            raise TaskError(f"{place}: expected a JSON object, got {type(row).__name__}")
        yield place, row


def load_hub_set(source: str, split: str) -> Any:
    """Load a split of a set on the hub as a `datasets.Dataset`, downloaded at most once.

    Raises:
        ConfigError: It cannot be loaded.
    """
    import datasets

    name, _, configuration = source.partition(":")
    try:
        return datasets.load_dataset(name, configuration or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # no such set or split, or no connection
        raise ConfigError(f"cannot load the data set {source!r}, split {split!r}: {error}") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            rows = (row for batch in file.iter_batches(_BATCH) for row in batch.to_pylist())
            for number, row in enumerate(rows, 1):
                yield f"row {number}", {field.name: _plain(row[field.name], field.type) for field in file.schema_arrow}
    except pyarrow.ArrowException as error:
        raise TaskError(f"{path}: not a Parquet file ({error})") from None


def _plain(value: Any, kind: Any) -> Any:
    """Decode a value from Arrow: `datasets` writes columns of mixed type as JSON, at any level."""
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
                    whole = None  # perhaps a row per line
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
        raise TaskError(f"{path}: not a complete gzip file ({error})") from None
