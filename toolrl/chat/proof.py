"""The start-up proof: at every point where the assistant speaks, the tokens so far are what the template renders.

A dry episode is rendered: one call, then two, with and without thoughts, with and without a system message. Each
rendering must start with the previous one, continue with a turn that ends in a stop token, and then with exactly the
observation that the renderer cuts out of a stand-in conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from toolrl.chat.template import ChatTemplate, TurnEnds, common_prefix
from toolrl.errors import TemplateError
from toolrl.types import Message, ToolCall

Observe = Callable[[Sequence[Message]], str]

_SCHEMA = {"name": "search", "description": "Search.", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": _SCHEMA}]
_CALLS = [ToolCall("search", {"query": f"word{index}"}, id=f"call_{index}") for index in range(3)]
_RESULTS = [Message("tool", f"result {call.id}", name=call.name, tool_call_id=call.id) for call in _CALLS]
TWO_CALLS = [Message("user", "q"), Message("assistant", "", tuple(_CALLS[:2])), *_RESULTS[:2]]


def prove_prefix_stable(template: ChatTemplate, ends: TurnEnds, observe: Observe, thoughts: Sequence[str]) -> None:
    """Render a dry episode and check that each rendering extends the previous one.

    Args:
        template: The template to prove.
        ends: The ends of turns.
        observe: The text that the renderer would append for tool messages.
        thoughts: The thoughts of the turns, one episode for each; "" for none.

    Raises:
        TemplateError: The template rewrites history or does not show tool results; the message shows where.
    """
    for opening in ([Message("user", "q")], [Message("system", "s"), Message("user", "q")]):
        for thinking in thoughts:
            _prove(template, ends, observe, opening, thinking)


def _prove(template: ChatTemplate, ends: TurnEnds, observe: Observe, opening: list[Message], thinking: str) -> None:
    conversation, before = list(opening), template.render(opening, TOOLS, generate=True)
    first = ""
    for chosen in (slice(0, 1), slice(1, 2) if template.one_call else slice(1, 3), slice(0, 1)):
        results = _RESULTS[chosen]
        conversation += [Message("assistant", "", tuple(_CALLS[chosen]), thinking=thinking), *results]
        after = template.render(conversation, TOOLS, generate=True)
        end = ends.first(after, len(before))
        if not after.startswith(before) or end is None:
            raise unstable(template.model, before, after)
        observed = after[: end.end()] + observe(results)
        if after != observed:
            raise unstable(template.model, observed, after)
        turn = after[len(before) : end.end()]
        # The same call again is the same turn, except for what the prompt has opened: no header may be in between.
        first = first or turn
        if chosen.start == 0 and not first.endswith(turn):
            raise unstable(template.model, before + first, after)
        before = after


def unstable(model: str, prefix: str, full: str) -> TemplateError:
    """The error for a rendering that does not start with an earlier one."""
    at = common_prefix(prefix, full)
    return TemplateError(
        f"the chat template of {model!r} is not prefix-stable: a longer conversation renders "
        f"{full[max(0, at - 20) : at + 40]!r} where it was {prefix[max(0, at - 20) : at + 40]!r}, so sampled turns "
        "would be rewritten. Pass a training template (chat_template=), such as those in "
        "trl/chat_templates/*_training.jinja"
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


def shows_thinking(template: ChatTemplate) -> bool:
    """Whether the template renders the thoughts of the last assistant turn."""
    return "aloud" in template.render([Message("user", "q"), Message("assistant", "", thinking="aloud")])
