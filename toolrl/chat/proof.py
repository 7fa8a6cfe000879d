"""The start-up proof: at every point where the assistant speaks, the tokens so far are what the template renders.

A dry episode is rendered: one call, then two, with and without thoughts, with and without a system message; for
environments with a user also what the assistant says between them, and the user's answers. Each rendering must start
with the previous one, continue with a turn that ends in a stop token, and then with exactly the observation that the
renderer cuts out of a stand-in conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle

from toolrl.chat.dialects import PROBE, PROBE_NAMED_BY_ID, Dialect, reads_probe
from toolrl.chat.template import ChatTemplate, TurnEnds, common_prefix
from toolrl.errors import TemplateError
from toolrl.types import Message, ToolCall

Observe = Callable[[Sequence[Message]], str]

_SCHEMA = {"name": "search", "description": "Search.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": _SCHEMA}]
_CALLS = [ToolCall("search", {"query": f"word{index}"}, id=f"call_{index}") for index in range(3)]
_RESULTS = [Message("tool", f"result {call.id}", name=call.name, tool_call_id=call.id) for call in _CALLS]
_ONE, _TWO, _WORDS = slice(0, 1), slice(1, 3), slice(0, 0)  # of the calls in a turn
_REMEDY = (
    "Pass a training template (chat_template=), such as those in trl/chat_templates/*_training.jinja; where TRL is "
    "installed, toolrl finds the variant of a known template itself"
)
TWO_CALLS = [Message("user", "q"), Message("assistant", "", tuple(_CALLS[:2])), *_RESULTS[:2]]


def prove_prefix_stable(template: ChatTemplate, ends: TurnEnds, observe: Observe, thoughts: Sequence[str]) -> None:
    """Render dry episodes with calls, and check that each rendering extends the previous one.

    Args:
        template: The template to prove.
        ends: The ends of turns.
        observe: The text that the renderer would append for tool messages.
        thoughts: The thoughts of the turns, one episode for each; "" for none.

    Raises:
        TemplateError: The template rewrites history; the message shows where.
    """
    for thinking in thoughts:
        _prove(template, ends, observe, [_turn(template, calls, thinking) for calls in (_ONE, _TWO, _ONE)])


def prove_users_stable(
    template: ChatTemplate, ends: TurnEnds, observe: Observe, opened_thought: str, may_think: bool
) -> None:
    """Render dry episodes with a user who answers, and check them as `prove_prefix_stable` does.

    Besides, the thoughts that the template shows in the last turn must stay in the history.

    Args:
        template: The template to prove.
        ends: The ends of turns.
        observe: The text that the renderer would append for tool messages or a user message.
        opened_thought: The thought of each turn, if the prompt opens it; otherwise empty.
        may_think: Whether a turn may start with thoughts of its own.

    Raises:
        TemplateError: The template rewrites history, or refuses or drops a user's answer; the message shows where.
    """
    order = (_WORDS, _ONE, _WORDS, _WORDS, _TWO, _ONE, _WORDS, _WORDS)
    try:
        _check_user_shown(template)
        shown = [calls for calls in order if opened_thought or (may_think and shows_thinking(template, calls))]
        mixed = [("thinking aloud",), ("", "thinking aloud")] if shown and not opened_thought else [(opened_thought,)]
        for thoughts in mixed:
            thinking = [thought * (calls in shown) for calls, thought in zip(order, cycle(thoughts), strict=False)]
            turns = [_turn(template, calls, thought) for calls, thought in zip(order, thinking, strict=True)]
            _prove(template, ends, observe, turns, keep_thoughts=True)
    except TemplateError as error:
        raise TemplateError(f"with a user who answers, {error}") from error


def _turn(template: ChatTemplate, calls: slice, thinking: str) -> list[Message]:
    """An assistant turn with calls and their results, or with words and the user's answer."""
    if calls == _TWO and template.one_call:
        calls = slice(1, 2)
    called = tuple(_CALLS[calls])
    assistant = Message("assistant", "" if called else "words", called, thinking=thinking)
    return [assistant, *(_RESULTS[calls] or [Message("user", "answer")])]


def _prove(
    template: ChatTemplate, ends: TurnEnds, observe: Observe, turns: list[list[Message]], keep_thoughts: bool = False
) -> None:
    for opening in ([Message("user", "q")], [Message("system", "s"), Message("user", "q")]):
        conversation, before = list(opening), template.render(opening, TOOLS, generate=True)
        first: dict[str, str] = {}
        for assistant, *told in turns:
            conversation += [assistant, *told]
            after = template.render(conversation, TOOLS, generate=True)
            end = ends.first(after, len(before))
            if not after.startswith(before):
                raise unstable(template.model, before, after)
            if end is None:
                raise TemplateError(
                    f"the chat template of {template.model!r} is not prefix-stable: the tokens that end a sampled turn "
                    f"({' '.join(ends.texts)}) are not in its history, {after[len(before) :]!r:.200}. {_REMEDY}"
                )
            observed = after[: end.end()] + observe(told)
            if after != observed:
                raise unstable(template.model, observed, after)
            turn = after[len(before) : end.end()]
            if keep_thoughts and assistant.thinking not in turn:
                raise unstable(template.model, before + assistant.thinking, after)
            # The same turn again is the same, except for what the prompt has opened: no header may be in between.
            if not first.setdefault(repr(assistant), turn).endswith(turn):
                raise unstable(template.model, before + first[repr(assistant)], after)
            before = after


def unstable(model: str, prefix: str, full: str) -> TemplateError:
    """The error for a rendering that does not start with an earlier one."""
    at = common_prefix(prefix, full)
    return TemplateError(
        f"the chat template of {model!r} is not prefix-stable: a longer conversation renders "
        f"{full[max(0, at - 20) : at + 40]!r} where it was {prefix[max(0, at - 20) : at + 40]!r}, so sampled turns "
        f"would be rewritten. {_REMEDY}"
    )


def check_results_shown(template: ChatTemplate) -> None:
    """Check that the template renders tool results.

    Raises:
        TemplateError: It does not.
    """
    shown = template.render(TWO_CALLS)
    if missing := [message.content for message in TWO_CALLS if message.role == "tool" and message.content not in shown]:
        raise TemplateError(
            f"the chat template of {template.model!r} does not show tool results ({missing[0]!r} is not in its "
            "rendering); pass a template that supports tools (chat_template=)"
        )


def _check_user_shown(template: ChatTemplate) -> None:
    """Check that the template renders a user's answer to the assistant's words."""
    opening = [Message("user", "q")]
    try:
        shown = template.render([*opening, *_turn(template, _WORDS, "")], generate=True)
    except TemplateError as error:
        raise TemplateError(
            f"the chat template of {template.model!r} refuses what a user says after the assistant has spoken "
            f"({error.__cause__}); pass a template that takes it (chat_template=), or use environments without a user"
        ) from error
    if "answer" not in shown:
        raise TemplateError(
            f"the chat template of {template.model!r} does not show what a user says after the assistant has spoken; "
            "pass a template that does (chat_template=), or use environments without a user"
        )


def shows_thinking(template: ChatTemplate, calls: slice = _WORDS) -> bool:
    """Whether the template renders the thoughts of the last assistant turn: an empty one, or one with calls."""
    assistant, *told = _turn(template, calls, "aloud")
    turn = [assistant, *told] if assistant.tool_calls else [replace(assistant, content="")]
    return "aloud" in template.render([Message("user", "q"), *turn])


def shows_tools(template: ChatTemplate) -> bool:
    """Whether the template tells the model of its tools, or refuses them."""
    tools = [{"type": "function", "function": {**_SCHEMA, "name": PROBE.name}}]
    try:
        return PROBE.name in template.render([Message("user", "q")], tools, generate=True)
    except TemplateError:
        return True  # the proof says what is wrong


def shows_calls(template: ChatTemplate, dialect: Dialect | None, eos: str) -> bool:
    """Whether the template shows calls, in this dialect if there is one, and their results."""
    asked = [Message("user", "q")]
    try:
        begun = template.render(asked, generate=True)
        for probe in (PROBE, PROBE_NAMED_BY_ID):
            called = [*asked, Message("assistant", "", (probe,))]
            written = template.render(called)[len(begun) :]
            result = Message("tool", "shown result", name=probe.name, tool_call_id=probe.id)
            shown = template.render([*called, result])
            is_read = probe.name in written if dialect is None else reads_probe(dialect, written, eos)
            if is_read and result.content in shown:
                return True
    except TemplateError:
        pass
    return False


def shows_system(template: ChatTemplate) -> bool:
    """Whether the template takes a system message, and shows it."""
    try:
        return PROBE.name in template.render([Message("system", PROBE.name), Message("user", "q")], generate=True)
    except TemplateError:
        return False
