"""Which of TRL's settings hold here. One that does nothing is refused, with the reason; a test finds undecided ones.

Each field of `GRPOConfig`, `SFTConfig`, `ModelConfig` and `ScriptArguments` (trl 1.16) stands in a table: `None` where
it does what TRL says, a text where it is refused, a `Needs` where it holds only beside another one. A value that equals
the default asks for nothing, and is never refused.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from trl import GRPOConfig, ModelConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.errors import ConfigError
from toolrl.support.secret_values import is_secret

Values = Mapping[str, Any]


class Needs(NamedTuple):
    """A setting that holds only where another one says so."""

    holds: Callable[[Values], bool]
    otherwise: str


Decision = str | Needs | None

_EVALUATION = "nothing is evaluated while training; held-out tasks are played before and after it (--eval_tasks)"
_SFT_EVALUATION = "nothing is evaluated while training; afterwards: toolrl eval ENV --model OUTPUT_DIR/model"
_HUB = (
    "it would publish the whole run folder, trajectories and settings included; publish the model alone: "
    "hf upload NAME OUTPUT_DIR/model"
)
_TRUNCATED = "truncated sampling biases the importance ratio; only --temperature shapes what is sampled"
_PRINTED = "trajectories.jsonl holds every episode whole; --sample_every prints some, `toolrl view` shows all"
_QUANTISED = (
    "weights are trained and sampled as they are; train an adapter (--use_peft) in --dtype bfloat16 to save memory"
)
_SAMPLER = "generation is transformers' continuous batching in any case; --generation_sequences sets how much at once"
_DEALING = "how rows are dealt to processes decides which episodes form a group"
_STATE = "nothing here has such a state"
_TOOLS = "a limit on calls is the environment's (Limits)"
_DATA = "tasks come from environments; pass --envs ID, and --env_settings for data sets of one's own"


def _option(name: str, *values: Any) -> Callable[[Values], bool]:
    return lambda settings: settings.get(name) in values


def _uses_vllm(settings: Values) -> bool:
    return bool(settings.get("use_vllm")) or settings.get("sampler", "transformers") != "transformers"


def _has_engine(settings: Values) -> bool:
    return settings.get("sampler") == "vllm" or (
        bool(settings.get("use_vllm")) and settings.get("vllm_mode") == "colocate"
    )


def _asks_a_server(settings: Values) -> bool:
    return bool(settings.get("use_vllm")) and settings.get("vllm_mode") == "server"


def _tracks(settings: Values) -> bool:
    return settings.get("report_to") not in (None, "none", [], ["none"])


def _reports_to(tracker: str) -> Callable[[Values], bool]:
    return lambda settings: tracker in str(settings.get("report_to"))


_ENGINE = Needs(_has_engine, "it is of vLLM's engine; pass --sampler vllm")
_SERVER = Needs(_asks_a_server, "it is of TRL's server mode; pass --use_vllm true --vllm_mode server, or --sampler URL")
_CORRECTION = Needs(_uses_vllm, "there is nothing to correct: the trained model itself samples; pass --sampler vllm")
_ADAPTER = Needs(lambda settings: bool(settings.get("use_peft")), "it is of an adapter; pass --use_peft true")
_CLIPPED = Needs(
    _option("loss_type", "grpo", "dr_grpo", "dapo", "bnpo", "luspo"),
    "this --loss_type clips in another way, without it",
)
_SAPO = Needs(_option("loss_type", "sapo"), "it is of --loss_type sapo")
_VESPO = Needs(_option("loss_type", "vespo"), "it is of --loss_type vespo")
_REFERENCE = Needs(lambda settings: bool(settings.get("sync_ref_model")), "pass --sync_ref_model true and --beta")
_ADAPTIVE = Needs(lambda settings: bool(settings.get("use_adaptive_entropy")), "pass --use_adaptive_entropy true")
_TRACKED = Needs(_tracks, "it is for a tracker; pass --report_to wandb, or another one")
_TRACKIO = Needs(_reports_to("trackio"), "it is for trackio; pass --report_to trackio")
_CHECKPOINTING = Needs(
    lambda settings: bool(settings.get("gradient_checkpointing")), "pass --gradient_checkpointing true"
)
_PROJECTING = Needs(
    lambda settings: str(getattr(settings.get("optim"), "value", settings.get("optim"))).startswith(
        ("galore", "apollo", "lomo", "adalomo", "stable_adamw")
    ),
    "it is of the optimisers galore and apollo; pass --optim galore_adamw, or another one",
)
_WORKERS = Needs(lambda settings: int(settings.get("dataloader_num_workers") or 0) > 0, "pass --dataloader_num_workers")


def _honoured(names: str) -> dict[str, Decision]:
    return dict.fromkeys(names.split())


def _refused(reason: Decision, names: str) -> dict[str, Decision]:
    return dict.fromkeys(names.split(), reason)


# transformers' TrainingArguments.
COMMON: dict[str, Decision] = {
    **_honoured(
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
        "compiled, the loss would be compiled anew for each step's lengths, and the sampler would not be",
        "torch_compile torch_compile_backend torch_compile_mode",
    ),
    **_refused(
        "the sampler would go on without these kernels; they are deprecated in TRL, too",
        "use_liger_kernel liger_kernel_config",
    ),
    **_refused(_DEALING, "accelerator_config parallelism_config dataloader_in_order auto_find_batch_size"),
    **_refused(_STATE, "restore_callback_states_from_checkpoint label_names length_column_name"),
    **_refused(_CHECKPOINTING, "gradient_checkpointing_kwargs"),
    **_refused(_PROJECTING, "optim_target_modules"),
    **_refused(_TRACKED, "run_name project"),
    **_refused(_TRACKIO, "trackio_space_id trackio_bucket_id trackio_static_space_id"),
    **_refused(_WORKERS, "dataloader_persistent_workers dataloader_prefetch_factor dataloader_multiprocessing_context"),
    **_refused("it is of no use while training", "use_cache"),
    **_refused("the tokens are counted in any case (num_tokens)", "include_num_input_tokens_seen"),
}
_OF_EVALUATION = (
    "eval_strategy eval_steps eval_delay per_device_eval_batch_size prediction_loss_only eval_on_start "
    "eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics batch_eval_metrics "
    "load_best_model_at_end metric_for_best_model greater_is_better do_eval do_predict bf16_full_eval fp16_full_eval"
)
GRPO: dict[str, Decision] = {
    **COMMON,
    **_refused(_EVALUATION, _OF_EVALUATION + " num_generations_eval"),
    **_honoured(
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
    "use_bias_correction_kl": Needs(lambda settings: bool(settings.get("beta")), "there is no KL term without --beta"),
    **_refused(_ENGINE, "vllm_model_impl vllm_enable_sleep_mode vllm_gpu_memory_utilization vllm_tensor_parallel_size"),
    "vllm_max_model_length": _ENGINE,
    "vllm_mode": Needs(_option("use_vllm", True), "pass --use_vllm true"),
    **_refused(_SERVER, "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout vllm_group_port"),
    **_refused(
        _CORRECTION,
        "vllm_importance_sampling_correction vllm_importance_sampling_mode vllm_importance_sampling_clip_max "
        "vllm_importance_sampling_clip_min vllm_importance_sampling_cap",
    ),
    **_refused(_TRUNCATED, "top_p top_k min_p repetition_penalty generation_kwargs vllm_structured_outputs_regex"),
    **_refused(
        _SAMPLER,
        "cache_implementation use_transformers_continuous_batching transformers_continuous_batching_config "
        "use_transformers_paged",
    ),
    "chat_template_kwargs": "options of the template are the environment's or a task's (template_options)",
    "max_tool_calling_iterations": _TOOLS,
    "ds3_gather_for_generation": "what samples is never gathered: split weights need --sampler vllm",
    "pad_to_multiple_of": "rows of like length go through the model together, cut to the longest of them",
    **_refused(
        _PRINTED,
        "log_completions log_multimodal num_completions_to_print log_unique_prompts log_completions_hub_repo",
    ),
    "label_smoothing_factor": "GRPO's loss has no labels",
    "average_tokens_across_devices": "GRPO's loss has a normaliser of its own (--loss_type)",
    "neftune_noise_alpha": "noise in the embeddings would make the trainer another model than the sampler",
    **_refused("the order of tasks is --task_seed's, and of a run --seed's", "data_seed train_sampling_strategy"),
    "dataloader_drop_last": "batches are whole in any case",
}
SFT: dict[str, Decision] = {
    **COMMON,
    **_refused(_SFT_EVALUATION, _OF_EVALUATION + " eval_packing"),
    **_honoured(
        "model_init_kwargs trust_remote_code router_aux_loss_coef max_length shuffle_dataset loss_type "
        "activation_offloading neftune_noise_alpha average_tokens_across_devices dataloader_drop_last data_seed "
        "pad_to_multiple_of train_sampling_strategy label_smoothing_factor"
    ),
    **_refused(
        "rows are tokens already, as the renderer writes them",
        "dataset_text_field dataset_kwargs dataset_num_proc eos_token pad_token truncation_mode",
    ),
    "chat_template_path": "pass --chat_template",
    **_refused(
        "demonstrations stay apart: packed, they would see each other unless attention is a flash kernel",
        "packing packing_strategy padding_free",
    ),
    **_refused(
        "the loss is on the assistant's tokens in any case; remove it", "completion_only_loss assistant_only_loss"
    ),
}
MODEL: dict[str, Decision] = {
    **_honoured("model_name_or_path model_revision dtype attn_implementation use_peft"),
    **_refused(
        _ADAPTER,
        "lora_r lora_alpha lora_dropout lora_target_modules lora_target_parameters lora_modules_to_save use_rslora "
        "use_dora",
    ),
    "lora_task_type": "what is trained is a causal language model",
    **_refused(_QUANTISED, "load_in_8bit load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage"),
}
SCRIPT: dict[str, Decision] = _refused(
    _DATA,
    "dataset_name dataset_config dataset_train_split dataset_test_split dataset_streaming ignore_bias_buffers",
)
TABLES: dict[type, dict[str, Decision]] = {GRPOConfig: GRPO, SFTConfig: SFT, ModelConfig: MODEL}


@cache
def _defaults(kind: type) -> Any:
    return kind() if kind is ModelConfig else kind(output_dir="unused", use_cpu=True, bf16=False, report_to="none")


def table_of(part: Any) -> dict[str, Decision]:
    """The decisions on a data class of TRL's; none on one of ours."""
    return next((table for kind, table in TABLES.items() if isinstance(part, kind)), {})


def refuse_unhonoured(*parts: Any, **further: Any) -> None:
    """Refuse settings that would do nothing, or not what they say.

    Args:
        parts: Data classes of TRL's and ours.
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
        if kind is None:
            continue
        for name, decision in TABLES[kind].items():
            value = getattr(part, name)
            if decision is None or value == getattr(_defaults(kind), name):
                continue
            reason = decision if isinstance(decision, str) else decision.otherwise
            if isinstance(decision, str) or not decision.holds(values):
                shown = "***" if is_secret(name, value) else repr(getattr(value, "value", value))
                found.setdefault(reason, []).append(f"--{name} {shown}")
    if found:
        raise ConfigError(
            "not supported here; "
            + "; ".join(f"remove {', '.join(names)}: {reason}" for reason, names in found.items())
        )
