"""Promises about `toolrl train --dry_run`: nothing is loaded or written, and it prints what a run would do."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config
from trl import GRPOConfig

from tests.training.commands import command
from toolrl import ConfigError
from toolrl.policy.models import load_model
from toolrl.tiny import PATH
from toolrl.training.memory import estimate_memory, read_size

# As published with Qwen/Qwen3-0.6B, whose card counts 0.6 B parameters.
QWEN3_600M = {
    "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def big(tmp_path: Path) -> Path:
    """A folder with the configuration of a real model, a tokenizer, and no weights."""
    folder = tmp_path / "big"
    shutil.copytree(PATH, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    Qwen3Config(**QWEN3_600M).save_pretrained(folder)
    return folder


def test_a_model_is_counted_without_its_weights(big: Path) -> None:
    size = read_size(str(big))
    assert size.parameters == size.trainable == 596_049_920
    assert size.cached == 2 * 28 * 8 * 128


def test_the_count_equals_that_of_the_loaded_model_with_and_without_an_adapter() -> None:
    model = load_model("tiny")
    adapter = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    assert read_size("tiny").parameters == model.num_parameters()
    trainable, parameters = get_peft_model(model, adapter).get_nb_trainable_parameters()
    size = read_size("tiny", peft_config=adapter)
    assert (size.trainable, size.parameters) == (trainable, parameters - trainable)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimated_activations_are_those_that_autograd_keeps(tmp_path: Path, checkpointing: bool) -> None:
    small = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Qwen3Config(**{**QWEN3_600M, **small, "num_key_value_heads": 2, "vocab_size": 1000})
    config.save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=torch.zeros((2, 256), dtype=torch.long))
    measured = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    size = read_size(str(tmp_path))
    assert size.activations is not None
    assert size.checkpointed is not None
    estimated = size.checkpointed - size.activations / 4 if checkpointing else size.activations
    assert estimated * 2 * 256 == pytest.approx(measured, rel=0.25)


def test_memory_follows_from_the_batch_the_optimizer_and_the_trained_parameters(
    big: Path, config: Callable[..., GRPOConfig]
) -> None:
    size = read_size(str(big))
    full = estimate_memory(size, config(), 100, 4)
    assert full.weights == full.gradients == full.optimizer // 2 == 4 * 596_049_920
    assert estimate_memory(size, config(beta=0.1), 100, 4).weights == 2 * full.weights
    assert full.activations is not None
    checkpointed = estimate_memory(size, config(gradient_checkpointing=True), 100, 4)
    assert checkpointed.activations is not None
    assert checkpointed.activations < full.activations / 8
    twice = estimate_memory(size, config(per_device_train_batch_size=16), 100, 4)
    assert twice.activations == pytest.approx(2 * full.activations, abs=2)
    unknown = estimate_memory(dataclasses.replace(size, activations=None), config(), 100, 4)
    assert (unknown.activations, unknown.training) == (None, None)
    adapter = estimate_memory(dataclasses.replace(size, trainable=10), config(beta=0.1), 100, 4)
    assert (adapter.weights, adapter.gradients) == (full.weights, 40)


def test_it_plays_the_oracle_and_writes_nothing(big: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "train",
        "--dry_run",
        f"--model_name_or_path={big}",
        "--envs",
        "toolrl/PythonMath-v0",
        "--use_cpu=true",
    ]
    settings = ["--max_steps=3", "--num_generations=4", "--per_device_train_batch_size=8", "--bf16=false"]
    assert command(*arguments, *settings, f"--output_dir={tmp_path / 'out'}") == 0
    printed = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert printed.count("PythonMath") == 4
    assert "8 episodes = 2 tasks x 4" in printed
    assert "596.0 M parameters" in printed


def test_a_dry_run_refuses_what_training_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "--dry_run", "--model_name_or_path=tiny", "--envs", "toolrl/PythonMath-v0", "--use_cpu=true"]
    assert command(*arguments, "--top_p=0.9", "--bf16=false", f"--output_dir={tmp_path / 'out'}") == 2
    assert "truncated sampling" in capsys.readouterr().err


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="configuration of the model"):
        read_size(str(tmp_path))
