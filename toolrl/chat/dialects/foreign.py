"""Calls in another dialect's spelling: they do not run, and they are not an answer either.

Such a turn is refused as a malformed call, with an error that shows the right form. Outside a turn's own calls, these
count:

- a mark that starts a call in any family, at the start of a line, or followed by the continuation of a call (a bracket,
  a tag, the name of a tool);
- in a turn without calls of its own, a call of one of the environment's tools, whole or broken, at the start or end of
  the turn, possibly in a code fence or a tag: JSON with its name and arguments, Python with its name and named
  arguments, a tag of its name, or ReAct's `Action:`.

Everything else is text: a mark or a call mentioned in a sentence, a call of an unknown tool, code in a fence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

from toolrl.chat.dialects.json_text import load_json_at
from toolrl.chat.dialects.python_text import read_python_calls

# Marks that start a call in any dialect and do not occur in ordinary text. Plain JSON, code fences and the tags of
# research code are not among them: answers contain those too.
CALL_BEGINNINGS = (
    "<tool_call>", "<tool_calls>", "<function=", "<function_call>", "<function_calls>", "<|tool_call>",
    "<start_function_call>", "<tool_use>", "<execute_tool>", "<use_mcp_tool>", "<|function_call|>",
    "<|FunctionCallBegin|>", "<|plugin|>", "<|tool_calls|>", "<|tool▁calls▁begin|>", "[TOOL_REQUEST]",
    "✿FUNCTION✿", "<|tool_call|>", "<|tool_call_start|>", "<|python_tag|>", "<|python_start|>", "[TOOL_CALLS]",
    "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool_calls_begin｜>", "<｜tool_call_begin｜>",
    "<steptml:invoke", "<｜DSML｜function_calls>", "<｜DSML｜tool_calls>", "<｜DSML｜invoke",
    "<|tool_calls_section_begin|>", "<|tool_call_begin|>", "<|channel|>commentary", "commentary to=",
    "to=functions.", "<atem:invoke", "<minimax:tool_call>", "<invoke name=", "<seed:tool_call>",
    "<|action_start|>", "<|START_ACTION|>", "<|tools_prefix|>", "<longcat_tool_call>", "<TOOLCALL>",
    "functools[", "Action: ```json",
)  # fmt: skip
_TAGS = "|".join(re.escape(mark[1:]) for mark in CALL_BEGINNINGS if mark.startswith("<"))
_OTHERS = "|".join(re.escape(mark) for mark in CALL_BEGINNINGS if not mark.startswith("<"))
_MARK = re.compile(f"<(?:{_TAGS})|{_OTHERS}")
# What may come between a mark and the name of a tool.
_BETWEEN = r"(?:[\W_]|\b(?:call|calls|function|functions|name|tool|tool_name|type|to|sep|plugin|invoke)\b){0,60}?"
_FENCE = r"(?P<fence>```[\w-]*[ \t]*\n\s*)?"
_JSON_LINE = re.compile(rf"^[ \t]*{_FENCE}(?=[\[{{])", re.MULTILINE)
_TRIED_LINES = 50
_NAMES = ("name", "tool_name", "tool", "function", "action", "function_name", "recipient_name")
_ARGUMENTS = ("arguments", "parameters", "args", "kwargs", "input", "action_input", "tool_input", "params")
# What may follow a call at the end of a turn: closing brackets, fences, and tags about calls.
_CLOSING = r"(?:[\s`;]|(?:<[/|]|\[/?)\w{0,20}(?:tool|function|call|action|plugin)[\w|]{0,20}[>\]])*"
_AFTER = re.compile(_CLOSING, re.IGNORECASE)
_AFTER_CODE = re.compile(rf"(?<![\s`;>]){_CLOSING}\Z", re.IGNORECASE)


def find_mark(text: str) -> re.Match[str] | None:
    """The first mark that starts a call, of any dialect."""
    return _MARK.search(text)


def find_attempt(text: str, tools: Sequence[Mapping[str, Any]], alone: bool) -> tuple[int, str] | None:
    """Find a call in another spelling: where it starts, and what is wrong with it. None if there is no such call.

    Args:
        text: The part of a turn that its dialect reads as text.
        tools: JSON schemas.
        alone: Whether the turn has no calls of its own.
    """
    if not text.strip():
        return None
    names = tuple(str(tool.get("function", tool).get("name", "")) for tool in tools)
    names = tuple(sorted({name for name in names if name}, key=len, reverse=True))
    mark = next((mark for mark in _MARK.finditer(text) if _goes_on(text, mark, names)), None)
    if mark is not None:
        return mark.start(), f"{mark.group()} does not call a tool here"
    return _unmarked(text, names) if alone and any(name in text for name in names) else None


def _goes_on(text: str, mark: re.Match[str], names: tuple[str, ...]) -> bool:
    """Whether a mark starts a call, and is not just mentioned."""
    line = text.rfind("\n", 0, mark.start()) + 1
    if mark.group().endswith("[") or not text[max(line, mark.start() - 80) : mark.start()].strip():
        return True
    after = text[mark.end() : mark.end() + 200].lstrip()
    return after[:1] in ("{", "[", "(") or bool(re.match("<[^/]", after)) or bool(names and _name(names).match(after))


@lru_cache(64)
def _name(names: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"{_BETWEEN}(?<!\w)(?:{'|'.join(map(re.escape, names))})(?!\w)")


def _unmarked(text: str, names: tuple[str, ...]) -> tuple[int, str] | None:
    for start, value in (found for found in (json_at_start(text), json_at_end(text)) if found is not None):
        if called := next((name for name in _called(value) if name in names), None):
            return start, f"this JSON does not call {called} here"
    some = "|".join(map(re.escape, names))
    for head in islice(_json_head(some).finditer(text), _TRIED_LINES):
        if _ends_turn(text, head):
            return head.start(), f"this JSON does not call {head['name']} here"
    line = re.compile(rf"^[ \t]*{_FENCE}(?P<code>\[?[ \t]*(?P<name>{some})\()", re.MULTILINE)
    # After words, but not the value of a variable or a part of an expression.
    inline = re.compile(rf"(?<![\w.,(=])(?<!=[ \t])(?P<fence>)(?P<code>\[?(?P<name>{some})\((?=\s*\w+\s*=))")
    for code in [*islice(line.finditer(text), 3), *islice(inline.finditer(text), 3)]:
        written = _AFTER_CODE.sub("", text[code.start("code") :])
        whole = not text[: code.start()].strip() and written.endswith((")", ")]"))
        if whole or read_python_calls(written, "")[0].error is None:
            return code.start(), f"Python does not call {code['name']} here"
    ended = text.rstrip()
    for name in names:
        if ended.endswith((f"</{name}>", "/>")) and name not in ("answer", "think"):
            opened = re.compile(rf"^[ \t]*<{re.escape(name)}(?:>|\s[^<>]*/>\Z)", re.MULTILINE).search(ended)
            if opened is not None:
                return opened.start(), f"<{name}> does not call a tool here"
    react = re.compile(rf"^Action:[ \t]*(?P<name>{some})[ \t]*(?:[\[(]|\n+Action Input:)", re.MULTILINE).search(text)
    return (react.start(), f"Action: does not call {react['name']} here") if react else None


@lru_cache(64)
def _json_head(some: str) -> re.Pattern[str]:
    """The start of JSON or a Python dict with a tool's name and arguments, whole or broken."""
    keys, arguments = "|".join(_NAMES), "|".join(_ARGUMENTS)
    return re.compile(
        rf"""(?:<(?!answer)\w{{1,30}}>\s{{0,9}})?`?(?P<json>(?:\[\s{{0,9}})?\{{\s{{0,99}}["'](?:{keys})["']\s{{0,9}}:"""
        rf"""\s{{0,9}}["'](?:functions\.)?(?P<name>{some})["']\s{{0,9}},\s{{0,99}}["'](?:{arguments})["']\s{{0,9}}:)"""
    )


def _ends_turn(text: str, head: re.Match[str]) -> bool:
    """Whether this JSON ends the turn; if it is broken, whether it seems to, or starts the turn."""
    try:
        _, end = load_json_at(text, head.start("json"))
    except json.JSONDecodeError as error:
        cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        return cut or not text[: head.start()].strip() or text.rstrip(" \t\n`;]").endswith("}")
    except (ValueError, RecursionError):
        return True
    return _AFTER.fullmatch(text, end) is not None


def json_at_start(text: str) -> tuple[int, Any] | None:
    """The JSON value at the start of a text, possibly in a code fence; its position is 0."""
    match = re.compile(rf"\s*{_FENCE}(?=[\[{{])").match(text)
    if match is None:
        return None
    try:
        value, end = load_json_at(text, match.end())
    except (ValueError, RecursionError):
        return None
    after = text[end:].lstrip(" \t")
    return (0, value) if not after or after[0] in "\n;" or (match["fence"] and after.startswith("```")) else None


def json_at_end(text: str) -> tuple[int, Any] | None:
    """The JSON value at the end of a text, on its own lines and possibly in a code fence, with its position."""
    lines = list(_JSON_LINE.finditer(text))
    at = 0
    # Creating a JSON error counts the lines before it, so not every line can be tried.
    for match in lines if len(lines) <= 2 * _TRIED_LINES else [*lines[:_TRIED_LINES], *lines[-_TRIED_LINES:]]:
        if match.start() < at:
            continue  # inside a value that was already tried
        try:
            value, at = load_json_at(text, match.end())
        except json.JSONDecodeError as error:
            at = error.pos
            continue
        except (ValueError, RecursionError):
            return None
        if text[at:].strip() in ("", "```" if match["fence"] else "", ";"):
            return match.start(), value
    return None


def _called(value: Any) -> Iterator[str]:
    """The names of tools that a JSON value calls, under any of the usual keys."""
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, dict):
            continue
        for key in ("function", "function_call", "tool_call", "tool_calls", "tool_uses", "tool", "action", "command"):
            if isinstance(one.get(key), dict | list):
                yield from _called(one[key])
        name = next((one[key] for key in _NAMES if isinstance(one.get(key), str)), None)
        if name is not None and any(key in one for key in _ARGUMENTS):
            yield name.removeprefix("functions.")
        if len(one) == 1 and isinstance(next(iter(one.values())), dict):
            yield next(iter(one))
