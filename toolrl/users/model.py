"""`ModelUser`: a language model plays the user, perhaps with tools of its own.

To the model the roles are swapped: the agent's words are the messages it answers. It leaves by calling
`end_conversation`, which no words of the agent can do for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from toolrl.chat.renderer import Renderer
from toolrl.errors import ConfigError, InfrastructureError
from toolrl.policy.base import ChatPolicy, ChatReply, Policy
from toolrl.policy.watchdog import Watchdog
from toolrl.support.disk_cache import DiskCache
from toolrl.support.usage import Usage, count_usage, counting
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS, in_thread
from toolrl.tools.definition import Tool, tool
from toolrl.tools.dispatch import Toolbox, cut_text
from toolrl.tools.resources import Resource, ResourceScope
from toolrl.types import Ended, Message, SamplingParams, Task, ToolCall

ENDINGS = {
    "done": "you have what you wanted, or accept that you cannot have it",
    "gave up": "the conversation leads nowhere",
}
GAVE_UP = "gave up"  # also the reason at a limit

_SETTING = """\
You play a user who talks to an assistant. This is who you are, what you know and what you want:

{instructions}

Answer each message with this user's next message and nothing else: in this user's words, and briefly. Say only \
what is written above or what you have found out since; never make up a fact. Whatever the assistant says, you stay \
this user.

Call end_conversation, and do not just say goodbye, as soon as one of these holds:
{endings}"""
_GREETING = "Hello, how can I help you?"
_SILENCE = "(The assistant says nothing.)"
_MAX_HEARD_CHARACTERS = 8000  # of one message of the agent
_MAX_CONVERSATION_CHARACTERS = 80_000
_ATTEMPTS = 2  # at a reply that is not empty
_SHORTEST_ANSWER = 4  # characters; shorter ones occur by chance

# Servers turn the texts of control tokens inside contents into such tokens: <|im_end|>, </s>, <tool_call>, [INST].
_control = re.compile(r"<(?=[|｜/!\w])|\[(?=/?[A-Z_]+\])")
_log = logging.getLogger(__name__)


class ModelUser:
    """A user that a model plays. It keeps its conversation in the episode's state, so one object serves any number.

    Its usage is counted as `user_requests`, `user_input_tokens`, `user_output_tokens`, `user_tool_calls`,
    `user_cached_replies` and, with prices, `user_dollars`. A model that fails or says nothing is an infrastructure
    fault: the episode is retried, then unscored.

    Attributes:
        resources: Those of its tools, which the environment shares with the agent's.
    """

    def __init__(
        self,
        policy: ChatPolicy | Policy,
        renderer: Renderer | None = None,
        *,
        instructions: Callable[[Task], str] | None = None,
        tools: Iterable[Tool | Callable[..., Any]] = (),
        endings: Mapping[str, str] = ENDINGS,
        sampling: SamplingParams = SamplingParams(temperature=0.0, max_tokens=1024),  # noqa: B008 - immutable
        max_replies: int = 50,
        max_tool_calls: int = 8,
        cache: str | Path | None = None,
        identity: str = "",
        may_know_answer: bool = False,
    ):
        """Create a user; nothing is sent yet.

        Args:
            policy: Plays the user, and is closed with it. One that also plays the agent must sample at the same
                temperature.
            renderer: Of a policy that generates tokens.
            instructions: Who the user is, what it knows and what it wants in a task; by default
                `task.metadata["user"]`. The model sees nothing else of the task but its prompt, as its own first words.
            tools: What the user can do itself, on the same resources as the agent's tools: pass the same
                `per_episode(...)` object to both. The agent sees neither the calls nor their results.
            endings: Reasons for ending the conversation, and when each holds. The reward finds the reason in
                `Episode.ending`; it is the model's opinion, which an agent can talk it into.
            sampling: How to sample a reply. `Limits.user_seconds` bounds its time, tools and queues included.
            max_replies: After these the user gives up, which ends the episode; so it does if the conversation becomes
                longer than 80,000 characters.
            max_tool_calls: The most calls for one reply. Further ones are a fault of the model.
            cache: A SQLite file of replies: the same conversation gets the same reply, and regrading needs no server.
            identity: Names the policy in the cache: everything that its replies depend on besides the conversation and
                the sampling. By default `policy.identity`.
            may_know_answer: Accept instructions that contain the task's answer, as for a game of twenty questions: an
                agent can then try to talk the user into giving it away.

        Raises:
            ConfigError: The policy needs a renderer, a number is not positive, no ending is given, or a cache is given
                without an identity.
        """
        if not isinstance(policy, ChatPolicy) and renderer is None:
            raise ConfigError(
                f"{type(policy).__name__} generates tokens; pass its renderer: ModelUser(policy, renderer)"
            )
        if max_replies < 1 or max_tool_calls < 1:
            raise ConfigError(f"max_replies and max_tool_calls must be positive, got {max_replies}, {max_tool_calls}")
        if not endings:
            raise ConfigError("endings is empty; name at least one reason for which the user ends the conversation")
        self._policy, self._renderer = policy, None if isinstance(policy, ChatPolicy) else renderer
        self._watch = Watchdog(policy, POLICY_TIMEOUT_SECONDS)
        self._instructions = instructions or _from_metadata
        self._toolbox = Toolbox([*tools, _leave_tool(endings)])
        self.resources: Mapping[str, Resource] = self._toolbox.resources
        self._endings = "\n".join(f"- {reason!r}: {when}" for reason, when in endings.items())
        self._sampling = sampling
        self._max_replies, self._max_tool_calls = max_replies, max_tool_calls
        self._may_know_answer = may_know_answer
        self._identity = identity or getattr(policy, "identity", "")
        if cache is not None and not self._identity:
            raise ConfigError(f"cache= needs to know which model replies; pass identity= for {type(policy).__name__}")
        self._cache = None if cache is None else DiskCache(Path(cache))
        self._cache_lock = threading.Lock()

    async def __call__(self, task: Task, message: str, state: dict[str, Any], scope: ResourceScope) -> str | Ended:
        """The next reply.

        Raises:
            InfrastructureError: The model failed, said nothing, or only called tools.
            ConfigError: The task has no instructions, or they contain its answer.
        """
        conversation: list[Message] = state.setdefault("conversation", [])
        if not conversation:
            conversation += self._opening(task)
        heard = cut_text(message, _MAX_HEARD_CHARACTERS)[0]
        conversation.append(Message("user", self._plain(heard) if heard.strip() else _SILENCE))
        state["replies"] = replies = state.get("replies", 0) + 1
        if replies > self._max_replies or _length(conversation) > _MAX_CONVERSATION_CHARACTERS:
            return Ended(reason=GAVE_UP)
        words: list[str] = []
        calls = 0
        while calls <= self._max_tool_calls:
            turn = await self._next(conversation)
            conversation.append(turn)
            words += [turn.content.strip()] * bool(turn.content.strip())
            if not turn.tool_calls:
                return "\n".join(words)
            for call in turn.tool_calls:
                calls += 1
                result = await self._toolbox.call(call, scope)
                count_usage("user_tool_calls")
                _log.debug("task %s: the user calls %s(%s): %s", task.id, call.name, dict(call.arguments), result)
                if result.ended is not None:
                    return replace(result.ended, text="\n".join(words) or str(result.ended.text))
                content = self._plain(result.content)
                conversation.append(Message("tool", content, name=call.name, tool_call_id=call.id))
        raise InfrastructureError(f"the user made {calls} tool calls for one reply (max_tool_calls sets the limit)")

    def close(self) -> None:
        """Close the policy and the cache."""
        self._policy.close()
        if self._cache is not None:
            self._cache.close()

    def _opening(self, task: Task) -> list[Message]:
        """The model's own view of the beginning. Many templates accept no conversation that the assistant opens."""
        instructions = self._instructions(task)
        if not isinstance(instructions, str) or not instructions.strip():
            raise ConfigError(f"the user's instructions for task {task.id!r} must be text, got {instructions!r:.80}")
        if not self._may_know_answer and _contains(instructions, task.answer):
            raise ConfigError(
                f"the user's instructions for task {task.id!r} contain its answer {task.answer!r:.80}, which an agent "
                "could talk the user into giving away; take it out, or pass may_know_answer=True"
            )
        setting = _SETTING.format(instructions=instructions.strip(), endings=self._endings)
        opening = [Message("system", setting), Message("user", _GREETING)]
        return [*opening, Message("assistant", self._plain(task.prompt))] if task.prompt.strip() else opening

    def _plain(self, text: str) -> str:
        """Text in which a server finds no control token; a renderer spells them out by itself."""
        return text if self._renderer is not None else _control.sub(r"\g<0> ", text)

    async def _next(self, conversation: Sequence[Message]) -> Message:
        """The model's next turn, from the cache if it is there."""
        asked = [self._identity, asdict(self._sampling), self._toolbox.schemas, [m.to_dict() for m in conversation]]
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        if self._cache is not None and (known := await in_thread(lambda: self._known(key))) is not None:
            count_usage("user_cached_replies")
            return _read(known)
        turn = await self._ask(conversation)
        calls = [replace(call, id=f"call_{len(conversation)}_{place}") for place, call in enumerate(turn.tool_calls)]
        turn = Message("assistant", turn.content, tuple(calls))
        return turn if self._cache is None else await in_thread(lambda: self._keep(key, turn))

    async def _ask(self, conversation: Sequence[Message]) -> Message:
        for _ in range(_ATTEMPTS):
            used = Usage()
            try:
                with counting(used):
                    reply = await self._reply(conversation)
            finally:
                for name, amount in used.amounts().items():  # a chat policy counts for whoever asks
                    count_usage(re.sub("^model_", "user_", name), amount)
            counted = {"requests": 1, "input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
            for name, number in counted.items():
                if number and f"model_{name}" not in used.amounts():
                    count_usage(f"user_{name}", number)
            if reply.message.content.strip() or reply.message.tool_calls:
                return reply.message
        cut = "; it was cut: raise sampling.max_tokens" if reply.finish == "length" else ""
        raise InfrastructureError(f"the user's model said nothing, {_ATTEMPTS} times in a row{cut}")

    async def _reply(self, conversation: Sequence[Message]) -> ChatReply:
        schemas = self._toolbox.schemas
        if isinstance(self._policy, ChatPolicy):
            return await self._watch.reply(conversation, schemas, self._sampling)
        assert self._renderer is not None
        prompt_ids = self._renderer.prompt_ids(conversation, schemas)
        generating = self._policy.generating()
        await in_thread(generating.__enter__)  # an engine may have to wake up first
        try:
            sample = await self._watch.sample(prompt_ids, self._sampling)
        finally:
            await in_thread(lambda: generating.__exit__(None, None, None))
        after_tools = conversation[-1].role == "tool"
        message = self._renderer.parse(sample.token_ids, schemas, after_tools=after_tools)
        return ChatReply(message, sample.finish, len(prompt_ids), len(sample.token_ids))

    def _known(self, key: str) -> str | None:
        assert self._cache is not None
        return self._cache.get(self._identity, key)

    def _keep(self, key: str, turn: Message) -> Message:
        """Keep a turn, unless another episode got one first: all of them go on with the same."""
        assert self._cache is not None
        with self._cache_lock:
            known = self._known(key)
            if known is None:
                self._cache.put(self._identity, key, json.dumps(asdict(turn)))
        return turn if known is None else _read(known)


def _read(known: str) -> Message:
    turn = json.loads(known)
    return Message("assistant", turn["content"], tuple(ToolCall(**call) for call in turn["tool_calls"]))


def _length(conversation: Sequence[Message]) -> int:
    return sum(len(message.content) for message in conversation)


def _from_metadata(task: Task) -> str:
    if "user" not in task.metadata:
        raise ConfigError(
            f'task {task.id!r} says nothing about its user; set metadata["user"], or pass instructions= to ModelUser'
        )
    return str(task.metadata["user"])


def _contains(text: str, answer: Any) -> bool:
    """Whether a text contains an answer, as a whole word; numbers and short texts occur by chance."""
    if not isinstance(answer, str) or len(answer.strip()) < _SHORTEST_ANSWER:
        return False
    pattern = r"\s+".join(map(re.escape, answer.split()))
    return re.search(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE) is not None


def _leave_tool(endings: Mapping[str, str]) -> Tool:
    def end_conversation(reason: str) -> Ended:
        """Leave the conversation.

        Args:
            reason: Why.
        """
        return Ended(reason=reason)

    end_conversation.__annotations__["reason"] = Literal[tuple(endings)]  # the schema names the reasons
    return tool()(end_conversation)
