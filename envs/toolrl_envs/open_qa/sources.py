"""Reads questions from files, the hub, or the small data set that comes with the package; and their passages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from toolrl.search import Document
from toolrl_envs.common import Split, read_split
from toolrl_envs.open_qa.formats import Question, read_question

_OWN = Path(__file__).parent / "data" / "{split}.jsonl"


def load_questions(
    data: str | Path | None, split: Split, size: int, seed: int, *, test_split: str = "", hub_split: str = ""
) -> list[Question]:
    """Read questions and draw at most `size` of them; see `toolrl_envs.common.read_split`.

    Args:
        data: None for the small data set that comes with the package.
        split: "train" or "test".
        size: Maximum number of questions.
        seed: Fixes which are drawn, and their order.
        test_split: The name of the test split on the hub, by default "validation": many test sets lack answers.
        hub_split: The only split of a data set on the hub.
    """
    return read_split(
        _OWN if data is None else data,
        lambda row, key: read_question(row),
        split,
        size=size,
        seed=seed,
        test_split=test_split,
        hub_split=hub_split,
        default_test_split="validation",
    )


def corpus_of(questions: list[Question]) -> list[Document]:
    """All distinct passages of the questions; passages that share a title get different ids."""
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
    """Make ids unique: a title may look like the numbered id of another passage."""
    taken: set[str] = set()
    result = []
    for document in documents:
        id = document.id
        while id in taken:
            id += "'"
        taken.add(id)
        result.append(replace(document, id=id))
    return result
