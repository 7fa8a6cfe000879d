"""Converts messages to the form of chat-completions APIs, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from toolrl.chat.dialects.json_text import load_json
from toolrl.types import Message, Role, ToolCall

_MAX_QUOTED_CHARACTERS = 200  # of what a model wrote, in an error that it reads
_THOUGHTS = ("thinking", "reasoning")
# Qwen, DeepSeek and most others; older prompts (3); Mistral; Seed; Kimi-VL; Gemma; OpenThinker.
_MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<reasoning>", "</reasoning>"),
    ("<thought>", "</thought>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("<|channel>thought", "<channel|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
_channel = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)", re.DOTALL
)
_any_case = re.compile(r"</?(think|thinking|reasoning|thought)>", re.IGNORECASE)
_without_marks = re.compile(r"analysis(.*?)assistantfinal(.*)", re.DOTALL)


def to_wire(message: Message) -> dict[str, Any]:
    """A message in the form of chat-completions APIs: arguments are JSON text, thinking is left out."""
    wire: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        wire["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                # A malformed call is sent without arguments: servers that render the history parse them as JSON.
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments), ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
    if message.role == "tool":
        wire["tool_call_id"] = message.tool_call_id
    return wire


def from_wire(wire: Any) -> Message:
    """Read a message of a chat-completions API, or of a data set in Hugging Face's conversational form.

    An API gives a call's arguments as JSON text, a data set as an object. A malformed call has its `error` set.

    Raises:
        ValueError: This is not a message.
    """
    if not isinstance(wire, Mapping) or wire.get("role") not in get_args(Role):
        raise ValueError(f"not a message with one of the roles {', '.join(get_args(Role))}: {_quoted(wire)}")
    content = wire.get("content") or wire.get("refusal") or ""
    thinking = wire.get("reasoning_content") or wire.get("reasoning") or wire.get("thinking") or ""
    if isinstance(content, list):  # parts, some of which are thoughts
        parts = [part for part in content if isinstance(part, Mapping)]
        thinking = thinking or "".join(_text(part) for part in parts if part.get("type") in _THOUGHTS)
        content = "".join(_text(part) for part in parts if part.get("type") not in _THOUGHTS)
    calls = wire.get("tool_calls") or ()
    if not isinstance(content, str) or not isinstance(thinking, str) or not isinstance(calls, list | tuple):
        raise ValueError(f"the content, reasoning or tool_calls of a message have the wrong type: {_quoted(wire)}")
    return Message(
        wire["role"],
        content,
        tuple(_read_call(call) for call in calls),
        name=str(wire.get("name") or ""),
        tool_call_id=str(wire.get("tool_call_id") or ""),
        thinking=thinking,
    )


def with_thinking_split(message: Message) -> Message:
    """Move thoughts out of the content, where servers without a reasoning parser leave them."""
    thinking, content = split_thinking(message.content)
    if content == message.content:
        return message
    return replace(message, content=content, thinking="\n\n".join(filter(None, (message.thinking, thinking))))


def split_thinking(content: str) -> tuple[str, str]:
    """Split a content into its thoughts and its text.

    Thoughts are blocks between the marks of any family, outside code. The first block may lack its opening mark, which
    was then in the prompt, and the last its closing mark, if the turn was cut. Of OpenAI's channels only "final" is
    text.
    """
    if "<|channel|>" in content:
        parts = _channel.findall(content)
        unsaid = [text for channel, text in parts if channel != "final"]
        return "\n\n".join(unsaid).strip(), "".join(text for channel, text in parts if channel == "final").strip()
    if leaked := _without_marks.fullmatch(content):
        return leaked[1].strip(), leaked[2].strip()
    thoughts: list[str] = []
    marked = _any_case.sub(lambda mark: mark[0].lower(), content)
    content = marked if len(marked) == len(content) else content
    for opening, closing in _MARKS:
        before, found, after = content.partition(closing)
        if found and opening not in before and not _is_quoted(before):
            thoughts.append(before)
            content = after
        start = content.find(opening)
        while start >= 0:
            end = content.find(closing, start)
            if _is_quoted(content[:start]) or (end < 0 and content[:start].strip()):
                start = content.find(opening, start + 1)
                continue
            thoughts.append(content[start + len(opening) : end if end >= 0 else None])
            content = content[:start] + (content[end + len(closing) :] if end >= 0 else "")
            start = content.find(opening)
    return "\n\n".join(filter(None, (text.strip() for text in thoughts))), content.strip() if thoughts else content


def _is_quoted(before: str) -> bool:
    """Whether what follows is in code, or in a content that is a JSON value."""
    return before.count("```") % 2 == 1 or before.count("`") % 2 == 1 or before.lstrip()[:1] == "{"


def _text(part: Mapping[str, Any]) -> str:
    text = part.get("text") or part.get("thinking") or part.get("reasoning") or ""
    return "".join(map(_text, text)) if isinstance(text, list) else str(text)


def _read_call(wire: Any) -> ToolCall:
    function = wire.get("function") if isinstance(wire, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValueError(f"a tool call without a function: {_quoted(wire)}")
    name, arguments, id = str(function.get("name") or ""), function.get("arguments"), str(wire.get("id") or "")
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    if isinstance(arguments, str):
        try:
            arguments = load_json(arguments or "{}")
        except (ValueError, RecursionError) as error:
            fault = f"the arguments are not valid JSON ({error}): {_quoted(raw)}"
            return ToolCall(name, id=id, error=fault, raw=raw)
    if not name:
        return ToolCall("", id=id, error="the tool call has no name", raw=raw)
    if not isinstance(arguments, Mapping | None):
        return ToolCall(name, id=id, error=f"the arguments must be a JSON object, got {_quoted(raw)}", raw=raw)
    return ToolCall(name, dict(arguments or {}), id, raw=raw)


def _quoted(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MAX_QUOTED_CHARACTERS else f"{text[:_MAX_QUOTED_CHARACTERS]} ..."
