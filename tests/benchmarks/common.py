"""Shared by the benchmarks: a tokenizer with a chat template, an environment of calls, a table."""

from __future__ import annotations

import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from toolrl import Limits, Renderer, Task, ToolEnv, call, say
from toolrl.tiny.tokenizer import train_tokenizer

EPISODES = 64
CALLS = 2
LIMITS = Limits(turns=CALLS + 2, completion_tokens=8192, turn_tokens=8192)


class Clock(TrainerCallback):
    """When steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join([f"### {title}", "", *(f"| {' | '.join(map(str, line))} |" for line in lines), ""])


def make_tokenizer() -> Any:
    """A small tokenizer with the template of Qwen2.5, which TRL can parse."""
    package = importlib.util.find_spec("trl")
    assert package is not None
    assert package.origin is not None
    template = (Path(package.origin).parent / "chat_templates" / "qwen2_5.jinja").read_text()
    tokenizer = train_tokenizer([template, *map(str, script()), *(task.prompt for task in tasks())])
    tokenizer.chat_template = template
    return tokenizer


def tasks() -> list[Task]:
    return [
        Task(str(n), f"Which entry number follows entry number {n} in the catalogue?", "42") for n in range(EPISODES)
    ]


def script() -> list[Any]:
    """The turns of the model in each episode: some calls, then the answer."""
    calls = [call("lookup", query=f"the catalogue's entry for part {part}, as of today") for part in range(CALLS)]
    return [*calls, say("42")]


def turns(renderer: Renderer) -> list[list[int]]:
    return [renderer.assistant_ids(message) for message in script()]


def no_reward(completions: list[Any], **_: Any) -> list[float | None]:
    return [0.0] * len(completions)


def make_trl_trainer(lookup: Callable[..., Any], renderer: Renderer) -> Any:
    """TRL's `GRPOTrainer(tools=[lookup])` around a small model, with the prompts of all episodes as one batch."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    from toolrl.tiny.make import make_model

    prompts = [{"prompt": [{"role": "user", "content": task.prompt}]} for task in tasks()]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return GRPOTrainer(
            model=make_model(len(renderer.tokenizer)),
            reward_funcs=no_reward,
            args=GRPOConfig(
                folder, per_device_train_batch_size=EPISODES, num_generations=2, max_completion_length=8192,
                report_to="none", use_cpu=True,
            ),
            train_dataset=Dataset.from_list(prompts),
            processing_class=renderer.tokenizer,
            tools=[lookup],
        )  # fmt: skip


def make_env(lookup: Callable[..., Any]) -> ToolEnv:
    return ToolEnv(
        tasks=tasks(), tools=[lookup], reward=lambda task, episode: float(episode.answer == task.answer), limits=LIMITS
    )
