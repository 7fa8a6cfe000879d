"""Requests and answers of OpenAI's chat completions and of Anthropic's messages."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolrl.chat.wire import from_wire, to_wire
from toolrl.gateway.gateway import CallRefused
from toolrl.gateway.tree import Node
from toolrl.types import Message, ToolCall

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Call:
    """What a client asks for.

    Attributes:
        messages: The conversation.
        tools: JSON schemas, as in `Toolbox.schemas`.
        max_tokens: Of the turn; None if the client does not say.
        stops: Texts before which it ends for the client.
        stream: Whether the answer comes in events.
        logprobs: Whether the client wants log-probabilities.
    """

    messages: list[Message]
    tools: list[Json]
    max_tokens: int | None
    stops: list[str]
    stream: bool
    logprobs: bool = False


class OpenAI:
    """`POST /v1/chat/completions`."""

    @staticmethod
    def read(body: Json) -> Call:
        """Read a request. Sampling is the gateway's own: `temperature` and its kin are not read.

        Raises:
            CallRefused: It is not one, or asks for what does not exist here.
        """
        if body.get("n") not in (None, 1):
            raise CallRefused(f"n must be 1, got {body['n']!r}: each turn is sampled once")
        wires = _list(body, "messages")
        try:
            messages = [from_wire({**wire, "role": _ROLES.get(wire.get("role"), wire.get("role"))}) for wire in wires]
        except (ValueError, TypeError, AttributeError) as error:
            raise CallRefused(f"messages: {error}") from None
        tools = []
        for tool in _list(body, "tools", missing=True):
            function = tool.get("function") if isinstance(tool, Mapping) else None
            if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
                raise CallRefused(f"tools: not a function: {_quoted(tool)}")
            tools.append(_schema(function["name"], function.get("description"), function.get("parameters")))
        return Call(
            messages,
            tools,
            _count(body, "max_completion_tokens") or _count(body, "max_tokens"),
            _stops(body, "stop"),
            bool(body.get("stream")),
            bool(body.get("logprobs")),
        )

    @staticmethod
    def answer(node: Node, model: str, prompt_tokens: int, texts: Sequence[str] | None = None) -> Json:
        """The answer.

        Args:
            node: The turn.
            model: Its model.
            prompt_tokens: Tokens before it.
            texts: The text of each of its tokens, if the client wants log-probabilities.
        """
        wire = to_wire(node.shown)
        message: Json = {**wire, "content": wire["content"] or None, "refusal": None}
        if node.shown.thinking:
            message["reasoning_content"] = node.shown.thinking
        values = zip(texts or (), node.sample.logprobs, strict=texts is not None)
        logprobs = [{"token": t, "logprob": v, "bytes": list(t.encode()), "top_logprobs": []} for t, v in values]
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _finish(node, "tool_calls", "length", "stop"),
            "logprobs": None if texts is None else {"content": logprobs, "refusal": None},
        }
        sampled = len(node.sample.token_ids)
        usage = {
            "prompt_tokens": prompt_tokens, "completion_tokens": sampled, "total_tokens": prompt_tokens + sampled
        }  # fmt: skip
        about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        return {**about, "object": "chat.completion", "choices": [choice], "usage": usage}

    @staticmethod
    def events(answer: Json) -> Iterator[tuple[str, Json]]:
        """The answer in chunks, each with the name of its event."""
        choice, message = answer["choices"][0], answer["choices"][0]["message"]
        about = {name: answer[name] for name in ("id", "created", "model")}

        def chunk(delta: Json, finish: str | None = None, **further: Any) -> tuple[str, Json]:
            choices = [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]
            return "", {**about, "object": "chat.completion.chunk", "choices": choices, **further}

        yield chunk({"role": "assistant", "content": ""})
        if thinking := message.get("reasoning_content"):
            yield chunk({"reasoning_content": thinking})
        if message["content"]:
            yield chunk({"content": message["content"]})
        for place, call in enumerate(message.get("tool_calls", ())):
            yield chunk({"tool_calls": [{"index": place, **call}]})
        yield chunk({}, choice["finish_reason"])
        yield "", {**about, "object": "chat.completion.chunk", "choices": [], "usage": answer["usage"]}

    END = "data: [DONE]\n\n"

    @staticmethod
    def error(message: str, status: int) -> Json:
        """An error."""
        kind = "invalid_request_error" if status < 500 else "server_error"
        code = "context_length_exceeded" if "maximum context length" in message else None
        return {"error": {"message": message, "type": kind, "param": None, "code": code}}


class Anthropic:
    """`POST /v1/messages`."""

    @staticmethod
    def read(body: Json) -> Call:
        """Read a request; see `OpenAI.read`.

        Raises:
            CallRefused: It is not one.
        """
        messages = [Message("system", text)] if (text := _joined(body.get("system"))) else []
        for wire in _list(body, "messages"):
            if not isinstance(wire, Mapping) or wire.get("role") not in ("user", "assistant"):
                raise CallRefused(f"messages: not a message of the user or the assistant: {_quoted(wire)}")
            messages += _from_blocks(wire["role"], wire.get("content"))
        tools = []
        for tool in _list(body, "tools", missing=True):
            if not isinstance(tool, Mapping) or not isinstance(tool.get("name"), str) or "input_schema" not in tool:
                raise CallRefused(f"tools: only tools with an input_schema are known here: {_quoted(tool)}")
            tools.append(_schema(tool["name"], tool.get("description"), tool["input_schema"]))
        stops, most = _stops(body, "stop_sequences"), _count(body, "max_tokens")
        return Call(messages, tools, most, stops, bool(body.get("stream")))

    @staticmethod
    def answer(node: Node, model: str, prompt_tokens: int, texts: Sequence[str] | None = None) -> Json:
        """The answer; see `OpenAI.answer`."""
        blocks: list[Json] = [{"type": "text", "text": node.shown.content}] if node.shown.content else []
        for call in node.shown.tool_calls:
            blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": dict(call.arguments)})
        return {
            "id": f"msg_{secrets.token_hex(12)}",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": blocks,
            "stop_reason": _finish(node, "tool_use", "max_tokens", "end_turn"),
            "stop_sequence": None,
            "usage": {"input_tokens": prompt_tokens, "output_tokens": len(node.sample.token_ids)},
        }

    @staticmethod
    def events(answer: Json) -> Iterator[tuple[str, Json]]:
        """The answer in events."""

        def event(kind: str, **fields: Any) -> tuple[str, Json]:
            return kind, {"type": kind, **fields}

        yield event("message_start", message={**answer, "content": [], "stop_reason": None})
        for index, block in enumerate(answer["content"]):
            if block["type"] == "text":
                empty, delta = {**block, "text": ""}, {"type": "text_delta", "text": block["text"]}
            else:
                empty = {**block, "input": {}}
                delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
            yield event("content_block_start", index=index, content_block=empty)
            yield event("content_block_delta", index=index, delta=delta)
            yield event("content_block_stop", index=index)
        delta = {"stop_reason": answer["stop_reason"], "stop_sequence": None}
        yield event("message_delta", delta=delta, usage={"output_tokens": answer["usage"]["output_tokens"]})
        yield event("message_stop")

    END = ""

    @staticmethod
    def error(message: str, status: int) -> Json:
        """An error."""
        kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error"}
        kind = kinds.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}


_ROLES = {"developer": "system"}


def _from_blocks(role: str, content: Any) -> Iterator[Message]:
    """The messages in the content of one of Anthropic's: results of tools are messages of their own here."""
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(blocks, list) or not all(isinstance(block, Mapping) for block in blocks):
        raise CallRefused(f"messages: the content must be text or blocks, got {_quoted(content)}")
    texts, calls = [], []
    for block in blocks:
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind == "tool_use" and role == "assistant":
            arguments = block.get("input") or {}
            if not isinstance(arguments, Mapping):
                raise CallRefused(f"messages: the input of a tool_use must be an object, got {_quoted(arguments)}")
            calls.append(ToolCall(str(block.get("name")), dict(arguments), str(block.get("id"))))
        elif kind == "tool_result" and role == "user":
            text = _joined(block.get("content"))
            yield Message("tool", text, tool_call_id=str(block.get("tool_use_id")))
        elif kind not in ("thinking", "redacted_thinking"):
            raise CallRefused(f"messages: a block of type {kind!r} is not known here")
    if texts or calls or role == "assistant":
        yield Message("assistant" if role == "assistant" else "user", "".join(texts), tuple(calls))


def _joined(content: Any) -> str:
    """The text of a content: text, or blocks of text."""
    if isinstance(content, list):
        return "".join(str(block.get("text", "")) for block in content if isinstance(block, Mapping))
    return "" if content is None else str(content)


def _schema(name: str, description: Any, parameters: Any) -> Json:
    function = {"name": name, "description": str(description or ""), "parameters": parameters or {"type": "object"}}
    return {"type": "function", "function": function}


def _list(body: Json, name: str, *, missing: bool = False) -> list[Any]:
    value = body.get(name)
    if value is None and missing:
        return []
    if not isinstance(value, list) or (not value and not missing):
        raise CallRefused(f"{name} must be a list that is not empty, got {_quoted(value)}")
    return value


def _stops(body: Json, name: str) -> list[str]:
    value = body.get(name) or []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise CallRefused(f"{name} must be a list of texts, got {_quoted(value)}")
    return [stop for stop in stops if stop]


def _count(body: Json, name: str) -> int | None:
    value = body.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise CallRefused(f"{name} must be a positive integer, got {_quoted(value)}")
    return value


def _quoted(value: Any) -> str:
    """A value in a message."""
    return json.dumps(value)[:200]


def _finish(node: Node, calls: str, length: str, stop: str) -> str:
    if node.shown.tool_calls:
        return calls
    return stop if node.sample.finish == "stop" else length
