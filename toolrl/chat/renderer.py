"""Messages to tokens, append-only: a sampled turn is never decoded and encoded again.

A conversation is `prompt_ids`, then samples and `observation_ids` in turn. Observations are cut out of a
rendering of a stand-in conversation. That is right if and only if the template is prefix-stable, so that
further messages only add text at the end. The constructor proves it.

Text by users, tools and web pages never becomes a control token: see `toolrl.chat.encoding`.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from toolrl.chat.dialects import PROBE, PROBE_NAMED_BY_ID, Dialect, HermesDialect, detect_dialect, dialect_named
from toolrl.chat.dialects.base import meaning, schemas_of
from toolrl.chat.encoding import Encoder
from toolrl.chat.proof import (
    TWO_CALLS,
    check_results_shown,
    prove_prefix_stable,
    prove_users_stable,
    shows_calls,
    shows_system,
    shows_thinking,
    shows_tools,
    unstable,
)
from toolrl.chat.template import ChatTemplate, TurnEnds, common_prefix
from toolrl.chat.tool_prompt import ToolPrompt
from toolrl.chat.variants import fixed_variants, plain_template
from toolrl.errors import ConfigError, TemplateError
from toolrl.types import Message, ToolCall

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ToolPromptChoice = Literal["auto", "template", "system"]
_USER = Message("user", "?")
_PROBE_TEXT = "probing words"

_log = logging.getLogger(__name__)


class Renderer:
    """Turns messages into token ids with a Hugging Face chat template.

    Attributes:
        tokenizer: The tokenizer whose template is used.
        dialect: How the model writes tool calls.
        template: The chat template that renders messages.
        opened: The beginning of a block of thoughts that the prompt ends with; otherwise empty.
        end_of_turn_id: The token that ends an answer.
        stop_token_ids: All tokens that end a turn; a call may have its own.
        closing_ids: Tokens that a truncated completion must not end on, because trainers read them as its end.
        template_name: The variant used instead of a template that rewrites history; otherwise empty.
        users: Whether the proof covers conversations in which a user answers the assistant; see `with_options`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dialect: Dialect | str | None = None,
        chat_template: str | None = None,
        template_options: Mapping[str, Any] | None = None,
        tool_prompt: ToolPromptChoice = "auto",
    ):
        """Prepare the tokenizer's template and prove that it only appends.

        A known template that rewrites history is replaced by its fixed variant. A tokenizer without a template gets a
        plain one (`chat.variants.plain_template`).

        Args:
            tokenizer: A fast tokenizer.
            dialect: A dialect or its name; by default the one in which the template writes a call.
            chat_template: Jinja text to use instead of the tokenizer's own.
            template_options: Variables for the template, such as `{"enable_thinking": False}`.
            tool_prompt: Who shows the model its tools, its calls and their results: "template", or "system" for the
                system message and plain text in turns; see `chat.tool_prompt`. "auto" leaves it to a template that
                shows tools.

        Raises:
            ConfigError: No dialect has this name, or `tool_prompt` is unknown.
            TemplateError: The end-of-turn token is missing, or the template rewrites history or does not show tool
                calls and their results.
        """
        self.tokenizer = tokenizer
        text = chat_template or getattr(tokenizer, "chat_template", None)
        if isinstance(text, dict):  # named variants
            text = text.get("tool_use") or text["default"]
        if tokenizer.eos_token_id is None:
            raise TemplateError(f"the tokenizer {tokenizer.name_or_path!r} has no EOS token to end a turn")
        if tool_prompt not in get_args(ToolPromptChoice):
            raise ConfigError(f"tool_prompt must be 'auto', 'template' or 'system', got {tool_prompt!r}")
        self._plain = ""
        if not text:
            self._plain, text = plain_template(tokenizer)
        self._encoder = Encoder(tokenizer)
        self._source, self._given = text, dialect_named(dialect) if isinstance(dialect, str) else dialect
        self._asked, self._replaces = tool_prompt, bool(chat_template) or bool(self._plain)
        self._variants: dict[str, Renderer] = {}
        self.users = False
        self._choose_template(template_options or {})
        if self.remark:
            _log.info("%s: %s", tokenizer.name_or_path, self.remark)

    @property
    def tool_prompt(self) -> ToolPromptChoice:
        """What shows the model its tools: "system", the system message, or the "template"."""
        return "system" if self.template.told else "template"

    def keep_template(self) -> None:
        """Have the tokenizer save the template that was given, or that it lacked, with the model."""
        if self._replaces:
            self.tokenizer.chat_template = self._source

    @property
    def remark(self) -> str:
        """What is unusual about the chat template, as one line for people; empty if nothing is."""
        said = []
        if self._plain:
            said.append(f"the model has no chat template, toolrl's {self._plain!r} is used")
        if self.template_name:
            said.append(f"the chat template rewrites history, {self.template_name} is used instead")
        if self.tool_prompt == "system":
            left_out = "" if self._plain else ", which the chat template leaves out"
            said.append(
                f"the system message shows the tools{left_out}; calls are written in the dialect {self.dialect.name!r}"
            )
        return "; ".join(said)

    def parts(self) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
        """The tokenizer and the arguments of which another process makes the same renderer."""
        asked = {"dialect": self._given, "chat_template": self._source, "tool_prompt": self._asked}
        return self.tokenizer, {**asked, "template_options": self.template.options}

    def with_options(self, options: Mapping[str, Any], *, users: bool = False) -> Renderer:
        """The renderer of the same tokenizer for other episodes; each is proven once.

        Args:
            options: Further template variables.
            users: Whether a user may answer the assistant. Many templates drop old thoughts then, and a fixed variant
                is used instead.

        Raises:
            TemplateError: The template rewrites history in such episodes, or refuses a user's answers.
        """
        users = users or self.users
        if not options and users == self.users:
            return self
        key = json.dumps([users, options], sort_keys=True, default=repr)
        if key not in self._variants:
            variant = copy.copy(self)
            variant._variants, variant.users = {}, users
            variant._choose_template({**self.template.options, **options})
            self._variants[key] = variant
        return self._variants[key]

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids (P,) of a conversation, up to the point where the assistant speaks.

        Args:
            messages: System and user messages.
            tools: JSON schemas, as in `Toolbox.schemas`.
        """
        return self._encoder.encode(self.template.render(messages, tools, generate=True))

    def observation_ids(self, messages: Sequence[Message], *, after: int | None = None) -> list[int]:
        """Ids (O,) to append after a sampled turn that ended with one of the stop tokens.

        Args:
            messages: Tool messages, or a user message.
            after: The token that ended the turn. If the template ends such a turn with its own token
                (GLM's `<|observation|>`) and the model did not, that token comes first.
        """
        end, ids = self._observation(tuple(messages))
        missing = after is not None and end != self._ends.texts[0] and after != self._encoder.control_ids[end]
        return [*[self._encoder.control_ids[end]] * missing, *ids]

    def assistant_ids(self, message: Message, tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """Ids (T,) of an assistant turn as a policy would sample it, end-of-turn token included.

        The template writes the turn if its text parses back to the same message, else the dialect does.

        Args:
            message: The turn.
            tools: JSON schemas; see `Dialect.format`.

        Raises:
            ConfigError: The dialect cannot write one of its calls.
        """
        written = self._write_by_template(message, tools)
        if written is not None:
            return self._encoder.encode(written)
        text = self.dialect.format(message, tools)
        if self.opened and not message.thinking:
            text = self.dialect.write_thinking("") + text
        for opened in (self.opened, self.opened.strip()):
            text = text.removeprefix(opened) if opened else text
        return [*self._encoder.encode(self._encoder.protect(text, keep=self.dialect.marks)), self.end_of_turn_id]

    def text_ids(self, text: str, *, control: bool = False) -> list[int]:
        """Ids (T,) of a text.

        Args:
            text: Any text.
            control: Whether texts of control tokens become control tokens; otherwise they are spelled out.
        """
        return self._encoder.encode(text if control else self._encoder.protect(text))

    def parse(
        self, token_ids: Sequence[int], tools: Sequence[dict[str, Any]] = (), *, after_tools: bool = False
    ) -> Message:
        """Parse a sampled turn (T,), ignoring its end-of-turn token.

        Args:
            token_ids: The turn.
            tools: JSON schemas; see `Dialect.parse`.
            after_tools: Whether it follows tool results: some templates open the thinking only then, or not then.
        """
        ids = list(token_ids)
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        opened = self._opened_after_tools if after_tools else self.opened
        return self.dialect.parse(opened + self.decode(ids), tools)

    def end_of_thinking_ids(self, token_ids: Sequence[int], *, after_tools: bool = False) -> list[int]:
        """Ids that end the thinking of a turn (T,) that was cut while it thinks; empty if it does not think."""
        text = (self._opened_after_tools if after_tools else self.opened) + self.decode(token_ids)
        opening, closing = self.dialect.thinking
        if not text.lstrip().startswith(opening) or closing in text:
            return []
        return self._encoder.encode(self.dialect.end_of_thinking)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids (T,), control tokens included."""
        text = self.tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    # ---- choosing a template

    def _choose_template(self, options: Mapping[str, Any]) -> None:
        """Choose the template, or the first of its fixed variants that passes the proof."""
        self._beginning = lru_cache(1024)(self._render_beginning)  # the same for most turns, which call one tool
        self._observation = lru_cache(512)(self._encode_observation)  # the same for many episodes of a group
        failure: TemplateError | None = None
        for name, candidate in (("", self._source), *fixed_variants(self._source)):
            self.template_name = name
            try:
                self._set_up(ChatTemplate(self.tokenizer, candidate, options, self._encoder.protect_all))
            except TemplateError as error:
                failure = failure or error
            else:
                return
        assert failure is not None
        raise failure

    def _set_up(self, template: ChatTemplate) -> None:
        """Find the template's dialect, its ends of turns and how it opens a turn, and prove it.

        Raises:
            TemplateError: The template cannot be used.
        """
        self.template = template
        self._beginning.cache_clear()
        self._observation.cache_clear()
        eos, controls, given = str(self.tokenizer.eos_token), self._encoder.control_ids, self._given
        told = self._asked == "system" or (self._asked == "auto" and not shows_tools(template))
        if told and (self._asked == "system" or not shows_calls(template, given, eos)):
            given = given or HermesDialect()
            template.told = ToolPrompt(given, self._encoder, has_system=shows_system(template))
        template.find_restrictions(TWO_CALLS)
        check_results_shown(template)
        self._prompt = prompt = template.render([_USER], generate=True)
        answered = template.render([_USER, Message("assistant", "!")])
        self.dialect: Dialect = given or self._detect(prompt)
        if told and template.told is None:
            has_system = shows_system(template)
            template.told = ToolPrompt(self.dialect, self._encoder, has_system=has_system, turns=False)
        ends = [eos, *(end for end in self.dialect.ends if end in controls)]
        # Gemma, Phi and Command R end a turn with another token than EOS.
        if own := self._encoder.control_after(answered, answered.rfind("!") + 1):
            ends.append(own)
        self._ends = TurnEnds(ends)
        self.stop_token_ids = [
            self._encoder.control_ids.get(end, self.tokenizer.eos_token_id) for end in self._ends.texts
        ]
        pad = self.tokenizer.pad_token_id
        self.closing_ids = frozenset(self.stop_token_ids) | ({pad} if pad is not None else set())
        end = self._ends.first(answered, common_prefix(prompt, answered))
        if end is None:  # some templates write it at the beginning of what follows
            followed = template.render([_USER, Message("assistant", "!"), _USER])
            end = self._ends.first(followed, common_prefix(prompt, followed))
        if end is None:
            raise TemplateError(
                f"the chat template of {template.model!r} does not end a turn with the EOS token {eos!r}; set "
                "tokenizer.eos_token to the token that does"
            )
        self.end_of_turn_id: int = int(self._encoder.control_ids.get(end.group(), self.tokenizer.eos_token_id))
        self.opened, may_think = self._left_open(prompt), self._may_think(prompt)
        # If the prompt opens the thinking, the template continues it only with a non-empty thought.
        self._thought = "." if self.opened else ""
        thoughts = [self._thought] + ["thinking aloud"] * (may_think and not self.opened and shows_thinking(template))
        self._opened_after_tools = self._left_open(self._observed([Message("tool", "?", name="f", tool_call_id="c")]))
        prove_prefix_stable(template, self._ends, self._observed, thoughts)
        if self.users:
            prove_users_stable(template, self._ends, self._observed, self._thought, may_think)
            if (opened := self._left_open(self._observed([_USER]))) != self.opened:
                raise TemplateError(
                    f"with a user who answers, the chat template of {template.model!r} opens a turn with {opened!r}, "
                    f"and after the prompt with {self.opened!r}; pass a template that opens both alike (chat_template=)"
                )

    def _detect(self, prompt: str) -> Dialect:
        eos, dialect, written = str(self.tokenizer.eos_token), None, ""
        for said, probe in ((_PROBE_TEXT, PROBE), ("", PROBE), ("", PROBE_NAMED_BY_ID)):
            written = self.template.render([_USER, Message("assistant", said, (probe,))])
            dialect = dialect or detect_dialect(written[common_prefix(prompt, written) :], eos, said)
        if dialect is None:
            what = "does not show tool calls"
            if PROBE.name in written:
                what = f"writes tool calls in a form that toolrl cannot read: {written[-200:]!r}"
            raise TemplateError(
                f"the chat template of {self.template.model!r} {what}; pass a template that supports tools "
                "(chat_template=), have the system message show them (tool_prompt='system'), or name the dialect "
                "(dialect=) in which the model calls tools"
            )
        return dialect

    def _left_open(self, prompt: str) -> str:
        """The opening of a block of thoughts and what follows it, if the prompt ends inside one."""
        opening, closing = self.dialect.thinking
        end = prompt[prompt.rfind(_USER.content) :]
        at = end.rfind(opening)
        return end[at:] if at >= 0 and closing not in end[at:] else ""

    def _may_think(self, prompt: str) -> bool:
        """Whether a turn may start with thoughts: not if the prompt closes an empty block of them."""
        return self.dialect.thinking[1] not in prompt[prompt.rfind(_USER.content) :]

    # ---- rendering

    def _observe(self, messages: Sequence[Message]) -> tuple[str, str]:
        """The end of a turn that is followed by these messages, and the text that the template adds after it."""
        called = tuple((message.name, message.tool_call_id) for message in messages if message.role == "tool")
        before, beginning = self._beginning(called)
        full = self.template.render([*before, *messages], generate=True)
        if not full.startswith(beginning):
            raise unstable(self.template.model, beginning, full)
        end = next(text for text in self._ends.texts if beginning.endswith(text))
        return end, full[len(beginning) :]

    def _encode_observation(self, messages: tuple[Message, ...]) -> tuple[str, list[int]]:
        """As `_observe`, with ids (O,), which must not be changed."""
        end, observation = self._observe(messages)
        return end, self._encoder.encode(observation)

    def _observed(self, messages: Sequence[Message]) -> str:
        return self._observe(messages)[1]

    def _render_beginning(self, called: tuple[tuple[str, str], ...]) -> tuple[list[Message], str]:
        """A short conversation up to an assistant turn, with calls (name, id) or without, and its rendering."""
        calls = tuple(ToolCall(name, id=call_id) for name, call_id in called)
        proven = self.users or bool(calls)
        turn = Message("assistant", "" if calls else "!", calls, thinking=self._thought if proven else "")
        answers = [Message("tool", "?", name=name, tool_call_id=call_id) for name, call_id in called] or [_USER]
        full = self.template.render([_USER, turn, *answers], generate=True)
        start = common_prefix(self._prompt, full)
        end = self._ends.first(full, start)
        if end is None or (proven and start < len(self._prompt)):
            raise unstable(self.template.model, self._prompt, full)
        return [_USER, turn], full[: end.end()]

    def _write_by_template(self, message: Message, tools: Sequence[dict[str, Any]]) -> str | None:
        """An assistant turn and its end as the template writes them; None if that parses to another message."""
        if any(call.error is not None for call in message.tool_calls):
            return None
        calls = [replace(call, id=call.id or f"call_{index}") for index, call in enumerate(message.tool_calls)]
        turn = replace(message, tool_calls=tuple(calls))
        answers = [Message("tool", "?", name=call.name, tool_call_id=call.id) for call in calls]
        for after in [answers] if answers else [[], [_USER]]:
            try:
                full = self.template.render([_USER, turn, *after], generate=bool(after))
            except TemplateError:
                return None
            end = self._ends.first(full, len(self._prompt))
            if full.startswith(self._prompt) and end is not None:
                written = full[len(self._prompt) : end.start()]
                known = tools or schemas_of(message.tool_calls)
                read = self.dialect.parse(self.opened + self._encoder.unprotect(written), known)
                return written + end.group() if meaning(read) == meaning(message) else None
        return None
