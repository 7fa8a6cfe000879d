r"""Final answers in the forms that models write them in: `<answer>`, `\boxed{}`, `#### x`, a JSON field, a letter.

Only the final message is read, and only one answer counts: a message that gives two different ones gives none, since
a list of guesses is not an answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

from toolrl.errors import ConfigError
from toolrl.rewards.answers import tagged
from toolrl.rewards.choices import choice_letter
from toolrl.rewards.fences import fenced_blocks

AnswerForm = Literal["tag", "boxed", "hashes", "json", "letter"]

_box = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{")
_braces = re.compile(r"\\.|[{}]", re.DOTALL)
_named = re.compile(r"(?:\\?[A-Za-z]\w*(?:\([a-z]\))?)\s*=\s*(?=\\(?:f?boxed|fbox|framebox)\b)")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

# What may separate the digits of a number, and does not change it.
_spacing = re.compile(r"\\[!,;:> ]|\{,\}(?=\d{3})|[~\s$]|\\(?:left|right)(?![A-Za-z])|(?<=\\)[dt](?=frac)")
_thousands = re.compile(r"\D{0,3}\d{1,3}(?:,\d{3})+(?:\.\d+)?\D{0,3}")


def find_answer(
    text: str | None,
    forms: Sequence[AnswerForm] = ("tag", "boxed"),
    *,
    field: str = "answer",
    letters: str = "ABCDE",
) -> str | None:
    r"""The one answer in a final message.

    The answers in all the forms asked for are collected. What stands inside a tag is not read a second time, and an
    answer that is nothing but a box, or a formula between dollar signs, is taken out of it.

    Args:
        text: The final assistant message, never a transcript.
        forms: "tag" is `<answer>x</answer>`, "boxed" is `\boxed{x}` with its braces balanced, "hashes" a line
            `#### x`, "json" a field of a JSON object that is the whole message or a fenced block of it, "letter" the
            letter of a choice.
        field: The field, for "json".
        letters: The choices, for "letter".

    Returns:
        None if there is no answer, or more than one distinct answer.

    Raises:
        ConfigError: `forms` is empty or has one that does not exist.
    """
    check_forms(forms)
    text = text or ""
    found: list[str | None] = []
    if "tag" in forms:
        contents, text = tagged(text)
        found += map(unwrap, contents)
    if "boxed" in forms:
        found += map(unwrap, boxes(text))
    if "hashes" in forms:
        found += map(unwrap, _after_hashes(text))
    if "json" in forms:
        found += _json_fields(text, field)
    if "letter" in forms:
        if found:  # the letter is inside another form
            found = [choice_letter(content or "", letters) for content in found]
        elif (letter := choice_letter(text, letters)) is not None:
            found = [letter]
    return (
        found[0] if len({None if content is None else _without_separators(content) for content in found}) == 1 else None
    )


def check_forms(forms: Sequence[str]) -> None:
    """Refuse forms that do not exist.

    Raises:
        ConfigError: `forms` is empty, a text, or has one that does not exist.
    """
    known = get_args(AnswerForm)
    if isinstance(forms, str) or not forms or any(form not in known for form in forms):
        raise ConfigError(f"forms must be a list of some of {', '.join(known)}, got {forms!r}")


def boxes(text: str) -> list[str]:
    r"""The contents of all outermost `\boxed{...}`, braces balanced; one without an end counts as an empty answer."""
    contents, position = [], 0
    while match := _box.search(text, position):
        end = _closing_brace(text, match.end())
        if end is None:
            contents.append("")
            break
        contents.append(text[match.end() : end].strip())
        position = end + 1
    return contents


def unwrap(content: str) -> str | None:
    r"""An answer without the dollar signs or the box that it consists of; None if it holds several boxes.

    `x = \boxed{4}` is 4. A box beside other text is ambiguous, and no answer.
    """
    start, end = 0, len(content)
    closing = _closing_braces(content) if _box.search(content) else {}
    while True:
        while start < end and content[start].isspace():
            start += 1
        while start < end and content[end - 1].isspace():
            end -= 1
        named = _named.match(content, start, end)
        box = _box.match(content, named.end() if named else start, end)
        if box and closing.get(box.end() - 1) == end - 1:
            start, end = box.end(), end - 1
            continue
        pair = next((pair for pair in _PAIRS if _is_between(content, start, end, *pair)), None)
        if pair is None:
            break
        start, end = start + len(pair[0]), end - len(pair[1])
    return None if _box.search(content, start, end) else content[start:end]


def _is_between(text: str, start: int, end: int, opening: str, closing: str) -> bool:
    if end - start <= len(opening) + len(closing):
        return False
    if not (text.startswith(opening, start, end) and text.endswith(closing, start, end)):
        return False
    return opening != "$" or text.find("$", start + 1, end - 1) < 0


def _closing_braces(text: str) -> dict[int, int]:
    """Of each brace that is opened and closed, where it is closed."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _braces.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _closing_brace(text: str, start: int) -> int | None:
    depth = 1
    for match in _braces.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _after_hashes(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("####") and (content := line[4:].strip()) and not content.startswith("#"):
            yield content


def _without_separators(content: str) -> str:
    """A key that answers share which differ in white space, and in what separates the digits of a number."""
    bare = _spacing.sub("", content)
    bare = bare.replace(",", "") if _thousands.fullmatch(bare) else bare
    return bare.removesuffix(".") if bare[-2:-1].isdigit() else bare


def _json_fields(text: str, field: str) -> Iterator[str | None]:
    for block in [text, *(block.content for block in fenced_blocks(text) if block.label in ("", "json"))]:
        try:
            value: Any = json.loads(block, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and field in value:
            content = value[field]
            if isinstance(content, str):
                yield unwrap(content)
            else:  # numbers as written; what is neither text nor number is no single answer
                yield None if isinstance(content, list | dict | bool | type(None)) else str(content)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)
