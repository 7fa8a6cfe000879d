"""Messages to tokens, append-only: a sampled turn is never decoded and encoded again.

A conversation is `prompt_ids`, then alternately a sample and `observation_ids`. The second are cut
out of a rendering of a stand-in conversation, which is right exactly if the template is
prefix-stable: rendering more messages only adds text at the end. The constructor proves that.

Text written by users, tools and web pages never becomes a control token: see `_encode`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from toolrl.chat.dialects import Dialect, HermesDialect
from toolrl.errors import TemplateError
from toolrl.types import Message, ToolCall

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

# Stand-ins for control-token texts inside contents: private-use characters, one each side of an index.
# _OPEN has a stand-in too, so that no content can bring one of its own.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"


class Renderer:
    """Turns messages into token ids with a Hugging Face chat template.

    Attributes:
        tokenizer: The tokenizer whose template is used.
        dialect: How the model writes tool calls.
        end_of_turn_id: The token that ends an assistant turn.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dialect: Dialect | None = None,
        chat_template: str | None = None,
        template_options: dict[str, Any] | None = None,
    ):
        """Prepare a tokenizer's template and prove that it only ever appends.

        Args:
            tokenizer: A fast tokenizer.
            dialect: Hermes by default.
            chat_template: Jinja text to use in place of the tokenizer's own.
            template_options: Variables for the template, such as `{"enable_thinking": False}`.

        Raises:
            TemplateError: There is no template, no end-of-turn token, or the template rewrites history.
        """
        self.tokenizer = tokenizer
        self.dialect: Dialect = dialect or HermesDialect()
        self._template = chat_template or getattr(tokenizer, "chat_template", None)
        self._options = template_options or {}
        if not self._template:
            raise TemplateError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template; use an instruction-tuned model, or "
                "pass chat_template="
            )
        if tokenizer.eos_token_id is None:
            raise TemplateError(f"the tokenizer {tokenizer.name_or_path!r} has no EOS token to end a turn with")
        self.end_of_turn_id: int = int(tokenizer.eos_token_id)
        self._end_of_turn = str(tokenizer.eos_token)
        # Runs of spaces and line breaks, which some tokenizers add, control nothing.
        self._control_ids = {str(token): id for token, id in tokenizer.get_added_vocab().items() if str(token).strip()}
        longest_first = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._protected = [*longest_first, _OPEN]
        self._unprotected = re.compile("|".join(map(re.escape, self._protected)))
        self._placeholder = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
        self._backend, self._plain = _backends(tokenizer)
        self._beginning = lru_cache(1024)(self._render_beginning)  # most turns call one tool, for which it is the same
        self._prove_prefix_stable()

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids (P,) of a conversation up to where the assistant speaks.

        Args:
            messages: System and user messages.
            tools: JSON schemas, as `Toolbox.schemas` gives them.
        """
        return self._encode(self._render(messages, tools, generate=True))

    def observation_ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids (O,) to append after a sampled turn that ended with its end-of-turn token.

        Args:
            messages: What the assistant is told: tool messages, or a user message.
        """
        called = tuple((message.name, message.tool_call_id) for message in messages if message.role == "tool")
        before, beginning = self._beginning(called)
        full = self._render([*before, *messages], generate=True)
        if not full.startswith(beginning):
            raise TemplateError(_unstable(self.tokenizer.name_or_path, beginning, full))
        return self._encode(full[len(beginning) :])

    def assistant_ids(self, message: Message) -> list[int]:
        """Ids (T,) of an assistant turn as a policy would sample it, end-of-turn token included."""
        return [*self._encode(self._protect(self.dialect.format(message), keep_dialect=True)), self.end_of_turn_id]

    def parse(self, token_ids: Sequence[int]) -> Message:
        """Read a sampled turn (T,); its end-of-turn token is left out."""
        ids = list(token_ids)
        if ids and ids[-1] == self.end_of_turn_id:
            ids.pop()
        return self.dialect.parse(self.decode(ids))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids (T,), control tokens included."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    # ---- rendering

    def _render(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), generate: bool = False) -> str:
        rendered = self.tokenizer.apply_chat_template(
            [self._protect_all(message.to_dict()) for message in messages],
            tools=self._protect_all(list(tools)) or None,  # [] makes some templates print an empty tool section
            chat_template=self._template,
            add_generation_prompt=generate,
            tokenize=False,
            **self._options,
        )
        return str(rendered)

    def _render_beginning(self, called: tuple[tuple[str, str], ...]) -> tuple[list[Message], str]:
        """A short conversation up to an assistant's turn with calls (name, id), or without, and its rendering."""
        calls = tuple(ToolCall(name, id=call_id) for name, call_id in called)
        messages = [Message("user", "?"), Message("assistant", "", calls) if calls else Message("assistant", "!")]
        rendered = self._render(messages)
        cut = rendered.rfind(self._end_of_turn)
        return messages, rendered[: cut + len(self._end_of_turn)] if cut >= 0 else rendered

    def _prove_prefix_stable(self) -> None:
        """Render a conversation at each of its lengths and check that nothing already said changes.

        Raises:
            TemplateError: Something does, or tool results are not shown; the message shows where.
        """
        name = self.tokenizer.name_or_path
        calls = [ToolCall("search", {"query": "x"}, id=f"call_{index}") for index in range(3)]
        results = [Message("tool", f"result {call.id}", name=call.name, tool_call_id=call.id) for call in calls]
        said = [
            Message("assistant", "", (calls[0],)),
            results[0],
            Message("assistant", "thinking aloud", (calls[1], calls[2])),
            results[1],
            results[2],
            Message("assistant", "done"),
        ]
        schema = {"name": "search", "description": "Search.", "parameters": {"type": "object", "properties": {}}}
        tools = [{"type": "function", "function": schema}]
        for opening in ([Message("user", "q")], [Message("system", "s"), Message("user", "q")]):
            conversation = [*opening, *said]
            whole = self._render(conversation, tools)
            if self._end_of_turn not in whole:
                raise TemplateError(
                    f"the chat template of {name!r} does not end a turn with the EOS token {self._end_of_turn!r}; set "
                    "tokenizer.eos_token to the token that does"
                )
            if missing := [message.content for message in results if message.content not in whole]:
                raise TemplateError(
                    f"the chat template of {name!r} does not show tool results ({missing[0]!r} is not in its "
                    "rendering); pass a template that supports tools (chat_template=)"
                )
            for length, message in enumerate(conversation):
                if message.role != "assistant":
                    continue
                before = self._render(conversation[:length], tools, generate=True)
                after = self._render(conversation[: length + 1], tools)
                after = after[: after.rfind(self._end_of_turn) + len(self._end_of_turn)]
                for prefix, full in ((before, after), (after, whole)):
                    if not full.startswith(prefix):
                        raise TemplateError(_unstable(name, prefix, full))

    # ---- encoding

    def _protect(self, text: str, keep_dialect: bool = False) -> str:
        """Replace the texts of control tokens inside a content by placeholders that `_encode` undoes."""
        kept = ("<tool_call>", "</tool_call>") if keep_dialect else ()
        return self._unprotected.sub(
            lambda match: (
                match.group() if match.group() in kept else f"{_OPEN}{self._protected.index(match.group())}{_CLOSE}"
            ),
            text,
        )

    def _protect_all(self, value: Any) -> Any:
        """`_protect` every text inside JSON values: contents, names that a model made up, tool descriptions."""
        if isinstance(value, str):
            return self._protect(value)
        if isinstance(value, dict):
            return {self._protect(key): self._protect_all(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._protect_all(item) for item in value]
        return value

    def _encode(self, text: str) -> list[int]:
        """Encode a rendering. Placeholders become the plain characters of what they stand for.

        Only pieces with a placeholder leave the tokenizer's own path: they are cut at control
        tokens, where no merge can cross, and encoded by the same model without added tokens.
        """
        if not self._placeholder.search(text):
            return list(self._backend.encode(text, add_special_tokens=False).ids)
        ids: list[int] = []
        position = 0
        for control in [*self._control.finditer(text), None]:
            piece = text[position : control.start() if control else len(text)]
            if self._placeholder.search(piece):
                plain = self._placeholder.sub(lambda match: self._protected[int(match.group(1))], piece)
                ids += self._plain.encode(plain, add_special_tokens=False).ids
            elif piece:
                ids += self._backend.encode(piece, add_special_tokens=False).ids
            if control:
                ids.append(self._control_ids[control.group()])
                position = control.end()
        return ids


def _backends(tokenizer: PreTrainedTokenizerBase) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizer's own model, and a copy of it that knows no added tokens, so that every text is plain text.

    `tokenizer.encode` gives the same ids by way of a batch, which takes nearly twice as long.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TemplateError(f"the tokenizer {tokenizer.name_or_path!r} is not a fast tokenizer; use one that is")
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = None  # left behind by whoever encoded last
    own = json.dumps(state)
    state["added_tokens"] = []
    state["post_processor"] = None
    return Tokenizer.from_str(own), Tokenizer.from_str(json.dumps(state))


def _unstable(name: str, prefix: str, full: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(prefix, full, strict=False)) if a != b), min(len(prefix), len(full)))
    return (
        f"the chat template of {name!r} is not prefix-stable: a longer conversation renders "
        f"{full[max(0, at - 20) : at + 40]!r} where it was {prefix[max(0, at - 20) : at + 40]!r}, so sampled turns "
        "would be rewritten. Pass a training template (chat_template=), such as those in "
        "trl/chat_templates/*_training.jinja"
    )
