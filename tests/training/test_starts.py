"""Promises about the start of a run: enough memory, adapters, settings without secrets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from trl import GRPOConfig, ModelConfig

from toolrl import ConfigError
from toolrl.policy.models import base_of_adapter, load_for_generation, load_model, load_tokenizer
from toolrl.tiny import PATH
from toolrl.training.arguments import ToolrlArguments
from toolrl.training.folder import write_config
from toolrl.training.loading import adapter_settings
from toolrl.training.memory import check_memory, estimate_memory, free_memory, read_size

CPU = torch.device("cpu")


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(config: Callable[..., GRPOConfig]) -> None:
    size = read_size("tiny")
    args = config(per_device_train_batch_size=64, gradient_accumulation_steps=3)
    memory = estimate_memory(size, args, 100, 4, on_cpu=True)
    fixed = memory.weights + memory.gradients + memory.optimizer + memory.sampling
    assert memory.activations is not None
    enough = fixed + memory.activations
    assert check_memory(size, args, 100, 4, device=CPU, free=enough) == ""
    # It fits unless all episodes have maximal length.
    warning = check_memory(size, args, 100, 4, device=CPU, free=enough - memory.activations // 3)
    assert "--per_device_train_batch_size 32 --gradient_accumulation_steps 6" in warning
    assert "--gradient_checkpointing true" in warning
    with pytest.raises(ConfigError, match="--per_device_train_batch_size 16 --gradient_accumulation_steps 12"):
        check_memory(size, args, 100, 4, device=CPU, free=fixed + memory.activations // 3)
    with pytest.raises(ConfigError, match="a smaller model, or an adapter"):
        check_memory(size, args, 100, 4, device=CPU, free=fixed // 2)


def test_processes_of_a_machine_share_its_memory(
    config: Callable[..., GRPOConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    size, args = read_size("tiny"), config()
    memory = estimate_memory(size, args, 0, 4, on_cpu=True)
    enough = int((memory.training or 0) + memory.sampling)
    assert not check_memory(size, args, 0, 4, device=CPU, free=enough)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError):
        check_memory(size, args, 0, 4, device=CPU, free=enough)


def test_free_memory_is_at_most_the_machines() -> None:
    total = int(next(line for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line).split()[1])
    assert 0 < free_memory(CPU) <= total * 1024


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a LoRA run leaves it in its folder."""
    folder = tmp_path_factory.mktemp("lora") / "model"
    model = get_peft_model(load_model("tiny"), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    load_tokenizer("tiny").save_pretrained(folder)
    return folder


def test_an_adapter_is_trained_on_and_sampled_with(adapter: Path) -> None:
    assert base_of_adapter(str(adapter)) == str(PATH)
    assert base_of_adapter("tiny") is None
    trained = load_model(str(adapter))
    assert isinstance(trained, PeftModel)
    names = [name for name, parameter in trained.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    ids = torch.tensor([load_tokenizer(str(adapter)).encode("What is 2 + 2?")])
    sampled = load_for_generation(str(adapter), "cpu")
    with torch.no_grad():
        expected, plain = trained.eval()(ids).logits, load_model("tiny").eval()(ids).logits
        assert torch.allclose(sampled.eval()(ids).logits, expected, atol=1e-5)
    assert not torch.allclose(expected, plain, atol=1e-2)
    size = read_size(str(adapter))
    assert size.trainable == sum(p.numel() for p in trained.parameters() if p.requires_grad)


def test_an_adapter_keeps_its_settings(adapter: Path) -> None:
    assert adapter_settings(str(adapter), ModelConfig()) is None
    assert adapter_settings(str(adapter), ModelConfig(use_peft=True)) is None
    assert adapter_settings(str(adapter), ModelConfig(use_peft=True, lora_r=4)) is None
    with pytest.raises(ConfigError, match="an adapter with r=4, which stays"):
        adapter_settings(str(adapter), ModelConfig(use_peft=True, lora_r=64))


def test_a_missing_base_model_of_an_adapter_is_named(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(
        (adapter / "adapter_config.json").read_text().replace(str(PATH), "/nowhere/at/all")
    )
    with pytest.raises(ConfigError, match="/nowhere/at/all"):
        load_model(str(tmp_path))


def test_the_config_of_a_run_has_no_secret(config: Callable[..., GRPOConfig], tmp_path: Path) -> None:
    text = '{"toolrl/OpenQA-v0": {"api_key": "a-secret-of-mine", "retriever": "http://u:pa55word@h"}}'
    arguments = ToolrlArguments(envs=["toolrl/OpenQA-v0"], env_settings=text, sampler="http://u:pa55word@h:1")
    write_config(tmp_path / "config.yaml", arguments, config(), ModelConfig())
    written = (tmp_path / "config.yaml").read_text()
    assert "a-secret-of-mine" not in written
    assert "pa55word" not in written
    assert "${TOOLRL_API_KEY}" in written
    assert yaml.safe_load(written)["envs"] == ["toolrl/OpenQA-v0"]
