"""Whether values of settings can be: the types' own checks are argparse's, these are what TRL finds out too late."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from transformers.integrations.integration_utils import get_available_reporting_integrations

from toolrl.errors import ConfigError, UserError

# What constructors of TRL, transformers, accelerate and peft raise at settings that they refuse.
LIBRARIES = ("trl", "transformers", "accelerate", "peft", "safetensors", "datasets")
REFUSALS = (ValueError, TypeError, ImportError, RuntimeError, OSError, LookupError, ArithmeticError, AssertionError)

CHOICES: dict[str, tuple[str, ...]] = {
    # TRL reads these when the first batch has been played.
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo"),
    "scale_rewards": ("group", "batch", "none"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "vllm_mode": ("colocate", "server"),
    "vllm_model_impl": ("vllm", "transformers"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "dtype": ("float32", "bfloat16", "float16", "auto"),
    "save_strategy": ("no", "steps", "epoch"),
}
AT_LEAST: dict[float, tuple[str, ...]] = {
    2: ("num_generations",),
    1: (
        "per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size",
        "num_iterations", "max_completion_length", "max_turn_tokens", "concurrency", "eval_samples", "lora_r",
        "lora_alpha", "ref_model_sync_steps", "save_total_limit", "max_length", "vllm_max_model_length",
        "vllm_tensor_parallel_size",
    ),
    0: (
        "eval_tasks", "task_seed", "train_tasks", "retries", "generation_sequences", "mismatch_limit", "sample_every",
        "learning_rate", "weight_decay", "warmup_steps", "adam_epsilon", "max_grad_norm", "beta", "epsilon",
        "epsilon_high", "delta", "seed", "dataloader_num_workers", "off_policy_mask_threshold", "ddp_timeout",
    ),
}  # fmt: skip
ABOVE_ZERO = (
    "temperature", "num_train_epochs", "logging_steps", "save_steps", "sapo_temperature_neg", "sapo_temperature_pos",
    "top_entropy_quantile",
)  # fmt: skip
AT_MOST_ONE = (
    "adam_beta1", "adam_beta2", "lora_dropout", "top_entropy_quantile", "ref_model_mixup_alpha",
    "label_smoothing_factor", "vllm_gpu_memory_utilization",
)  # fmt: skip


def check_values(values: MutableMapping[str, Any]) -> None:
    """Refuse values that cannot be, before anything is built from them; `scale_rewards` is brought into one spelling.

    Raises:
        ConfigError: Names the flag, its value, and what it may be.
    """
    if "scale_rewards" in values:
        text = str(values["scale_rewards"]).lower()
        values["scale_rewards"] = {"true": "group", "false": "none"}.get(text, text)
    for name, choices in CHOICES.items():
        value = values.get(name)
        if name == "loss_type" and "num_generations" not in values:
            continue  # of fine-tuning, with choices of its own
        if value is not None and str(getattr(value, "value", value)) not in choices:
            raise ConfigError(
                f"--{name} must be one of {', '.join(choices)}; got {value!r}{_near(str(value), choices)}"
            )
    for name, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"--{name} must be a finite number, got {number!r}")
    for least, names in AT_LEAST.items():
        for name in names:
            if (number := _number(values, name)) is not None and number < least:
                raise ConfigError(f"--{name} must be at least {least:g}, got {values[name]!r}")
    for name in ABOVE_ZERO:
        if (number := _number(values, name)) is not None and number <= 0:
            raise ConfigError(f"--{name} must be above 0, got {values[name]!r}")
    for name in AT_MOST_ONE:
        if (number := _number(values, name)) is not None and not 0 <= number <= 1:
            raise ConfigError(f"--{name} must be within 0 and 1, got {values[name]!r}")
    if (steps := _number(values, "max_steps")) is not None and steps <= 0 and steps != -1:
        raise ConfigError(f"--max_steps must be at least 1, or -1 for --num_train_epochs; got {values['max_steps']!r}")
    _check_trackers(values.get("report_to"))
    if "num_generations" in values:
        check_groups(values, int(os.environ.get("WORLD_SIZE", "1")))


def check_groups(values: Mapping[str, Any], processes: int) -> None:
    """Refuse a batch that is not of whole groups, and say which settings make it so.

    Raises:
        ConfigError: It is not.
    """
    size, micro = values["num_generations"], values["per_device_train_batch_size"]
    if size is None:
        raise ConfigError("--num_generations has no value; give it one, at least 2")
    together, parts = values.get("generation_batch_size"), values.get("steps_per_generation")
    if together is not None and parts is not None:
        raise ConfigError(
            f"--generation_batch_size {together} and --steps_per_generation {parts} say the same; give one of them"
        )
    if together is None:
        parts = parts or values["gradient_accumulation_steps"]
        made_of = f"per_device_train_batch_size={micro} x {parts} parts x {processes} process(es)"
        together = micro * parts * processes
        # The fewest more episodes for each process and part, so that groups come out whole.
        fitting = next(n for n in range(micro, micro + size + 1) if n * parts * processes % size == 0)
        advice = f"for example --per_device_train_batch_size {fitting}"
    else:
        made_of = f"generation_batch_size={together}"
        least = math.lcm(size, micro * processes)
        advice = f"for example --generation_batch_size {-(-together // least) * least}"
        if together % (micro * processes):
            raise ConfigError(
                f"--generation_batch_size {together} is no multiple of the {micro * processes} episodes of a part "
                f"(per_device_train_batch_size={micro} x {processes} process(es)); {advice}"
            )
    if together % size:
        raise ConfigError(
            f"a batch of {together} episodes ({made_of}) is not of whole groups of num_generations={size}; {advice}"
        )


def _check_trackers(report_to: Any) -> None:
    wanted = [report_to] if isinstance(report_to, str) else list(report_to or [])
    available = get_available_reporting_integrations()
    known = (
        "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow", "neptune",
        "swanlab", "tensorboard", "trackio", "wandb", "kubeflow",
    )  # fmt: skip
    for name in wanted:
        if name in ("all", "none") or name in available:
            continue
        if name in known:
            raise ConfigError(f"--report_to {name}: {name} is not installed. Run: pip install {name.replace('_', '-')}")
        raise ConfigError(f"--report_to must be none, all, or names among {', '.join(known)}; got {name!r}")


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _near(value: str, choices: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value, choices, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def is_refusal(error: BaseException) -> bool:
    """Whether it is of the kinds that those libraries raise at settings."""
    return isinstance(error, REFUSALS) or type(error).__module__.split(".")[0] in LIBRARIES


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """What a constructor of TRL's or transformers' refuses becomes a `ConfigError`, in its own words."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_refusal(error):
            raise
        kind = "" if type(error) in (ValueError, ImportError, RuntimeError) else f"{type(error).__name__}: "
        raise ConfigError(f"{what} refuses these settings: {kind}{' '.join(str(error).split())}") from error
