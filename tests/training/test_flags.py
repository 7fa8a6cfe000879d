"""Promises about TRL's settings: each takes effect or is refused with a reason; a wrong value is one clear error."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig, ModelConfig, ScriptArguments, SFTConfig

from toolrl import ConfigError
from toolrl.training import parse_arguments, parse_sft_arguments
from toolrl.training.flags import SCRIPT, TABLES, refuse_unsupported

BASE = ["--envs", "toolrl/PythonMath-v0", "--use_cpu=true", "--bf16=false", "--output_dir=unused"]


@pytest.mark.parametrize(("kind", "table"), [*TABLES.items(), (ScriptArguments, SCRIPT)])
def test_every_setting_of_trl_has_a_decision(kind: Any, table: dict[str, Any]) -> None:
    assert {field.name for field in dataclasses.fields(kind)} == set(table)


def test_a_default_is_never_refused() -> None:
    refuse_unsupported(GRPOConfig(output_dir="x", use_cpu=True, bf16=False), ModelConfig(), sampler="transformers")
    refuse_unsupported(SFTConfig(output_dir="x", use_cpu=True, bf16=False), ModelConfig())


@pytest.mark.parametrize(
    "flags",
    [
        "--load_in_4bit=true", "--load_in_8bit", "--bnb_4bit_quant_type=fp4", "--use_bnb_nested_quant=true",
        "--bnb_4bit_quant_storage=uint8", "--top_p=0.9", "--top_k=5", "--min_p=0.1", "--repetition_penalty=1.1",
        '--generation_kwargs={"min_p": 0.1}', '--chat_template_kwargs={"enable_thinking": false}', "--log_completions",
        "--num_completions_to_print=3", "--log_unique_prompts", "--eval_strategy=steps", "--num_generations_eval=4",
        "--per_device_eval_batch_size=4", "--push_to_hub", "--hub_model_id=me/mine", "--torch_compile",
        "--use_liger_kernel", "--cache_implementation=static", "--use_transformers_paged", "--data_seed=3",
        "--max_tool_calling_iterations=3", "--pad_to_multiple_of=8", "--neftune_noise_alpha=5",
        "--label_smoothing_factor=0.1", '--accelerator_config={"split_batches": true}', "--load_best_model_at_end",
        "--metric_for_best_model=loss", "--dataloader_drop_last", "--include_num_input_tokens_seen=true",
        # These configure something that is not in use.
        "--lora_r=64", "--lora_target_modules=q_proj", "--use_dora", "--vllm_mode=server", "--vllm_server_port=9",
        "--vllm_gpu_memory_utilization=0.5", "--vllm_enable_sleep_mode", "--vllm_max_model_length=100",
        "--vllm_importance_sampling_correction=false", "--vllm_importance_sampling_mode=token_mask",
        "--ref_model_mixup_alpha=0.5", "--entropy_target=0.5", "--sapo_temperature_neg=2", "--vespo_k_pos=1",
        "--run_name=mine", "--trackio_space_id=x", "--optim_target_modules=q_proj", "--use_bias_correction_kl=false",
        '--gradient_checkpointing_kwargs={"use_reentrant": true} --gradient_checkpointing=false',
        "--epsilon=0.1 --loss_type=sapo", "--dataset_name=x", "--dataset_streaming=true",
    ],
)  # fmt: skip
def test_a_setting_that_would_do_nothing_is_refused_by_name(flags: str) -> None:
    parts = [flags] if flags.startswith(("--generation_kwargs", "--chat", "--accel")) else _split(flags)
    with pytest.raises(ConfigError) as error:
        parse_arguments([*BASE, *parts])
    assert parts[0].split("=")[0] in str(error.value)
    assert "not supported" in str(error.value) or "--load_best" in flags  # TRL's own words


def _split(flags: str) -> list[str]:
    return flags.replace(": ", ":").split(" ")


@pytest.mark.parametrize(
    "flags",
    [
        ["--use_peft", "--lora_r=64", "--use_rslora"], ["--loss_type=sapo", "--sapo_temperature_neg=2"],
        ["--beta=0.1", "--sync_ref_model", "--ref_model_mixup_alpha=0.5"], ["--load_in_4bit=false"],
        ["--sampler=vllm", "--vllm_gpu_memory_utilization=0.5", "--vllm_importance_sampling_mode=token_mask"],
        ["--use_adaptive_entropy", "--entropy_target=0.5"], ["--mask_truncated_completions", "--disable_dropout"],
    ],
)  # fmt: skip
def test_a_setting_is_accepted_together_with_the_one_it_needs(flags: list[str]) -> None:
    assert parse_arguments([*BASE, *flags])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--loss_type=foo"], "must be one of grpo"),
        (["--loss_type=nll"], "must be one of grpo"),
        (["--scale_rewards=foo"], "must be one of group, batch, none"),
        (["--importance_sampling_level=foo"], "must be one of token, sequence"),
        (["--report_to=mlflow"], "pip install mlflow"),
        (["--report_to=nonsense"], "got 'nonsense'"),
        (["--max_steps=abc"], "invalid int value: 'abc'"),
        (["--learning_rate=nan"], "finite"),
        (["--temperature=0"], "above 0"),
        (["--per_device_train_batch_size=0"], "at least 1"),
        (["--adam_beta1=1.5"], "within 0 and 1"),
        (["--gradient_checkpointing=maybe"], "got maybe"),
        (["--learning_rte=3"], "did you mean --learning_rate"),
        (["stray"], "'stray' belongs to no flag"),
        (["--model_init_kwargs={"], "rejects these settings"),
        (["--bf16=true", "--fp16=true"], "not both"),
        (["--save_strategy=best"], "must be one of no, steps, epoch"),
        (["--eval_tasks=-1"], "at least 0"),
        (["--config"], "--config needs a value"),
        (["--config=tiny", "--config", "tiny"], "--config is given twice"),
        (["--learning_rate", "-1e-5"], "at least 0, got -1e-05"),
        (["--max_steps=0"], "at least 1, or -1"),
    ],
)
def test_a_wrong_value_is_refused_before_anything_is_loaded(flags: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_arguments([*BASE, *flags])
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss_type: foo", "must be one of"),
        ("max_steps: 3.5", "invalid int"),
        ("temperature: null", "temperature has no value"),
        ("bf16: perhaps", "got perhaps"),
        ("learning_rte: 1", "did you mean"),
        ("- a", "must be a YAML mapping"),
        ("a: [", "cannot be read"),
        ("load_in_4bit: true", "not supported"),
        ("learning_rate: [1.0e-5]", "learning_rate takes one value"),
        ("gradient_checkpointing: [false]", "takes one value"),
        ("env_settings: {a/B-v0: {since: 2026-01-01}}", "env_settings cannot be passed on as JSON"),
        ("learning-rate: -1", "--learning_rate must be at least 0"),
    ],
)
def test_a_config_is_read_as_the_flags_it_stands_for(tmp_path: Path, text: str, expected: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        parse_arguments([f"--config={file}", *BASE])
    assert expected in str(error.value)


def test_a_config_may_hold_lists_mappings_and_a_single_environment(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "envs: toolrl/PythonMath-v0\nenv_settings: {toolrl/PythonMath-v0: {size: 5}}\nscale_rewards: false\n"
        "lr_scheduler_kwargs: {min_lr: 1.0e-7}\nlr_scheduler_type: cosine_with_min_lr\nlearning_rate: 1e-5\ndebug: []\n"
        "use_cpu: true\nbf16: false\nmax_steps: 3\nreward_weights: [-1.0e-5]\n"
    )
    arguments, args, _ = parse_arguments([f"--config={file}", "--max_steps=4"])
    assert arguments.envs == ["toolrl/PythonMath-v0"]
    assert len(arguments.make_envs("train")["toolrl/PythonMath-v0"].tasks) == 5
    assert (args.scale_rewards, args.lr_scheduler_kwargs, args.max_steps) == ("none", {"min_lr": 1e-7}, 4)
    assert args.learning_rate == 1e-5


def test_scale_rewards_takes_true_and_false() -> None:
    assert parse_arguments([*BASE, "--scale_rewards=false"])[1].scale_rewards == "none"
    assert parse_arguments([*BASE, "--scale_rewards=True"])[1].scale_rewards == "group"


def test_fine_tuning_has_its_own_decisions() -> None:
    base = ["--dataset=x", "--use_cpu=true", "--bf16=false", "--output_dir=unused"]
    for flag in ("--packing", "--eos_token=x", "--completion_only_loss=true", "--eval_strategy=steps", "--lora_r=3"):
        with pytest.raises(ConfigError, match="not supported"):
            parse_sft_arguments([*base, flag])
    with pytest.raises(ConfigError, match="choose from 'nll', 'dft'"):
        parse_sft_arguments([*base, "--loss_type=grpo"])
    assert parse_sft_arguments([*base, "--loss_type=dft", "--max_length=100"])
