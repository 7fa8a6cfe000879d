"""Whether values of settings can be: the types' own checks are argparse's, these are what TRL finds out too late."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

from transformers.integrations.integration_utils import get_available_reporting_integrations

from toolrl.errors import ConfigError, UserError

# What constructors of TRL, transformers, accelerate and peft raise at settings that they refuse.
REFUSALS = (ValueError, TypeError, ImportError, RuntimeError, OSError, LookupError, ArithmeticError, AssertionError)

CHOICES: dict[str, tuple[str, ...]] = {
    # TRL reads these when the first batch has been played.
    "loss_type": ("grpo", "dr_grpo", "dapo", "bnpo", "cispo", "sapo", "luspo", "vespo", "nll", "dft"),
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
    _check_trackers(values.get("report_to"))


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


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """What a constructor of TRL's or transformers' refuses becomes a `ConfigError`, in its own words."""
    try:
        yield
    except UserError:
        raise
    except REFUSALS as error:
        kind = "" if type(error) in (ValueError, ImportError, RuntimeError) else f"{type(error).__name__}: "
        raise ConfigError(f"{what} refuses these settings: {kind}{' '.join(str(error).split())}") from error
