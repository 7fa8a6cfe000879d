"""Reads rows of open question answering data sets into questions.

Supported formats: HotpotQA and 2WikiMultihopQA (`context`, `supporting_facts`; as published and as on the Hugging Face
hub), MuSiQue (`paragraphs`), NQ-open (`answer`, a list), DPR's Natural Questions (`answers`, `positive_ctxs`) and
FlashRAG (`golden_answers`, other fields under `metadata`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from toolrl import TaskError

_PASSAGES = ("context", "contexts", "paragraphs", "positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
_TEXTS = ("paragraph_text", "text", "sentences", "content")
_ANSWERS = ("golden_answers", "answers", "answer")
_ALIASES = ("answer_aliases", "aliases")


@dataclass(frozen=True, slots=True)
class Passage:
    """A titled text that comes with a question."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Question:
    """One question.

    Attributes:
        id: The id of the row, or a hash of the question.
        prompt: The question.
        answers: All right answers, the main one first; at least one.
        passages: Passages that come with it, including distractors; may be empty.
        supporting: Titles of the passages needed, in the order of the reasoning if the row gives it; may be empty.
        kind: The type of the row, such as "bridge" or "2hop"; otherwise "open".
    """

    id: str
    prompt: str
    answers: tuple[str, ...]
    passages: tuple[Passage, ...]
    supporting: tuple[str, ...]
    kind: str


def read_question(row: Mapping[str, Any]) -> Question | None:
    """Read one row.

    Returns:
        None for a question marked as unanswerable.

    Raises:
        TaskError: A field is missing or has another shape; the message names it.
    """
    if row.get("answerable") is False:
        return None
    metadata = row.get("metadata")
    fields = {**(metadata if isinstance(metadata, Mapping) else {}), **row}
    text = _text(fields, "question")
    own_id = fields.get("id", fields.get("_id"))
    id = hashlib.sha256(text.encode()).hexdigest()[:12] if own_id is None else str(own_id)
    passages: list[Passage] = []
    supporting: list[str] = []
    for name in _PASSAGES:
        if fields.get(name) is not None:
            found, needed = _passages(_decoded(fields[name], name), name)
            passages += found
            supporting += [passage.title for passage in (found if name == "positive_ctxs" else needed)]
    if fields.get("supporting_facts") is not None:
        supporting += _supporting(_decoded(fields["supporting_facts"], "supporting_facts"))
    if isinstance(steps := fields.get("question_decomposition"), list):
        supporting = [*_in_order(steps, fields.get("paragraphs")), *supporting]
    answers = _answers(fields)
    titles = tuple(dict.fromkeys(supporting))
    return Question(id, text, answers, tuple(passages), titles, _kind(fields, id))


def _answers(fields: Mapping[str, Any]) -> tuple[str, ...]:
    name = next((name for name in _ANSWERS if fields.get(name) is not None), None)
    if name is None:
        raise TaskError(f"it needs one of the fields {', '.join(map(repr, _ANSWERS))}; it has: {', '.join(fields)}")
    value = fields[name]
    if isinstance(value, Mapping):  # SQuAD's {"text": [...], "answer_start": [...]}
        value = value.get("text")
    answers = [value] if isinstance(value, str) else value
    for alias in _ALIASES:
        if isinstance(answers, list) and isinstance(fields.get(alias), list):
            answers = [*answers, *fields[alias]]
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise TaskError(f"field {name!r} must be a text or a list of texts, got {_short(fields[name])}")
    given = tuple(dict.fromkeys(answer.strip() for answer in answers if answer.strip()))
    if not given:
        raise TaskError(f"field {name!r} has no answer, got {_short(fields[name])}")
    return given


def _passages(value: Any, field: str) -> tuple[list[Passage], list[Passage]]:
    """All passages of a field, and those marked as supporting."""
    if isinstance(value, Mapping):  # columns, as on the hub
        texts = next((value[name] for name in _TEXTS if name in value), None)
        if not isinstance(value.get("title"), list) or not isinstance(texts, list) or len(texts) != len(value["title"]):
            raise TaskError(f"field {field!r} must have 'title' and 'sentences' of one length, got {_short(value)}")
        value = list(zip(value["title"], texts, strict=True))
    if not isinstance(value, list):
        raise TaskError(f"field {field!r} must be a list of passages, got {_short(value)}")
    passages, needed = [], []
    for item in value:
        if isinstance(item, Mapping):
            title, text = item.get("title", ""), next((item[name] for name in _TEXTS if name in item), None)
        elif isinstance(item, list | tuple) and len(item) == 2:
            title, text = item
        else:
            title, text = None, None
        if isinstance(text, list) and all(isinstance(line, str) for line in text):
            text = " ".join(line.strip() for line in text)
        if not isinstance(title, str) or not isinstance(text, str):
            raise TaskError(f"field {field!r}: expected a passage with title and text, got {_short(item)}")
        if text.strip():
            passages.append(Passage(title.strip(), text.strip()))
            if isinstance(item, Mapping) and item.get("is_supporting"):
                needed.append(passages[-1])
    return passages, needed


def _supporting(value: Any) -> list[str]:
    titles = value.get("title") if isinstance(value, Mapping) else value
    if isinstance(titles, list):
        titles = [item[0] if isinstance(item, list | tuple) and item else item for item in titles]
    if not isinstance(titles, list) or not all(isinstance(title, str) for title in titles):
        raise TaskError(f"field 'supporting_facts' must be a list of [title, sentence], got {_short(value)}")
    return [title.strip() for title in titles]


def _in_order(steps: Iterable[Any], paragraphs: Any) -> list[str]:
    """Titles of the supporting paragraphs of MuSiQue's steps, in the order of the steps."""
    by_index = {p.get("idx"): p for p in paragraphs or () if isinstance(p, Mapping)}
    found = [by_index.get(step.get("paragraph_support_idx")) for step in steps if isinstance(step, Mapping)]
    return [str(paragraph.get("title", "")).strip() for paragraph in found if paragraph]


def _kind(fields: Mapping[str, Any], id: str) -> str:
    if isinstance(kind := fields.get("type"), str) and kind:
        return kind
    hops = re.match(r"(\dhop)\d*__", id)
    return hops.group(1) if hops else "open"


def _text(fields: Mapping[str, Any], name: str) -> str:
    if name not in fields:
        raise TaskError(f"field {name!r} is missing; it has: {', '.join(fields)}")
    if not isinstance(fields[name], str) or not fields[name].strip():
        raise TaskError(f"field {name!r} must be a text, got {_short(fields[name])}")
    return str(fields[name]).strip()


def _decoded(value: Any, field: str) -> Any:
    """Decode lists that some data sets on the hub store as JSON texts."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise TaskError(f"field {field!r} must be a list, or a list as JSON, got {_short(value)}") from None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
