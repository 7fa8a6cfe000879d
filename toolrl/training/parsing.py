"""The command line and the config of `toolrl train` and `toolrl sft`, read into data classes.

A config is read as the flags it stands for, so both pass the same checks. argparse checks types; `check_values` finds
before a run starts what TRL would find after the first batch.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import re
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import yaml
from transformers.integrations.integration_utils import get_available_reporting_integrations
from trl import TrlParser  # type: ignore[attr-defined]

from toolrl.errors import ConfigError
from toolrl.training.flags import SCRIPT, refuse_unsupported, rejections

_CHOICES: dict[str, tuple[str, ...]] = {
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
_AT_LEAST = {
    2: "num_generations",
    1: "per_device_train_batch_size gradient_accumulation_steps steps_per_generation generation_batch_size "
    "num_iterations max_completion_length max_turn_tokens concurrency eval_samples lora_r lora_alpha "
    "ref_model_sync_steps save_total_limit max_length vllm_max_model_length vllm_tensor_parallel_size",
    0: "eval_alone eval_tasks task_seed train_tasks retries generation_sequences mismatch_limit sample_every patience "
    "learning_rate weight_decay warmup_steps adam_epsilon max_grad_norm beta epsilon epsilon_high delta seed "
    "dataloader_num_workers off_policy_mask_threshold ddp_timeout",
}
_ABOVE_ZERO = (
    "temperature num_train_epochs logging_steps save_steps eval_steps sapo_temperature_neg sapo_temperature_pos "
    "top_entropy_quantile"
)
_WITHIN_ONE = (
    "adam_beta1 adam_beta2 lora_dropout top_entropy_quantile ref_model_mixup_alpha label_smoothing_factor "
    "vllm_gpu_memory_utilization"
)
_TRACKERS = (
    "azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte", "mlflow", "neptune", "swanlab",
    "tensorboard", "trackio", "wandb", "kubeflow",
)  # fmt: skip


def parse(parts: Any, program: str, arguments: list[str], settings: Mapping[str, Any] | None = None) -> Any:
    """Read the command line and `--config`, a YAML file or the name of a recipe; the command line takes precedence.

    Args:
        parts: The data classes to fill.
        program: For messages.
        arguments: The command line.
        settings: Further settings by name, as a config has them; they take precedence.

    Raises:
        ConfigError: A flag is unknown, or a value is invalid, contradicts others or would do nothing.
        SystemExit: With status 0, after `--help`.
    """
    parser = _Parser(parts, prog=program)
    arguments = [
        part for entry in arguments for part in (entry.split("=", 1) if entry.startswith("--config=") else [entry])
    ]
    if "--config" in arguments:
        place = arguments.index("--config")
        if place + 1 == len(arguments):
            raise ConfigError("--config needs a value: a YAML file, or the name of a recipe")
        if "--config" in arguments[place + 1 :]:
            raise ConfigError("--config is given twice; put all settings into one file, or pass the others as flags")
        config = _read(find_config(arguments[place + 1]))
        arguments = [*_as_flags(parser, config), *arguments[:place], *arguments[place + 2 :]]
    if settings:
        arguments = [*arguments, *_as_flags(parser, dict(settings))]
    with rejections(program):
        found = parser.parse_args_into_dataclasses(arguments, look_for_args_file=False)
    refuse_unsupported(*found)
    return found


def find_config(name: str) -> str:
    """The path of a config: a file, or one of toolrl's recipes by name.

    Raises:
        ConfigError: There is no such file or recipe.
    """
    if Path(name).is_file():
        return name
    recipes = {path.stem: str(path) for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if name not in recipes:
        raise ConfigError(f"no config file at {name!r}, and no recipe of that name; recipes: {', '.join(recipes)}")
    return recipes[name]


class _Parser(TrlParser):
    """TRL's parser, with toolrl's errors, and with values checked before anything is built from them."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # argparse takes -1e-5 for a flag.
        if "eval_tasks" in self.names():  # transformers describes what it would do with it
            self.names()["eval_steps"].help = (
                "Also play the held-out tasks every so many steps (below 1: of all steps) and at the last one; "
                "the best model is kept in best/."
            )
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$|-inf$|-nan$", re.IGNORECASE)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see: {self.prog} --help")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            raise ConfigError(self.unknown(unknown[0]))
        values = dict(vars(found))
        check_values(values)
        return argparse.Namespace(**values), []

    def unknown(self, flag: str) -> str:
        """The message for an unknown flag."""
        name = flag.partition("=")[0].lstrip("-").replace("-", "_")
        if not flag.startswith("-"):
            return f"{flag!r} belongs to no flag; see: {self.prog} --help"
        if name in SCRIPT:
            return f"--{name} is not supported: {SCRIPT[name]}"
        near = difflib.get_close_matches(name, self.names(), n=2)
        hint = f"did you mean {' or '.join(f'--{other}' for other in near)}? " if near else ""
        return f"there is no flag --{name}; {hint}see: {self.prog} --help"

    def names(self) -> dict[str, argparse.Action]:
        """Flags by name."""
        return {action.dest: action for action in self._actions if action.dest != "help"}


def _read(path: str) -> dict[str, Any]:
    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the config {path!r} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise ConfigError(f"the config {path!r} must be a YAML mapping of settings, got a {type(config).__name__}")
    variables = config.pop("env", {})
    if not isinstance(variables, dict):
        raise ConfigError(f"`env` of the config {path!r} must be a mapping of environment variables")
    os.environ.update({name: str(value) for name, value in variables.items()})
    return config


def _as_flags(parser: _Parser, config: dict[str, Any]) -> list[str]:
    flags: list[str] = []
    actions = parser.names()
    hints = {name: hint for part in parser.dataclass_types for name, hint in get_type_hints(part).items()}
    optional = {name for name, hint in hints.items() if type(None) in get_args(hint)}
    lists = {name for name, hint in hints.items() if list in [get_origin(kind) for kind in (hint, *get_args(hint))]}
    for name, value in config.items():
        name = name.replace("-", "_")
        action = actions.get(name)
        if action is None:
            raise ConfigError(f"the config: {parser.unknown(f'--{name}')}")
        if value is None and name not in optional:
            raise ConfigError(f"the config: {name} has no value; give it one, or leave it out")
        if isinstance(value, list) and name not in lists:
            raise ConfigError(f"the config: {name} takes one value, got the list {value!r}")
        if value in (None, []) or (isinstance(value, list) and action.nargs != "+"):  # takes one value or a list
            parser.set_defaults(**{name: value})
        elif isinstance(value, list):
            flags += [f"--{name}", *(_json(name, v) if isinstance(v, dict | list) else str(v) for v in value)]
        else:
            flags.append(f"--{name}={_json(name, value) if isinstance(value, dict) else value}")
    return flags


def _json(name: str, value: Any) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:  # a date, for example
        raise ConfigError(f"the config: {name} cannot be passed on as JSON: {error}; quote it") from None


def check_values(values: MutableMapping[str, Any]) -> None:
    """Refuse invalid values before anything is built from them; normalise `scale_rewards`.

    Raises:
        ConfigError: Names the flag, its value, and the values allowed.
    """
    if "scale_rewards" in values:
        text = str(values["scale_rewards"]).lower()
        values["scale_rewards"] = {"true": "group", "false": "none"}.get(text, text)
    for name, choices in _CHOICES.items():
        value = values.get(name)
        if name == "loss_type" and "num_generations" not in values:
            continue  # SFT has its own loss types
        if value is not None and str(getattr(value, "value", value)) not in choices:
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"--{name} must be one of {', '.join(choices)}; got {value!r}{hint}")
    for name, value in values.items():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise ConfigError(f"--{name} must be a finite number, got {number!r}")
    numbers = {
        name: value for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for least, names in _AT_LEAST.items():
        for name in names.split():
            if numbers.get(name, least) < least:
                raise ConfigError(f"--{name} must be at least {least}, got {numbers[name]!r}")
    for name in _ABOVE_ZERO.split():
        if numbers.get(name, 1) <= 0:
            raise ConfigError(f"--{name} must be above 0, got {numbers[name]!r}")
    for name in _WITHIN_ONE.split():
        if not 0 <= numbers.get(name, 1) <= 1:
            raise ConfigError(f"--{name} must be within 0 and 1, got {numbers[name]!r}")
    if (every := numbers.get("eval_steps", 1)) > 1 and every != int(every):
        raise ConfigError(f"--eval_steps must be a whole number, or below 1 for a share of all steps; got {every!r}")
    steps = numbers.get("max_steps", 1)
    if steps <= 0 and steps != -1:
        raise ConfigError(f"--max_steps must be at least 1, or -1 to use --num_train_epochs; got {steps!r}")
    _check_trackers(values.get("report_to"))
    if "num_generations" in values:
        check_groups(values, int(os.environ.get("WORLD_SIZE", "1")))


def check_groups(values: Mapping[str, Any], processes: int) -> None:
    """Refuse a batch that does not consist of whole groups.

    Raises:
        ConfigError: Says which settings would fit.
    """
    size, micro = values["num_generations"], values["per_device_train_batch_size"]
    if size is None:
        raise ConfigError("--num_generations has no value; give it one, at least 2")
    batch, parts = values.get("generation_batch_size"), values.get("steps_per_generation")
    if batch is not None and parts is not None:
        raise ConfigError(
            f"--generation_batch_size {batch} and --steps_per_generation {parts} set the same thing; pass one of them"
        )
    if batch is None:
        parts = parts or values["gradient_accumulation_steps"]
        product = f"per_device_train_batch_size={micro} x {parts} micro-batches x {processes} process(es)"
        batch = micro * parts * processes
        # The smallest larger micro-batch that gives whole groups.
        fitting = next(n for n in range(micro, micro + size + 1) if n * parts * processes % size == 0)
        advice = f"for example --per_device_train_batch_size {fitting}"
    else:
        product = f"generation_batch_size={batch}"
        least = math.lcm(size, micro * processes)
        advice = f"for example --generation_batch_size {-(-batch // least) * least}"
        if batch % (micro * processes):
            raise ConfigError(
                f"--generation_batch_size {batch} must be a multiple of {micro * processes} episodes "
                f"(per_device_train_batch_size={micro} x {processes} process(es)); {advice}"
            )
    if batch % size:
        raise ConfigError(
            f"a batch of {batch} episodes ({product}) does not divide into groups of num_generations={size}; {advice}"
        )


def _check_trackers(report_to: Any) -> None:
    available = get_available_reporting_integrations()
    for name in [report_to] if isinstance(report_to, str) else report_to or []:
        if name in ("all", "none") or name in available:
            continue
        if name in _TRACKERS:
            raise ConfigError(f"--report_to {name}: {name} is not installed. Run: pip install {name.replace('_', '-')}")
        raise ConfigError(f"--report_to must be none, all, or one of {', '.join(_TRACKERS)}; got {name!r}")
