"""Where problems come from: files, the Hugging Face hub, and the small set that comes with the package."""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolrl import ConfigError, TaskError
from toolrl_envs.code_tests.formats import Problem, read_problem
from toolrl_envs.common import Split

_SUFFIXES = (".json", ".jsonl", ".parquet")
_OWN = Path(__file__).parent / "data" / "{split}.jsonl"
_log = logging.getLogger(__name__)

Rows = Iterator[tuple[str, Any]]


def load_problems(
    data: str | Path | None, split: Split, size: int, seed: int, *, config: str = "", hub_split: str = ""
) -> list[Problem]:
    """Read problems, and draw at most `size` of them, in an order that `seed` fixes.

    Args:
        data: A `.jsonl`, `.json` (lines) or `.parquet` file, the id of a data set on the hub, or None for our own.
            "{split}" in a file's name stands for the split; else every fifth problem is held out, by a hash of its id.
        split: "train" or "test".
        size: At most so many.
        seed: Fixes their choice and order.
        config: Configuration of the set on the hub, such as "sanitized".
        hub_split: The one split of a set on the hub that has no other; it is then divided as a file is. Empty: `split`.

    Raises:
        TaskError: There is no such file, or no row of it can be read.
        ConfigError: The set cannot be loaded from the hub, or nothing is left for the split.
    """
    name = str(_OWN if data is None else data)
    if Path(name).suffix in _SUFFIXES:
        rows, shared = _read_file(Path(name.replace("{split}", split))), "{split}" not in name
    else:
        rows, shared = _read_hub(name, config, hub_split or split), bool(hub_split)
    problems, refused = [], []
    for place, row in rows:
        try:
            problem = read_problem(row)
        except TaskError as error:
            refused.append(f"{place}: {error}")
            continue
        if not shared or (zlib.crc32(problem.id.encode()) % 5 == 0) == (split == "test"):
            problems.append(problem)
    if refused and not problems:
        raise TaskError(f"no problem of data={name!r} can be read; the first: {refused[0]}")
    if refused:
        _log.warning("%d problems of %s are left out; the first: %s", len(refused), name, refused[0])
    if not problems:
        raise ConfigError(f"data={name!r} has no problem for split={split!r}")
    return sorted(problems, key=lambda problem: _lot(problem.id, split, seed))[:size]


def _lot(id: str, split: Split, seed: int) -> bytes:
    return hashlib.blake2b(f"{split}/{seed}/{id}".encode()).digest()


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        raise TaskError(f"no file of problems at {str(path)!r}")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            table = pyarrow.parquet.read_table(path)
        except pyarrow.ArrowInvalid as error:
            raise TaskError(f"{path}: not a Parquet file ({error})") from None
        yield from ((f"{path}, row {number}", row) for number, row in enumerate(table.to_pylist(), 1))
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise TaskError(f"{path}, line {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise TaskError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
            yield f"{path}, line {number}", row


def _read_hub(name: str, config: str, split: str) -> Rows:
    import datasets

    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # no such set or split, or no connection
        raise ConfigError(f"cannot load data={name!r} (config={config!r}, split={split!r}): {error}") from error
    yield from ((f"{name}[{split}], row {number}", dict(row)) for number, row in enumerate(rows, 1))
