from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import (
    Episode,
    Limits,
    Message,
    Renderer,
    RolloutEngine,
    RolloutRequest,
    Sample,
    SamplingParams,
    Task,
    ToolEnv,
    Trajectory,
    tool,
)
from toolrl.policy import ScriptedPolicy


@pytest.fixture(scope="session")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))


class RecordingPolicy(ScriptedPolicy):
    """Plays turns and records its prompts; each logprob is -0.5.

    Attributes:
        prompts: The submitted prompts.
        contexts: "entered", then "left" or "broken": the course of `generating`.
    """

    def __init__(self, turns: list[list[int]], instead: Callable[[int], Future[Sample] | None] | None) -> None:
        super().__init__(turns)
        self.prompts: list[list[int]] = []
        self.contexts: list[str] = []
        self._instead = instead

    def submit(self, prompt_ids: list[int], sampling: SamplingParams) -> Future[Sample]:
        self.prompts.append(list(prompt_ids))
        other = self._instead(len(self.prompts)) if self._instead else None
        if other is not None:
            return other
        scripted = super().submit(prompt_ids, sampling).result()
        future: Future[Sample] = Future()
        future.set_result(Sample(scripted.token_ids, [-0.5] * len(scripted.token_ids), scripted.finish))
        return future

    @contextmanager
    def generating(self) -> Iterator[None]:
        self.contexts.append("entered")
        try:
            yield
        except BaseException:
            self.contexts.append("broken")
            raise
        self.contexts.append("left")


@pytest.fixture
def make_player(renderer: Renderer) -> Callable[..., RecordingPolicy]:
    """A policy that plays messages or token ids; `instead(n)` may replace its n-th turn, from 1."""

    def make(
        *turns: Message | list[int], instead: Callable[[int], Future[Sample] | None] | None = None
    ) -> RecordingPolicy:
        return RecordingPolicy(
            [renderer.assistant_ids(turn) if isinstance(turn, Message) else turn for turn in turns], instead
        )

    return make


@tool
def lookup(key: str) -> str:
    """Look something up.

    Args:
        key: What.
    """
    return f"the value of {key}"


def exact(task: Task, episode: Episode) -> float:
    return float(episode.answer == task.answer)


@pytest.fixture
def make_env() -> Callable[..., ToolEnv]:
    """An environment with one task, whose answer is 4, `lookup` and other tools, and limits by keyword."""

    def make(*tools: Any, reward: Callable[[Task, Episode], float] = exact, **limits: Any) -> ToolEnv:
        return ToolEnv(
            tasks=[Task("sum", "What is 2 + 2?", "4")],
            tools=[lookup, *tools],
            reward=reward,
            limits=Limits(**limits),
        )

    return make


@pytest.fixture
def play(renderer: Renderer) -> Callable[..., list[Trajectory]]:
    """Plays the task of an environment, several times if asked; keywords are settings of the engine."""

    def play(policy: RecordingPolicy, env: ToolEnv, episodes: int = 1, **settings: Any) -> list[Trajectory]:
        settings = {"sampling": SamplingParams(max_tokens=4096), "backoff_seconds": 0, **settings}
        requests = [RolloutRequest(env, env.tasks[0], id=str(index)) for index in range(episodes)]
        return RolloutEngine(policy, renderer, **settings).run(requests)

    return play
