"""Where questions come from: files, the Hugging Face hub, and the small set that comes with the package."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from toolrl import ConfigError, TaskError, is_file_name, read_rows
from toolrl.search import Document
from toolrl_envs.common import Split, belongs, lot
from toolrl_envs.open_qa.formats import Question, read_question

_OWN = Path(__file__).parent / "data" / "{split}.jsonl"


def load_questions(
    data: str | Path | None, split: Split, size: int, seed: int, *, test_split: str = "validation"
) -> list[Question]:
    """Read questions, and draw at most `size` of them.

    Args:
        data: What `toolrl.read_rows` reads, or None for the small set that comes with the package. With "{split}" in
            a file's name, that stands for the split; else every fifth question of a file is held out for "test".
        split: "train" or "test".
        size: At most so many.
        seed: Fixes their choice and order.
        test_split: What the test split is called on the hub: that of many sets comes without answers.

    Raises:
        TaskError: There is no such file, or a row is broken; names the line and the field.
        ConfigError: The set cannot be loaded from the hub, or no question is left for the split.
    """
    name = str(_OWN if data is None else data)
    shared = is_file_name(name) and "{split}" not in name
    rows = read_rows(name.replace("{split}", split), split=test_split if split == "test" else "train")
    drawn = heapq.nsmallest(size, _of_split(rows, split if shared else None), key=lambda q: lot(q.id, split, seed))
    if not drawn:
        raise ConfigError(f"data={name!r} has no answerable question for split={split!r}")
    return drawn


def _of_split(rows: Iterator[tuple[str, dict[str, Any]]], split: Split | None) -> Iterator[Question]:
    """The questions of one split of a shared file, or all; a row that is there twice once."""
    texts: dict[str, str] = {}
    for place, row in rows:
        try:
            question = read_question(row)
        except TaskError as error:
            raise TaskError(f"{place}: {error}") from None
        if question is None or (split is not None and not belongs(question.id, split)):
            continue
        if question.id not in texts:
            texts[question.id] = question.text
            yield question
        elif texts[question.id] != question.text:
            raise TaskError(f"{place}: another question has the id {question.id!r} too")


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
