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
from toolrl.rewards.fences import fenced_blocks

AnswerForm = Literal["tag", "boxed", "hashes", "json", "letter"]

_tag = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_box = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{")
_hashes = re.compile(r"^\s*####[ \t]*(\S.*?)\s*$", re.MULTILINE)
_dollars = re.compile(r"\$\$(.+)\$\$|\$([^$]+)\$|\\\((.+)\\\)|\\\[(.+)\\\]", re.DOTALL)
_named = re.compile(r"(?:\\?[A-Za-z]\w*(?:\([a-z]\))?)\s*=\s*(?=\\(?:f?boxed|fbox|framebox)\b)")


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
        found += [unwrap(content) for content in _tag.findall(text)]
        text = _tag.sub(" ", text)
    if "boxed" in forms:
        found += [unwrap(content) for content in boxes(text)]
    if "hashes" in forms:
        found += [unwrap(content) for content in _hashes.findall(text)]
    if "json" in forms:
        found += _json_fields(text, field)
    if "letter" in forms:
        if found:  # the letter is inside another form
            found = [choice_letter(content or "", letters) for content in found]
        elif (letter := choice_letter(text, letters)) is not None:
            found = [letter]
    distinct = {None if content is None else "".join(content.split()) for content in found}
    return found[0] if len(distinct) == 1 else None


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


def choice_letter(text: str, letters: str = "ABCDE") -> str | None:
    """The letter of a choice: a text such as "B", "(b).", "B) Paris", or one that says "the answer is B".

    Returns:
        The letter in upper case; None if there is none, or more than one.
    """
    one = f"([{re.escape(letters)}{re.escape(letters.lower())}])"
    text = text.strip()
    whole = re.fullmatch(rf"\(?\**\(?{one}\)?\**\)?[.:]?", text) or re.match(rf"\(?{one}(?:\)|[.:](?=\s))\s*\S", text)
    said = re.findall(rf"(?i:answer|choice|option)\s*(?i:is|:)?\s*\**\(?{one}\)?\**(?![\w'])", text)
    listed = re.findall(rf"(?m)^\s*\(?{one}[).:](?=\s)", text)
    found = {letter.upper() for letter in (*([whole[1]] if whole else []), *said, *listed)}
    return found.pop() if len(found) == 1 else None


def unwrap(content: str) -> str | None:
    r"""An answer without the dollar signs or the box that it consists of; None if it holds several boxes.

    `x = \boxed{4}` is 4. A box beside other text is ambiguous, and no answer.
    """
    content = content.strip()
    while True:
        if match := _dollars.fullmatch(content):
            inner = next(group for group in match.groups() if group is not None)
        elif (match := _box.match(content, named.end() if (named := _named.match(content)) else 0)) and (
            _closing_brace(content, match.end()) == len(content) - 1
        ):
            inner = content[match.end() : -1]
        else:
            return None if _box.search(content) else content
        content = inner.strip()


def _closing_brace(text: str, start: int) -> int | None:
    depth, position = 1, start
    while position < len(text):
        if text[position] == "\\":
            position += 2
            continue
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            return position
        position += 1
    return None


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
