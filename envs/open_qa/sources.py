"""Where questions come from: files, the Hugging Face hub, and the small set that comes with the package."""

from __future__ import annotations

import hashlib
import heapq
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolrl import ConfigError, TaskError
from toolrl.search import Document
from toolrl_envs.common import Split
from toolrl_envs.open_qa.formats import Question, read_question

_SUFFIXES = (".json", ".jsonl", ".parquet")
_OWN = Path(__file__).parent / "data" / "{split}.jsonl"

Rows = Iterator[tuple[str, Any]]


def load_questions(
    data: str | Path | None, split: Split, size: int, seed: int, *, config: str = "", test_split: str = "validation"
) -> list[Question]:
    """Read questions, and draw at most `size` of them.

    Args:
        data: A `.json`, `.jsonl` or `.parquet` file, the id of a data set on the hub, or None for the small set
            that comes with the package. With "{split}" in a file's name, that stands for the split; else every
            fifth question is held out for the test split, by a hash of its id.
        split: "train" or "test".
        size: At most so many.
        seed: Fixes their choice and order.
        config: Configuration of the set on the hub, such as "distractor".
        test_split: What the test split is called on the hub: that of many sets comes without answers.

    Raises:
        TaskError: There is no such file, or a row is broken; names the line and the field.
        ConfigError: The set cannot be loaded from the hub, or no question is left for the split.
    """
    name = str(_OWN if data is None else data)
    if Path(name).suffix in _SUFFIXES:
        path = Path(name.replace("{split}", split))
        rows, shared = _read_file(path), "{split}" not in name
    else:
        rows, shared = _read_hub(name, config, test_split if split == "test" else "train"), False
    drawn = heapq.nsmallest(size, _of_split(rows, split if shared else None), key=lambda q: _lot(q.id, split, seed))
    if not drawn:
        raise ConfigError(f"data={name!r} has no answerable question for split={split!r}")
    return drawn


def _of_split(rows: Rows, split: Split | None) -> Iterator[Question]:
    """The questions of one split of a shared file, or all; a row that is there twice once."""
    texts: dict[str, str] = {}
    for place, row in rows:
        if not isinstance(row, dict):
            raise TaskError(f"{place}: expected a JSON object, got {type(row).__name__}")
        try:
            question = read_question(row)
        except TaskError as error:
            raise TaskError(f"{place}: {error}") from None
        if question is None or (split is not None and _is_held_out(question.id) != (split == "test")):
            continue
        if question.id not in texts:
            texts[question.id] = question.text
            yield question
        elif texts[question.id] != question.text:
            raise TaskError(f"{place}: another question has the id {question.id!r} too")


def _lot(id: str, split: Split, seed: int) -> bytes:
    """What questions are ordered by: so that only those drawn are ever in memory with their passages."""
    return hashlib.blake2b(f"{split}/{seed}/{id}".encode()).digest()


def corpus_of(questions: list[Question]) -> list[Document]:
    """The passages of all questions, each once; those that share a title have ids of their own."""
    documents: dict[tuple[str, str], Document] = {}
    count: dict[str, int] = {}
    for question in questions:
        for passage in question.passages:
            key = (passage.title, passage.text)
            if key not in documents:
                number = count[passage.title] = count.get(passage.title, 0) + 1
                documents[key] = Document(passage.title, passage.title, passage.text)
                if number > 1 or not passage.title:
                    documents[key] = replace(documents[key], id=f"{passage.title}#{number}")
    return _with_unique_ids(list(documents.values()))


def _with_unique_ids(documents: list[Document]) -> list[Document]:
    """A title may itself look like the id of another's namesake."""
    taken: set[str] = set()
    result = []
    for document in documents:
        id = document.id
        while id in taken:
            id += "'"
        taken.add(id)
        result.append(replace(document, id=id))
    return result


def _is_held_out(id: str) -> bool:
    return zlib.crc32(id.encode()) % 5 == 0


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        raise TaskError(f"no file of questions at {str(path)!r}")
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    if path.suffix == ".json":
        try:
            whole = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            whole = None  # perhaps one object on each line
        if isinstance(whole, list):
            yield from ((f"{path}, entry {number}", row) for number, row in enumerate(whole, 1))
            return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise TaskError(f"{path}, line {number}: not valid JSON ({error})") from None
                yield f"{path}, line {number}", row


def _read_parquet(path: Path) -> Rows:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise TaskError(f"{path}: not a Parquet file ({error})") from None
    yield from ((f"{path}, row {number}", row) for number, row in enumerate(table.to_pylist(), 1))


def _read_hub(name: str, config: str, split: str) -> Rows:
    import datasets

    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:  # no such set or split, or no connection
        raise ConfigError(f"cannot load data={name!r} (config={config!r}, split={split!r}): {error}") from error
    yield from ((f"{name}[{split}], row {number}", dict(row)) for number, row in enumerate(rows, 1))
