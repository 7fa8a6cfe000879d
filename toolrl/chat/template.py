"""Chat templates for the renderer: rendering, and where a turn ends."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from toolrl.chat.tool_prompt import ToolPrompt
from toolrl.errors import TemplateError
from toolrl.types import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NINE_CHARACTERS = re.compile(r"[A-Za-z0-9]{9}")


class ChatTemplate:
    """Renders messages with one template and fixed options.

    Attributes:
        text: The Jinja source.
        options: Variables of the template.
        short_ids: Whether call ids must be nine letters and digits, as in Mistral's templates.
        one_call: Whether it renders only one call per turn.
        told: Shows tools, calls and results in the place of a template that does not; None where it does.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text: str,
        options: Mapping[str, Any],
        protect: Callable[[Any], Any] = lambda value: value,
    ):
        """Wrap a template; `find_restrictions` finds out what it refuses.

        Args:
            tokenizer: The tokenizer that renders it.
            text: The Jinja source.
            options: Variables of the template.
            protect: Applied to messages and schemas, as JSON values, before rendering.
        """
        self._protect = protect
        self._tokenizer = tokenizer
        self.text = text
        self.options = dict(options)
        self.short_ids = False
        self.one_call = False
        self.told: ToolPrompt | None = None

    @property
    def model(self) -> str:
        """The tokenizer's name, for messages."""
        return str(self._tokenizer.name_or_path)

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = (), generate: bool = False) -> str:
        """Render a conversation; with `generate`, up to the point where the assistant speaks.

        Raises:
            TemplateError: The template refuses the conversation.
        """
        import jinja2

        rows = [self._protect(self._as_dict(message)) for message in with_distinct_ids(messages)]
        if self.told is not None:
            rows, tools = self.told.rewrite(messages, rows, tools), ()
        try:
            rendered = self._tokenizer.apply_chat_template(
                rows,
                tools=self._protect(list(tools)) or None,  # [] makes some templates print an empty tool section
                chat_template=self.text,
                add_generation_prompt=generate,
                tokenize=False,
                **self.options,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise TemplateError(
                f"the chat template of {self.model!r} cannot render this conversation ({error}); pass a template that "
                "supports tools (chat_template=)"
            ) from error
        return str(rendered)

    def find_restrictions(self, conversation: Sequence[Message]) -> None:
        """Set `short_ids` and `one_call` by rendering a conversation with two calls in one turn.

        Raises:
            TemplateError: The template cannot render tool calls at all.
        """
        first: TemplateError | None = None
        for self.short_ids, self.one_call in ((False, False), (True, False), (False, True), (True, True)):
            try:
                rendered = self.render(conversation)
            except TemplateError as error:
                first = first or error
            else:
                shown = [
                    str(value) in rendered for call in conversation[1].tool_calls for value in call.arguments.values()
                ]
                # Some templates drop all calls but the first.
                self.one_call = self.one_call or (shown[0] and not all(shown))
                return
        self.short_ids = self.one_call = False
        assert first is not None
        raise first

    def _as_dict(self, message: Message) -> dict[str, Any]:
        value = message.to_dict()
        if message.thinking:
            value["thinking"] = message.thinking  # the name in templates of gpt-oss and LFM
        if self.one_call and message.tool_calls:
            value["tool_calls"] = value["tool_calls"][:1]
        if self.short_ids:
            for call in value.get("tool_calls", ()):
                call["id"] = _short_id(call["id"])
            if message.role == "tool":
                value["tool_call_id"] = _short_id(value["tool_call_id"])
        return value


def with_distinct_ids(messages: Sequence[Message]) -> list[Message]:
    """Make the call ids of each turn distinct: some templates look results up by them."""
    renamed: list[Message] = []
    waiting: dict[str, list[str]] = {}
    for message in messages:
        if message.tool_calls:
            waiting = {}
            ids: list[str] = []
            for call in message.tool_calls:
                number, id = 1, call.id
                while id in ids:
                    number, id = number + 1, f"{call.id}_{number + 1}"
                ids.append(id)
                waiting.setdefault(call.id, []).append(id)
            calls = tuple(replace(call, id=id) for call, id in zip(message.tool_calls, ids, strict=True))
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and waiting.get(message.tool_call_id):
            message = replace(message, tool_call_id=waiting[message.tool_call_id].pop(0))
        renamed.append(message)
    return renamed


def _short_id(id: str) -> str:
    return id if NINE_CHARACTERS.fullmatch(id) else hashlib.sha256(id.encode()).hexdigest()[:9]


class TurnEnds:
    """The texts of the tokens on which sampling stops."""

    def __init__(self, texts: Sequence[str]):
        """Prepare the search. EOS comes first in `texts`."""
        self.texts = tuple(dict.fromkeys(texts))
        self._any = re.compile("|".join(map(re.escape, sorted(self.texts, key=len, reverse=True))))

    def first(self, text: str, start: int) -> re.Match[str] | None:
        """The first end at or after a position, where a policy that wrote this text would have stopped."""
        return self._any.search(text, start)


def common_prefix(first: str, second: str) -> int:
    """Length of the common prefix of two texts."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
