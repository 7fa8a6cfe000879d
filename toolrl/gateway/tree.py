"""The conversations of one episode as a tree of sampled turns: exact tokens, each rendered once.

A call that continues an earlier one is appended to it; one that rewrites history, forgets, compacts or delegates starts
a branch of its own. Two calls that continue the same turn share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolrl.chat import Renderer
from toolrl.errors import TemplateError
from toolrl.rollout import Played
from toolrl.trajectory import Turn
from toolrl.types import Message, Sample, ToolResult

Schemas = Sequence[dict[str, Any]]


@dataclass(eq=False)
class Node:
    """A sampled turn.

    Attributes:
        parent: The turn that it continues; None at the start of a conversation.
        context: The messages before it: all of them at the start, else what came since the turn before.
        context_ids: The same as tokens: (P,) a prompt, or (O,) an observation.
        sample: The turn as tokens.
        message: The turn, parsed; its calls have ids.
        shown: The turn as the client has it.
        seconds: From submission to the last token.
    """

    parent: Node | None
    context: tuple[Message, ...]
    context_ids: list[int]
    sample: Sample
    message: Message
    shown: Message
    seconds: float = 0.0

    def path(self) -> list[Node]:
        """The turns from the start of its conversation to this one."""
        turns: list[Node] = []
        node: Node | None = self
        while node is not None:
            turns.append(node)
            node = node.parent
        return turns[::-1]

    @property
    def ids(self) -> list[int]:
        """Everything so far: prompt, samples, observations, and this turn."""
        return [id for node in self.path() for id in (*node.context_ids, *node.sample.token_ids)]


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a call in the tree.

    Attributes:
        parent: The turn that it continues; None if it starts a conversation.
        context: The messages since then.
        context_ids: The same as tokens.
        key: Names the history, tools included.
    """

    parent: Node | None
    context: tuple[Message, ...]
    context_ids: list[int]
    key: int

    @property
    def prompt_ids(self) -> list[int]:
        """(P,) everything before the turn that is asked for."""
        return [*(self.parent.ids if self.parent is not None else ()), *self.context_ids]

    @property
    def beginning_ids(self) -> list[int]:
        """(P,) the prompt with which its conversation began."""
        return self.parent.path()[0].context_ids if self.parent is not None else self.context_ids

    @property
    def after_tools(self) -> bool:
        """Whether the turn follows results of tools."""
        return self.parent is not None and self.context[-1].role == "tool"


class Conversations:
    """The tree of one episode.

    Attributes:
        nodes: All turns, in the order in which they were sampled.
        renderer: Writes and reads their tokens.
    """

    def __init__(self, renderer: Renderer):
        """Begin without a turn."""
        self.renderer = renderer
        self.nodes: list[Node] = []
        self._by_history: dict[int, Node] = {}

    def place(self, messages: Sequence[Message], tools: Schemas) -> Place:
        """Find where a call stands: after the latest turn that its history ends with, if it can be appended.

        Raises:
            TemplateError: The chat template cannot render these messages.
        """
        messages = _named(messages)
        key = hash(json.dumps(list(tools), sort_keys=True))
        parent, since = None, 0
        for place, message in enumerate(messages):
            key = hash((key, _identity(message)))
            if message.role == "assistant" and key in self._by_history:
                parent, since = self._by_history[key], place + 1
        rest = tuple(messages[since:])
        if parent is not None and (ids := self._appended(parent, rest)) is not None:
            return Place(parent, rest, ids, key)
        return Place(None, tuple(messages), self.renderer.prompt_ids(messages, tools), key)

    def add(self, place: Place, sample: Sample, message: Message, shown: Message, seconds: float) -> Node:
        """Note what was sampled there, and what the client is shown of it, by which it continues."""
        node = Node(place.parent, place.context, place.context_ids, sample, message, shown, seconds)
        self.nodes.append(node)
        self._by_history[hash((place.key, _identity(shown)))] = node
        return node

    def _appended(self, parent: Node, rest: Sequence[Message]) -> list[int] | None:
        """(O,) what came after a turn; None if it cannot be appended as the template would have written it."""
        roles = [message.role for message in rest]
        is_answer = roles == ["user"] or (bool(roles) and set(roles) == {"tool"})
        if not is_answer or parent.sample.finish != "stop":
            return None
        try:
            renderer = self.renderer.with_options({}, users=roles == ["user"])
        except TemplateError:  # it would rewrite what was before
            return None
        return renderer.observation_ids(rest, after=parent.sample.token_ids[-1])

    def leaves(self) -> list[Node]:
        """The turns that nothing continues, in the order in which they were sampled."""
        continued = {id(node.parent) for node in self.nodes}
        return [node for node in self.nodes if id(node) not in continued]

    def branches(self) -> list[Played]:
        """One for each leaf, the latest first: the tokens of an episode as rows for training.

        A turn that several branches share is sampled in one of them, the first here, and context in the others, so that
        it is trained on once.
        """
        seen: set[int] = set()
        found = []
        for leaf in reversed(self.leaves()):
            found.append(_as_branch(leaf.path(), seen))
            seen |= {id(node) for node in leaf.path()}
        return found


def _as_branch(path: Sequence[Node], seen: set[int]) -> Played:
    """A path as a prompt and its turns; what another branch has already is a part of the prompt."""
    own = [node for node in path if id(node) not in seen]
    known = path[: len(path) - len(own)]
    prompt = [message for node in known for message in (*node.context, node.message)] + list(own[0].context)
    prompt_ids = [id for node in known for id in (*node.context_ids, *node.sample.token_ids)] + own[0].context_ids
    turns = [
        Turn(
            node.sample,
            node.message,
            tuple(_results(node, following)),
            tuple(following.context_ids) if following is not None else (),
            node.seconds,
            reply=_reply(following),
        )
        for node, following in zip(own, [*own[1:], None], strict=True)
    ]
    return Played(tuple(prompt), prompt_ids, turns)


def _results(node: Node, following: Node | None) -> Iterator[ToolResult]:
    """What the program said that a turn's calls returned."""
    answers = {message.tool_call_id: message.content for message in (following.context if following else ())}
    for call in node.message.tool_calls:
        if call.id in answers:
            yield ToolResult(call, answers[call.id])


def _reply(following: Node | None) -> str | None:
    context = following.context if following is not None else ()
    return context[0].content if context and context[0].role == "user" else None


def _named(messages: Sequence[Message]) -> list[Message]:
    """The messages, with the tool's name in each result: templates write it, and APIs send the call's id alone."""
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    return [
        replace(message, name=names[message.tool_call_id])
        if message.role == "tool" and message.tool_call_id in names
        else message
        for message in messages
    ]


def _identity(message: Message) -> int:
    """Tells messages apart as far as a client sends them back: thinking is left out, arguments are values."""
    calls = [(call.id, call.name, _arguments(call.arguments)) for call in message.tool_calls]
    return hash((message.role, message.content, message.tool_call_id, json.dumps(calls)))


def _arguments(arguments: Mapping[str, Any]) -> str:
    return json.dumps(dict(arguments), sort_keys=True)
