"""Demonstrations as rows of token ids with labels: the loss is on what the policy would have sampled, nothing else.

Both come from our own `Renderer`, as in a rollout: a policy that was fine-tuned on them then sees, while it is
evaluated or trained, the very tokens that it learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolrl.chat import Renderer
from toolrl.errors import ConfigError, TaskError
from toolrl.training.conversations import read_conversation
from toolrl.types import Message

IGNORED = -100  # what torch's cross entropy leaves out


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One demonstration.

    Attributes:
        input_ids: (T,) the whole conversation.
        labels: (T,) the same ids where the policy wrote them, else `IGNORED`.
        is_sampled: Whether the ids are those that a policy sampled, and not a rendering.
    """

    input_ids: list[int]
    labels: list[int]
    is_sampled: bool


def token_row(row: Mapping[str, Any], renderer: Renderer, place: str = "the row", *, filled: bool = False) -> TokenRow:
    """Turn a demonstration into tokens.

    Args:
        row: `messages`, perhaps `tools`, and perhaps the sampled tokens as `toolrl.training.demonstrations` writes
            them. They are taken as they are if they are this tokenizer's: if the same prompt renders to the same ids,
            and the sampled turns read as the same messages.
        renderer: Of the model that learns.
        place: Where the row is, for messages.
        filled: Whether the row comes from Arrow; see `toolrl.training.conversations`.

    Raises:
        TaskError: It has no conversation with an assistant's turn, or a call that the model's dialect cannot write.
    """
    try:
        messages, tools = read_conversation(row, filled=filled)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TaskError(f"{place}: not a conversation ({error!r}); toolrl demos writes such files") from None
    first = next((index for index, message in enumerate(messages) if message.role == "assistant"), 0)
    if first == 0:
        raise TaskError(f"{place}: the conversation has no assistant's turn after a user's")
    prompt_ids = renderer.prompt_ids(messages[:first], tools)
    sampled = _sampled(row, messages[first:], tools, prompt_ids, renderer)
    if sampled is not None:
        return sampled
    ids, labels = list(prompt_ids), [IGNORED] * len(prompt_ids)
    told: list[Message] = []
    for message in messages[first:]:
        if message.role != "assistant":
            told.append(message)
            continue
        if told:
            observation = renderer.observation_ids(told)
            ids, labels, told = ids + observation, labels + [IGNORED] * len(observation), []
        try:
            turn = renderer.assistant_ids(message, tools)
        except ConfigError as error:
            raise TaskError(f"{place}: {error}") from None
        ids, labels = ids + turn, labels + turn
    return TokenRow(ids, labels, is_sampled=False)


def _sampled(
    row: Mapping[str, Any],
    said: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    prompt_ids: list[int],
    renderer: Renderer,
) -> TokenRow | None:
    """The row's own tokens, if this renderer's policy could have sampled them."""
    completion, mask = row.get("completion_ids") or [], row.get("mask") or []
    if not completion or row.get("prompt_ids") != prompt_ids or len(completion) != len(mask):
        return None
    if not 0 <= min(completion) <= max(completion) < len(renderer.tokenizer):
        return None
    turns: list[list[int]] = []
    before = 0
    for token, bit in zip(completion, mask, strict=True):
        if bit and not before:
            turns.append([])
        if bit:
            turns[-1].append(token)
        before = bit
    read = [renderer.parse(turn, tools, after_tools=number > 0) for number, turn in enumerate(turns)]
    if [_gist(message) for message in read] != [_gist(message) for message in said if message.role == "assistant"]:
        return None
    labels = [token if bit else IGNORED for token, bit in zip(completion, mask, strict=True)]
    return TokenRow(prompt_ids + completion, [IGNORED] * len(prompt_ids) + labels, is_sampled=True)


def _gist(message: Message) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    return message.content, [(call.name, dict(call.arguments)) for call in message.tool_calls]
