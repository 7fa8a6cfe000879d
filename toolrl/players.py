"""The players of an episode: they speak for a policy, within the limits of the episode."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolrl.chat.renderer import Renderer
from toolrl.env import ToolEnv
from toolrl.episode import Step
from toolrl.policy.watchdog import Watchdog
from toolrl.trajectory import Turn
from toolrl.types import Message, Sample, SamplingParams, StopReason, Task


@dataclass
class TokenPlayer:
    """Plays an episode with a policy that generates tokens, which are appended and never re-encoded.

    Attributes:
        watch: Asks the policy.
        renderer: With the template's variables of this episode.
        tools: JSON schemas.
        prompt_ids: (P,) the system and user messages as tokens.
        sampling: How to sample one turn.
        room: Tokens left for the episode, sampled and observed ones together.
        thinking_tokens: Bounds the thinking in one turn, which is then ended for the model; 0 for no bound.
    """

    watch: Watchdog
    renderer: Renderer
    tools: Sequence[dict[str, Any]]
    prompt_ids: list[int]
    sampling: SamplingParams
    room: int
    thinking_tokens: int = 0

    def __post_init__(self) -> None:
        self._ids = list(self.prompt_ids)  # (P + C,) grows by appending only
        self._after_tools = False

    async def speak(self, messages: Sequence[Message]) -> Turn | None:
        """Sample a turn; None if no token is left for one."""
        if self.room <= 0:
            return None
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, self.room))
        loop = asyncio.get_running_loop()
        started = loop.time()
        sample = await self._sample(sampling)
        seconds = loop.time() - started
        message = self.renderer.parse(sample.token_ids, self.tools, after_tools=self._after_tools)
        self._append(sample.token_ids)
        return Turn(sample, message, generation_seconds=seconds)

    def observe(self, turn: Turn, step: Step) -> tuple[list[int], StopReason | None]:
        """Append what tools or the user said; the episode stops if that leaves no room for another token.

        Nothing is appended at the episode's own end, so that its tokens end with the model's turn.
        """
        if not step.messages or (step.stop is not None and step.stop.terminated):
            return [], step.stop
        observation = self.renderer.observation_ids(step.messages, after=turn.sample.token_ids[-1])  # (O,)
        stop = step.stop or (StopReason.TOKENS if len(observation) >= self.room else None)
        if stop is not None:
            observation = _cut(observation, self.room, self.renderer)
        self._append(observation)
        self._after_tools = bool(step.results)
        return observation, stop

    def _append(self, token_ids: Sequence[int]) -> None:
        self._ids += token_ids
        self.room -= len(token_ids)

    async def _sample(self, sampling: SamplingParams) -> Sample:
        """A turn. If it is still thinking after `thinking_tokens`, its thinking is ended and the turn goes on."""
        thinking = self.thinking_tokens
        if not 0 < thinking < sampling.max_tokens:
            return await self.watch.sample(self._ids, sampling)
        first = await self.watch.sample(self._ids, replace(sampling, max_tokens=thinking))
        end = self.renderer.end_of_thinking_ids(first.token_ids, after_tools=self._after_tools)
        begun = [*first.token_ids, *end]
        room = sampling.max_tokens - len(begun)
        if first.finish == "stop" or len(first.token_ids) < thinking or room < 1:
            return first
        rest = await self.watch.sample([*self._ids, *begun], replace(sampling, max_tokens=room))
        logprobs = [*first.logprobs, *([0.0] * len(end)), *rest.logprobs]  # (T,)
        forced = (len(first.token_ids), len(begun)) if end else (0, 0)
        return Sample([*begun, *rest.token_ids], logprobs, rest.finish, rest.policy_version, forced)


@dataclass
class ChatPlayer:
    """Plays an episode with a `ChatPolicy`: without token ids, and with the policy's own token counts, if any.

    Attributes:
        watch: Asks the policy.
        tools: JSON schemas.
        sampling: How to sample one turn.
        max_completion_tokens: Bounds the tokens that the policy counts after the prompt.
    """

    watch: Watchdog
    tools: Sequence[dict[str, Any]]
    sampling: SamplingParams
    max_completion_tokens: int

    def __post_init__(self) -> None:
        self._room = self.max_completion_tokens
        self._prompt_tokens: int | None = None

    async def speak(self, messages: Sequence[Message]) -> Turn | None:
        """Ask for a message; None if no token is left for one."""
        if self._room <= 0:
            return None
        sampling = replace(self.sampling, max_tokens=min(self.sampling.max_tokens, self._room))
        reply = await self.watch.reply(messages, self.tools, sampling)
        if reply.input_tokens is not None and reply.output_tokens is not None:
            if self._prompt_tokens is None:
                self._prompt_tokens = reply.input_tokens
            self._room = self.max_completion_tokens - (reply.input_tokens + reply.output_tokens - self._prompt_tokens)
        return Turn(Sample([], [], reply.finish), reply.message, generation_seconds=reply.seconds)

    def observe(self, turn: Turn, step: Step) -> tuple[list[int], StopReason | None]:
        """Nothing to append: the policy is given the whole conversation."""
        return [], step.stop


def _cut(observation: list[int], room: int, renderer: Renderer) -> list[int]:
    """Cut an observation to the room left, so that a truncated episode does not end on an end-of-turn token.

    Trainers recognise truncated completions by their last token; at least one token is kept.
    """
    observation = observation[: max(room, 1)]
    while len(observation) > 1 and observation[-1] in renderer.closing_ids:
        observation.pop()
    return observation


def renderer_of(renderer: Renderer, env: ToolEnv, task: Task) -> Renderer:
    """The renderer of an episode: its environment's template variables, overridden by its task's, and its user."""
    options = {**env.template_options, **task.template_options}
    return renderer.with_options(options, users=env.user is not None)
