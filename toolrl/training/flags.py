"""Which of TRL's settings hold here. One that would do nothing is refused, with the reason.

Each field of `GRPOConfig`, `SFTConfig`, `ModelConfig` and `ScriptArguments` (trl 1.16) has an entry in a table, and a
test finds fields without one: `None` if it does what TRL says, a text if it is refused, a `Needs` if it takes effect
only together with another setting. A value equal to the default is never refused.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel, Trainer, get_scheduler
from trl import GRPOConfig, ModelConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.errors import ConfigError, UserError
from toolrl.support.secret_values import is_secret

Values = Mapping[str, Any]


class Needs(NamedTuple):
    """A setting that takes effect only together with another one."""

    holds: Callable[[Values], bool]
    otherwise: str


Decision = str | Needs | None

_EVALUATION = (
    "toolrl plays held-out tasks itself, and keeps the best model in best/; pass --eval_steps and --eval_tasks"
)
_SFT_EVALUATION = "there is no evaluation during fine-tuning; afterwards, run: toolrl eval ENV --model OUTPUT_DIR/model"
_HUB = (
    "it would publish the whole run folder, with trajectories and settings; to publish the model alone, run: "
    "hf upload NAME OUTPUT_DIR/model"
)
_TRUNCATION = "truncated sampling biases the importance ratio; use --temperature"
_PRINTED = "trajectories.jsonl holds every episode; --sample_every prints some, `toolrl view` shows all"
_QUANTISATION = "quantised weights are not supported; to save memory, train an adapter (--use_peft) in --dtype bfloat16"
_SAMPLER = "generation always uses transformers' continuous batching; --generation_sequences sets the batch size"
_DISTRIBUTION = "groups depend on the order in which rows are distributed to processes"
_STATE = "toolrl does not use it"
_TOOLS = "the environment limits tool calls (Limits)"
_DATA = "tasks come from environments; pass --envs ID, and --env_settings to use your own data"


def _option(name: str, *values: Any) -> Callable[[Values], bool]:
    """Whether a setting has one of these values, or is on if there are none."""
    return lambda settings: settings.get(name) in values if values else bool(settings.get(name))


def _mode(settings: Values) -> Any:
    return settings.get("use_vllm") and settings.get("vllm_mode")


_ENGINE = Needs(
    lambda settings: settings.get("sampler") == "vllm" or _mode(settings) == "colocate",
    "it configures vLLM's engine; pass --sampler vllm",
)
_SERVER = Needs(
    lambda settings: _mode(settings) == "server",
    "it configures TRL's server mode; pass --use_vllm true --vllm_mode server, or --sampler URL",
)
_CORRECTION = Needs(
    lambda settings: bool(_mode(settings)) or settings.get("sampler", "transformers") != "transformers",
    "the trained model itself samples, so there is nothing to correct; pass --sampler vllm",
)
_ADAPTER = Needs(_option("use_peft"), "it configures an adapter; pass --use_peft true")
_CLIPPED = Needs(
    _option("loss_type", "grpo", "dr_grpo", "dapo", "bnpo", "luspo"), "this --loss_type clips in another way"
)
_SAPO = Needs(_option("loss_type", "sapo"), "it belongs to --loss_type sapo")
_VESPO = Needs(_option("loss_type", "vespo"), "it belongs to --loss_type vespo")
_REFERENCE = Needs(_option("sync_ref_model"), "pass --sync_ref_model true and --beta")
_ADAPTIVE = Needs(_option("use_adaptive_entropy"), "pass --use_adaptive_entropy true")
_TRACKED = Needs(
    lambda settings: settings.get("report_to") not in (None, "none", [], ["none"]),
    "it configures a tracker; pass --report_to wandb, or another one",
)
_TRACKIO = Needs(
    lambda settings: "trackio" in str(settings.get("report_to")), "it configures trackio; pass --report_to trackio"
)
_CHECKPOINTING = Needs(_option("gradient_checkpointing"), "pass --gradient_checkpointing true")
_PROJECTING = Needs(
    lambda settings: str(getattr(settings.get("optim"), "value", settings.get("optim"))).startswith(
        ("galore", "apollo", "lomo", "adalomo", "stable_adamw")
    ),
    "it configures optimisers such as GaLore; pass --optim galore_adamw, or another one",
)
_WORKERS = Needs(_option("dataloader_num_workers"), "pass --dataloader_num_workers")


def _supported(names: str) -> dict[str, Decision]:
    return dict.fromkeys(names.split())


def _refused(reason: Decision, names: str) -> dict[str, Decision]:
    return dict.fromkeys(names.split(), reason)


# transformers' TrainingArguments.
COMMON: dict[str, Decision] = {
    **_supported(
        "output_dir per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type "
        "lr_scheduler_kwargs warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon "
        "gradient_accumulation_steps max_grad_norm bf16 fp16 tf32 gradient_checkpointing torch_empty_cache_steps "
        "logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level "
        "log_level_replica report_to skip_memory_metrics save_only_model save_steps save_on_each_node save_total_limit "
        "enable_jit_checkpoint ignore_data_skip full_determinism seed use_cpu dataloader_num_workers "
        "dataloader_pin_memory remove_unused_columns ddp_find_unused_parameters ddp_bucket_cap_mb "
        "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed debug do_train "
        "resume_from_checkpoint local_rank disable_tqdm save_strategy"
    ),
    **_refused(_HUB, "push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push hub_revision"),
    **_refused(
        "the loss would be recompiled for the lengths of each step, and the sampler would not be compiled",
        "torch_compile torch_compile_backend torch_compile_mode",
    ),
    **_refused(
        "the sampler would not use these kernels, and TRL deprecates them",
        "use_liger_kernel liger_kernel_config",
    ),
    **_refused(_DISTRIBUTION, "accelerator_config parallelism_config dataloader_in_order auto_find_batch_size"),
    **_refused(_STATE, "restore_callback_states_from_checkpoint label_names length_column_name"),
    **_refused(_CHECKPOINTING, "gradient_checkpointing_kwargs"),
    **_refused(_PROJECTING, "optim_target_modules"),
    **_refused(_TRACKED, "run_name project"),
    **_refused(_TRACKIO, "trackio_space_id trackio_bucket_id trackio_static_space_id"),
    **_refused(_WORKERS, "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context"),
    **_refused("training does not use a cache", "use_cache"),
    **_refused("tokens are always counted (num_tokens)", "include_num_input_tokens_seen"),
}
_EVALUATION_FIELDS = (
    "eval_strategy eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start "
    "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics "
    "load_best_model_at_end metric_for_best_model greater_is_better do_eval do_predict bf16_full_eval fp16_full_eval"
)
GRPO: dict[str, Decision] = {
    **COMMON,
    **_refused(_EVALUATION, _EVALUATION_FIELDS + " num_generations_eval"),
    "eval_steps": Needs(_option("eval_tasks"), "it plays held-out tasks; pass --eval_tasks, at least 1"),
    **_supported(
        "model_init_kwargs trust_remote_code router_aux_loss_coef disable_dropout cast_lm_head_to_fp32 num_generations "
        "max_completion_length shuffle_dataset generation_batch_size steps_per_generation temperature use_vllm "
        "beta num_iterations importance_sampling_level reward_weights multi_objective_aggregation "
        "scale_rewards loss_type mask_truncated_completions sync_ref_model top_entropy_quantile entropy_coef "
        "use_adaptive_entropy off_policy_mask_threshold"
    ),
    "epsilon": _CLIPPED,
    "delta": _CLIPPED,
    "epsilon_high": Needs(
        _option("loss_type", "grpo", "dr_grpo", "dapo", "bnpo", "luspo", "cispo"), _CLIPPED.otherwise
    ),
    **_refused(_SAPO, "sapo_temperature_neg sapo_temperature_pos"),
    **_refused(_VESPO, "vespo_k_pos vespo_lambda_pos vespo_k_neg vespo_lambda_neg"),
    **_refused(_REFERENCE, "ref_model_mixup_alpha ref_model_sync_steps"),
    **_refused(_ADAPTIVE, "entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target"),
    "use_bias_correction_kl": Needs(_option("beta"), "without --beta there is no KL term"),
    **_refused(
        _ENGINE,
        "vllm_model_impl vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_tensor_parallel_size "
        "vllm_max_model_length",
    ),
    "vllm_mode": Needs(_option("use_vllm", True), "pass --use_vllm true"),
    **_refused(_SERVER, "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port"),
    **_refused(
        _CORRECTION,
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_clip_max "
        "vllm_importance_sampling_clip_min vllm_importance_sampling_cap",
    ),
    **_refused(_TRUNCATION, "top_p top_k min_p repetition_penalty generation_kwargs vllm_structured_outputs_regex"),
    **_refused(
        _SAMPLER,
        "cache_implementation use_transformers_continuous_batching transformers_continuous_batching_config "
        "use_transformers_paged",
    ),
    "chat_template_kwargs": "the environment or the task sets them (template_options)",
    "max_tool_calling_iterations": _TOOLS,
    "ds3_gather_for_generation": "the sampler never gathers weights; sharded weights need --sampler vllm",
    "pad_to_multiple_of": "rows of similar length are batched together and padded to the longest of them",
    **_refused(
        _PRINTED,
        "log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo",
    ),
    "label_smoothing_factor": "GRPO's loss has no labels",
    "average_tokens_across_devices": "GRPO's loss has its own normaliser (--loss_type)",
    "neftune_noise_alpha": "noise in the embeddings would make trainer and sampler different models",
    **_refused("--task_seed fixes the order of tasks, --seed everything else", "data_seed train_sampling_strategy"),
    "dataloader_drop_last": "batches are always complete",
}
SFT: dict[str, Decision] = {
    **COMMON,
    **_refused(_SFT_EVALUATION, _EVALUATION_FIELDS + " eval_steps eval_packing"),
    **_supported(
        "model_init_kwargs trust_remote_code router_aux_loss_coef max_length shuffle_dataset loss_type "
        "activation_offloading neftune_noise_alpha average_tokens_across_devices dataloader_drop_last data_seed "
        "pad_to_multiple_of train_sampling_strategy label_smoothing_factor"
    ),
    **_refused(
        "the renderer has already turned rows into tokens",
        "dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token truncation_mode",
    ),
    "chat_template_path": "pass --chat_template",
    **_refused(
        "without a flash attention kernel, packed demonstrations would attend to each other",
        "packing packing_strategy padding_free",
    ),
    **_refused("the loss always covers the assistant's tokens only", "completion_only_loss assistant_only_loss"),
}
MODEL: dict[str, Decision] = {
    **_supported("model_name_or_path model_revision dtype attn_implementation use_peft"),
    **_refused(
        _ADAPTER,
        "lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save use_rslora "
        "use_dora",
    ),
    "lora_task_type": "only causal language models are trained",
    **_refused(
        _QUANTISATION, "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage"
    ),
}
SCRIPT: dict[str, Decision] = _refused(
    _DATA,
    "dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming ignore_bias_buffers",
)
TABLES: dict[type, dict[str, Decision]] = {GRPOConfig: GRPO, SFTConfig: SFT, ModelConfig: MODEL}


@cache
def _defaults(kind: type) -> Any:
    return kind() if kind is ModelConfig else kind(output_dir="unused", use_cpu=True, bf16=False, report_to="none")


def refuse_unsupported(*parts: Any, **further: Any) -> None:
    """Refuse settings that would do nothing, or not what they say.

    Args:
        parts: Data classes of settings, TRL's and toolrl's.
        further: Settings that are in none of them.

    Raises:
        ConfigError: Names all of them, with the reasons.
    """
    values: dict[str, Any] = dict(further)
    for part in parts:
        values |= {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    found: dict[str, list[str]] = {}
    for part in parts:
        kind = next((kind for kind in TABLES if isinstance(part, kind)), None)
        for name, decision in TABLES[kind].items() if kind else ():
            value = getattr(part, name)
            if decision is None or value == getattr(_defaults(kind), name):
                continue
            if isinstance(decision, str) or not decision.holds(values):
                shown = "***" if is_secret(name, value) else repr(getattr(value, "value", value))
                reason = decision if isinstance(decision, str) else decision.otherwise
                found.setdefault(reason, []).append(f"--{name} {shown}")
    if found:
        reasons = "; ".join(f"remove {', '.join(names)}: {reason}" for reason, names in found.items())
        raise ConfigError(f"not supported here; {reasons}")


# What TRL, transformers, accelerate and peft raise for settings they reject.
_LIBRARIES = ("trl", "transformers", "accelerate", "peft", "safetensors", "datasets")
_REJECTIONS = (ValueError, TypeError, ImportError, RuntimeError, OSError, LookupError, ArithmeticError, AssertionError)


def _is_rejection(error: Exception) -> bool:
    if isinstance(error, UserError):  # already says what to do
        return False
    return isinstance(error, _REJECTIONS) or type(error).__module__.split(".")[0] in _LIBRARIES


@contextmanager
def rejections(library: str) -> Iterator[None]:
    """Turn what a library raises for its settings into a `ConfigError` with the same message."""
    try:
        yield
    except Exception as error:
        if not _is_rejection(error):
            raise
        kind = "" if type(error) in (ValueError, ImportError, RuntimeError) else f"{type(error).__name__}: "
        raise ConfigError(f"{library} rejects these settings: {kind}{' '.join(str(error).split())}") from error


def try_optimizer(args: GRPOConfig, model: PreTrainedModel) -> None:
    """Have transformers reject an optimiser or a schedule now, not after the first evaluation."""
    make, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    for name in ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"):
        default = next(field.default for field in dataclasses.fields(args) if field.name == name)
        plain = copy.copy(args)
        setattr(plain, name, default)
        if getattr(args, name) != default and Trainer.get_optimizer_cls_and_kwargs(plain, model)[1] == options:
            optim = getattr(args.optim, "value", args.optim)
            raise ConfigError(f"--optim {optim} takes no --{name}, got {getattr(args, name)!r}; remove it")
    if "optimizer_dict" in options or "params" in options:  # an optimiser that needs the model's layers
        return
    optimizer = make([torch.nn.Parameter(torch.zeros(1))], **options)
    schedule: Any = args.lr_scheduler_kwargs or {}
    get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(max(args.max_steps, 1)),
        num_training_steps=max(args.max_steps, 1),
        scheduler_specific_kwargs=dict(schedule),
    )


def start_training(trainer: Any, checkpoint: Path | None, has_started: Callable[[], bool]) -> None:
    """Run a TRL trainer to the end, from a checkpoint if one is given.

    Args:
        trainer: TRL's trainer.
        checkpoint: Where to resume.
        has_started: Whether a first step was reached; from then on errors are raised as they are.

    Raises:
        ConfigError: Training cannot start: the checkpoint does not fit, or a library rejects a setting late.
    """
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        if has_started() or not _is_rejection(error):
            raise
        origin = f" from {str(checkpoint)!r}" if checkpoint else ""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
        raise ConfigError(f"training cannot start{origin}: {reason}") from error
