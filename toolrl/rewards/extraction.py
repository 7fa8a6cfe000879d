r"""The one answer of a final message: in `<answer>`, `\boxed{}`, `#### x`, a JSON field, a letter, or a block of code.

Only the final message is read. A message with two different answers has no answer: a list of guesses does not count.

Source of the rules for code blocks: https://spec.commonmark.org/0.31.2/#fenced-code-blocks. Unlike there, a fence may
have any indentation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

from toolrl.errors import ConfigError
from toolrl.rewards.choices import choice_letter

AnswerForm = Literal["tag", "boxed", "hashes", "json", "letter"]

_OPENING, _CLOSING = "<answer>", "</answer>"
_PYTHON = ("python", "python3", "py", "py3", "ipython")

_box = re.compile(r"\\(?:f?boxed|fbox|framebox)\s*\{")
_braces = re.compile(r"\\.|[{}]", re.DOTALL)
_assigned = re.compile(r"(?:\\?[A-Za-z]\w*(?:\([a-z]\))?)\s*=\s*(?=\\(?:f?boxed|fbox|framebox)\b)")
_PAIRS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))

# Separators between the digits of a number, which do not change it.
_spacing = re.compile(r"\\[!,;:> ]|\{,\}(?=\d{3})|[~\s$]|\\(?:left|right)(?![A-Za-z])|(?<=\\)[dt](?=frac)")
_thousands = re.compile(r"\D{0,3}\d{1,3}(?:,\d{3})+(?:\.\d+)?\D{0,3}")

_fence = re.compile(
    r"(?:[^`]*:[ \t]*(?=```[ \t]*\w+[ \t]*$))?"  # `Code: ```python`
    r"([ \t]*(?:(?:[-*+]|\d+[.)])[ \t]+)?)(`{3,}(?=[^`]*$)|~{3,})[ \t]*[{.]*([\w+#-]*)"
)


def tagged_answer(text: str | None) -> str | None:
    """The content of the only `<answer>...</answer>` in the final message, as written.

    Returns:
        None if there is no such tag, or more than one.
    """
    found = _tagged(text or "")[0]
    return found[0].strip() if len(found) == 1 else None


def find_answer(
    text: str | None,
    forms: Sequence[AnswerForm] = ("tag", "boxed"),
    *,
    field: str = "answer",
    letters: str = "ABCDE",
) -> str | None:
    r"""The one answer in a final message, in any of several forms.

    All answers in the given forms are collected. The content of a tag is not searched again, but an answer that is
    only a box, or a formula between dollar signs, is unwrapped.

    Args:
        text: The final assistant message, never a transcript.
        forms: "tag" is `<answer>x</answer>`, "boxed" is `\boxed{x}` with balanced braces, "hashes" a line `#### x`,
            "json" a field of a JSON object that is the whole message or a fenced block, "letter" the letter of a
            multiple-choice answer.
        field: The field, for "json".
        letters: The choices, for "letter".

    Returns:
        None if there is no answer, or more than one distinct answer.

    Raises:
        ConfigError: `forms` is empty or names an unknown form.
    """
    check_forms(forms)
    text = text or ""
    found: list[str | None] = []
    if "tag" in forms:
        contents, text = _tagged(text)
        found += map(unwrap, contents)
    if "boxed" in forms:
        found += map(unwrap, _boxes(text))
    if "hashes" in forms:
        found += map(unwrap, _after_hashes(text))
    if "json" in forms:
        found += _json_fields(text, field)
    if "letter" in forms:
        if found:  # the letter is inside another form
            found = [choice_letter(content or "", letters) for content in found]
        elif (letter := choice_letter(text, letters)) is not None:
            found = [letter]
    distinct = {None if content is None else _without_separators(content) for content in found}
    return found[0] if len(distinct) == 1 else None


def find_code(text: str | None) -> str | None:
    """The one program of the final message: a block fenced as Python, or the content of `<answer>...</answer>`.

    An unlabelled block counts only if no block is labelled as Python; otherwise it is taken for sample output.

    Returns:
        None if there is no program, or more than one.
    """
    text = text or ""
    blocks = _fenced_blocks(text)
    # A tag inside a block is text of the program.
    answers = [span for span in _tags(text) if not any(block.start < span[0] < block.end for block in blocks)]
    if len(answers) > 1:
        return None
    content = ""
    for start, end in answers:
        content = text[start + len(_OPENING) : end]
        text = f"{text[:start]}\n{text[end + len(_CLOSING) :]}"
    outside, inside = _programs(text), _programs(content)
    if len(answers) + len(outside) != 1 or len(inside) > 1:
        return None
    return [*outside, *inside, content.strip("\n")][0]


def check_forms(forms: Sequence[str]) -> None:
    """Refuse unknown forms.

    Raises:
        ConfigError: `forms` is empty, a string, or names an unknown form.
    """
    known = get_args(AnswerForm)
    if isinstance(forms, str) or not forms or any(form not in known for form in forms):
        raise ConfigError(f"forms must be a list of some of {', '.join(known)}, got {forms!r}")


def unwrap(content: str) -> str | None:
    r"""Strip the dollar signs or the box around an answer; None if several boxes are left.

    `x = \boxed{4}` is 4. A box next to other text is ambiguous, so it is not an answer.
    """
    start, end = 0, len(content)
    closing = _closing_braces(content) if _box.search(content) else {}
    while True:
        while start < end and content[start].isspace():
            start += 1
        while start < end and content[end - 1].isspace():
            end -= 1
        name = _assigned.match(content, start, end)
        box = _box.match(content, name.end() if name else start, end)
        if box and closing.get(box.end() - 1) == end - 1:
            start, end = box.end(), end - 1
            continue
        pair = next((pair for pair in _PAIRS if _is_between(content, start, end, *pair)), None)
        if pair is None:
            break
        start, end = start + len(pair[0]), end - len(pair[1])
    return None if _box.search(content, start, end) else content[start:end]


# ---- tags, boxes, hashes, JSON


def _tags(text: str) -> Iterator[tuple[int, int]]:
    """The start of each `<answer>` and of the `</answer>` that closes it, in time linear in the text's length."""
    position = 0
    while (start := text.find(_OPENING, position)) >= 0 and (end := text.find(_CLOSING, start)) >= 0:
        yield start, end
        position = end + len(_CLOSING)


def _tagged(text: str) -> tuple[list[str], str]:
    """The contents of all tags, and the text outside of them."""
    contents, outside, position = [], [], 0
    for start, end in _tags(text):
        outside.append(text[position:start])
        contents.append(text[start + len(_OPENING) : end])
        position = end + len(_CLOSING)
    return contents, " ".join([*outside, text[position:]])


def _boxes(text: str) -> Iterator[str]:
    r"""The contents of all outermost `\boxed{...}`; a box that is never closed counts as an empty answer."""
    closing, position = _closing_braces(text), 0
    while match := _box.search(text, position):
        end = closing.get(match.end() - 1)
        if end is None:
            yield ""
            return
        yield text[match.end() : end].strip()
        position = end + 1


def _is_between(text: str, start: int, end: int, opening: str, closing: str) -> bool:
    if end - start <= len(opening) + len(closing):
        return False
    if not (text.startswith(opening, start, end) and text.endswith(closing, start, end)):
        return False
    return opening != "$" or text.find("$", start + 1, end - 1) < 0


def _closing_braces(text: str) -> dict[int, int]:
    """The position of the closing brace, for each opening brace that has one."""
    closing: dict[int, int] = {}
    opened: list[int] = []
    for match in _braces.finditer(text):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            closing[opened.pop()] = match.start()
    return closing


def _after_hashes(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        line = line.strip()
        if line.startswith("####") and (content := line[4:].strip()) and not content.startswith("#"):
            yield content


def _without_separators(content: str) -> str:
    """A key shared by answers that differ only in white space or in the separators between a number's digits."""
    bare = _spacing.sub("", content)
    bare = bare.replace(",", "") if _thousands.fullmatch(bare) else bare
    return bare.removesuffix(".") if bare[-2:-1].isdigit() else bare


def _json_fields(text: str, field: str) -> Iterator[str | None]:
    for block in [text, *(block.content for block in _fenced_blocks(text) if block.label in ("", "json"))]:
        try:
            value: Any = json.loads(block, object_pairs_hook=_without_repeats)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict) and field in value:
            content = value[field]
            if isinstance(content, str):
                yield unwrap(content)
            else:  # numbers as written; anything but text or a number is not a single answer
                yield None if isinstance(content, list | dict | bool | type(None)) else str(content)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name appears twice")
    return dict(pairs)


# ---- fenced blocks of Markdown


class _Block(NamedTuple):
    label: str  # in lower case; empty if there is none
    content: str
    start: int
    end: int


def _programs(text: str) -> list[str]:
    blocks = _fenced_blocks(text)
    labelled = [block.content for block in blocks if block.label in _PYTHON]
    return labelled or [block.content for block in blocks if not block.label]


def _fenced_blocks(text: str) -> list[_Block]:
    """All fenced blocks of a text, in order. An unclosed block runs to the end."""
    blocks: list[_Block] = []
    lines: list[str] = []
    opened: re.Match[str] | None = None
    start = position = 0
    for line in text.splitlines(keepends=True):
        if opened is None:
            opened, lines, start = _fence.match(line.rstrip()), [], position
        elif _closes(line, opened[2]):
            blocks.append(_block(opened, lines, start, position + len(line)))
            opened = None
        else:
            lines.append(line)
        position += len(line)
    if opened is not None:
        if lines and lines[-1].rstrip().endswith(opened[2]):
            lines[-1] = lines[-1].rstrip().removesuffix(opened[2])
        blocks.append(_block(opened, lines, start, position))
    return blocks


def _closes(line: str, fence: str) -> bool:
    line = line.strip()
    return len(line) >= len(fence) and not line.strip(fence[0])


def _block(opened: re.Match[str], lines: list[str], start: int, end: int) -> _Block:
    width = len(opened[1])
    indented = (line[min(width, len(line) - len(line.lstrip(" \t"))) :] for line in lines)
    return _Block(opened[3].lower(), "".join(indented), start, end)
