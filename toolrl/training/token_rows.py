"""Rows of demonstrations as token ids and labels: the loss covers what the policy would have sampled, nothing else.

toolrl's `Renderer` writes the tokens, as in a rollout, so that a fine-tuned policy sees the same tokens when it is
evaluated or trained.

Arrow has one type per column: in a Parquet file, a hub data set or a `datasets.Dataset`, the arguments of every call
have the keys of all calls, and every schema those of all schemas, filled with null. A model would learn to write
`{"code": "1+1", "query": null}`. Here, nulls that a tool's schema does not allow are removed; rows of `toolrl
demonstrations` also hold arguments and schemas as JSON text, which is exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from toolrl.chat import Renderer
from toolrl.chat.wire import from_wire
from toolrl.errors import ConfigError, TaskError
from toolrl.types import Message

Json = Mapping[str, Any]

IGNORED = -100  # ignored by torch's cross entropy
_VALUES = ("default", "const")  # keys of a schema whose null an author may have written
_DEPTH = 20  # of references to references


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One demonstration.

    Attributes:
        input_ids: (T,) the whole conversation.
        labels: (T,) the same ids where the policy wrote them, else `IGNORED`.
        is_sampled: Whether a policy sampled the ids; otherwise they were rendered.
    """

    input_ids: list[int]
    labels: list[int]
    is_sampled: bool


def token_row(row: Json, renderer: Renderer, place: str = "the row", *, filled: bool = False) -> TokenRow:
    """Turn a demonstration into tokens.

    Args:
        row: `messages`, optionally `tools`, and optionally sampled tokens as `toolrl demonstrations` writes them. These
            are used if they belong to this tokenizer: if the prompt renders to the same ids, and the sampled turns
            parse to the same messages.
        renderer: Of the model to fine-tune.
        place: Where the row is, for error messages.
        filled: See `read_conversation`.

    Raises:
        TaskError: The row has no assistant's turn, or a call that the model's dialect cannot write.
        TemplateError: A user answers the assistant, and the template rewrites history then.
    """
    try:
        messages, tools = read_conversation(row, filled=filled)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TaskError(f"{place}: not a conversation ({error!r}); toolrl demonstrations writes such files") from None
    first = next((index for index, message in enumerate(messages) if message.role == "assistant"), 0)
    if first == 0:
        raise TaskError(f"{place}: the conversation has no assistant turn after a user turn")
    renderer = renderer.with_options({}, users=any(message.role == "user" for message in messages[first:]))
    prompt_ids = renderer.prompt_ids(messages[:first], tools)
    sampled = _sampled(row, messages[first:], tools, prompt_ids, renderer)
    if sampled is not None:
        return sampled
    ids, labels = list(prompt_ids), [IGNORED] * len(prompt_ids)
    observed: list[Message] = []
    for message in messages[first:]:
        if message.role != "assistant":
            observed.append(message)
            continue
        if observed:
            observation = renderer.observation_ids(observed)
            ids, labels, observed = ids + observation, labels + [IGNORED] * len(observation), []
        try:
            turn = renderer.assistant_ids(message, tools)
        except ConfigError as error:
            raise TaskError(f"{place}: {error}") from None
        ids, labels = ids + turn, labels + turn
    return TokenRow(ids, labels, is_sampled=False)


def _sampled(
    row: Json, said: Sequence[Message], tools: Sequence[dict[str, Any]], prompt_ids: list[int], renderer: Renderer
) -> TokenRow | None:
    """The row's own tokens, if a policy with this renderer could have sampled them."""
    completion, mask = row.get("completion_ids") or [], row.get("mask") or []
    if not completion or row.get("prompt_ids") != prompt_ids or len(completion) != len(mask):
        return None
    if not 0 <= min(completion) <= max(completion) < len(renderer.tokenizer):
        return None
    pairs = list(zip(completion, mask, strict=True))
    turns = [[token for token, _ in run] for bit, run in groupby(pairs, key=itemgetter(1)) if bit]
    before = ["user", *(message.role for message in said)]
    spoken = [(role == "tool", turn) for role, turn in zip(before, said, strict=False) if turn.role == "assistant"]
    if len(turns) != len(spoken):
        return None
    for ids, (after_tools, turn) in zip(turns, spoken, strict=True):
        if _gist(renderer.parse(ids, tools, after_tools=after_tools)) != _gist(turn):
            return None
    labels = [token if bit else IGNORED for token, bit in pairs]
    return TokenRow(prompt_ids + completion, [IGNORED] * len(prompt_ids) + labels, is_sampled=True)


def _gist(message: Message) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    return message.content, [(call.name, dict(call.arguments)) for call in message.tool_calls]


def read_conversation(row: Json, *, filled: bool = False) -> tuple[list[Message], list[dict[str, Any]]]:
    """Read a row's messages and its tools' schemas.

    Args:
        row: `messages`, and optionally `tools`: a list of schemas or of their JSON texts, or the JSON text of the list.
            Arguments may be objects or JSON text, which is used as it is.
        filled: Whether the row comes from Arrow, which probably filled in any null of an optional parameter.
            Otherwise a null is kept if the schema allows it.

    Raises:
        KeyError, TypeError, ValueError: It is not a conversation.
    """
    tools = [_tool(tool) for tool in _decoded(row.get("tools_json") or row.get("tools")) or ()]
    parameters = {tool["function"].get("name"): tool["function"].get("parameters") or {} for tool in tools}
    messages = [_wire(message) for message in _decoded(row["messages"])]
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    exact = row.get("arguments_json") or ()
    for number, function in enumerate(calls):
        if len(exact) == len(calls):
            function["arguments"] = exact[number]
        elif isinstance(function.get("arguments"), Mapping):
            schema = parameters.get(function.get("name"))
            known = schema if schema is not None else {}
            function["arguments"] = _without_filled(function["arguments"], known, known, filled)
    return [from_wire(message) for message in messages], tools


def _decoded(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _wire(message: Any) -> dict[str, Any]:
    """A copy of a message, with its calls as objects."""
    message = dict(_decoded(message))
    calls = []
    for call in _decoded(message.get("tool_calls")) or ():
        call = _decoded(call)
        function = _decoded(call.get("function")) or {key: call.get(key) for key in ("name", "arguments")}
        calls.append({**call, "function": dict(function)})
    return {**message, "tool_calls": calls}


def _tool(tool: Any) -> dict[str, Any]:
    """A schema in the form that chat templates expect, without nulls."""
    tool = {key: value for key, value in _decoded(tool).items() if value is not None}
    if "function" not in tool:
        tool = {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}
    function = {key: value for key, value in _decoded(tool["function"]).items() if value is not None}
    if "parameters" in function:
        function["parameters"] = without_nulls(_decoded(function["parameters"]))
    return {**tool, "function": function}


def without_nulls(schema: Any, *, required: bool = False) -> Any:
    """A schema without null keys, except the default of an optional parameter that may be null."""
    if isinstance(schema, Mapping):
        needed = schema.get("required") or ()
        plain: dict[str, Any] = {}
        for key, value in schema.items():
            if value is None:
                if key in _VALUES and _allows_null(schema, schema) and not (key == "default" and required):
                    plain[key] = None
            elif key in ("properties", "$defs", "definitions", "patternProperties") and isinstance(value, Mapping):
                plain[key] = {
                    name: without_nulls(item, required=name in needed)
                    for name, item in value.items()
                    if item is not None
                }
            else:
                plain[key] = value if key in (*_VALUES, "enum", "examples") else without_nulls(value)
        return plain
    return [without_nulls(item) for item in schema] if isinstance(schema, list) else schema


def _without_filled(value: Any, schema: Any, root: Json, filled: bool) -> Any:
    """A call's arguments without the nulls that Arrow filled in."""
    options = list(_options(schema, root))
    if isinstance(value, list):
        items: Any = next((option["items"] for option in options if option.get("items") is not None), {})
        return [_without_filled(item, items, root, filled) for item in value]
    if not isinstance(value, Mapping):
        return value
    # The option that the object most likely follows: the one with most of its keys.
    given = {key for key, item in value.items() if item is not None}
    objects = [option for option in options if "properties" in option or "additionalProperties" in option]
    known = max(objects, key=lambda option: len(given & set(option.get("properties") or ())), default={})
    properties, needed = known.get("properties") or {}, known.get("required") or ()
    others = known.get("additionalProperties", {} if not properties else False)
    kept = {}
    for key, item in value.items():
        inner = properties.get(key, others)
        if item is None:
            fits = inner is not False and _allows_null(inner, root)
            if not fits or (filled and key not in needed):
                continue
        kept[key] = _without_filled(item, inner, root, filled)
    return kept


def _options(schema: Any, root: Json, depth: int = 0) -> Iterator[Json]:
    """A schema, and the schemas that its references and unions name."""
    if not isinstance(schema, Mapping) or depth > _DEPTH:
        return
    yield schema
    if isinstance(reference := schema.get("$ref"), str):
        target: Any = root
        for part in reference.removeprefix("#/").split("/"):
            target = target.get(part, {}) if isinstance(target, Mapping) else {}
        yield from _options(target, root, depth + 1)
    for union in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(union) or ():
            yield from _options(option, root, depth + 1)


def _allows_null(schema: Any, root: Json) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    options = list(_options(schema, root))
    if all(not (set(option) - {"description", "title", "default", "examples"}) for option in options):
        return True  # any value
    return any(_names_null(option) for option in options)


def _names_null(schema: Json) -> bool:
    types: Sequence[Any] = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    in_enum = isinstance(schema.get("enum"), list) and None in schema["enum"]
    return "null" in types or in_enum or bool(schema.get("nullable"))
