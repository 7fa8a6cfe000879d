"""From TRL's settings to what is trained: the model, an adapter, a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, MissingExtra
from toolrl.policy.models import base_of_adapter, load_model
from toolrl.policy.settings import ALIASES
from toolrl.training.values import refusals

TASKS_LOOKED_AT = 20  # of each environment, for the length of its prompts


def loading_options(args: GRPOConfig | SFTConfig, model_config: ModelConfig) -> dict[str, Any]:
    """Which model is meant: for its configuration, its tokenizer and its weights.

    Raises:
        ConfigError: A revision is asked for of what has none.
    """
    name = model_config.model_name_or_path or "tiny"
    if model_config.model_revision != "main" and (name in ALIASES or Path(name).is_dir()):
        raise ConfigError(
            f"--model_revision {model_config.model_revision}: the folder {name!r} has no revisions; remove it"
        )
    options: dict[str, Any] = {"revision": model_config.model_revision}
    if args.trust_remote_code:
        options["trust_remote_code"] = True
    return options


def load_to_train(name: str, args: GRPOConfig | SFTConfig, model_config: ModelConfig) -> transformers.PreTrainedModel:
    """The model that TRL's settings describe; float32 unless they say otherwise.

    TRL loads a model to compare with (`beta`) by itself, and learns here how.

    Raises:
        ConfigError: It cannot be loaded so.
    """
    given: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type] # TRL has parsed it
    options = {**loading_options(args, model_config), **given}
    if model_config.attn_implementation:
        options["attn_implementation"] = model_config.attn_implementation
    dtype = str(options.pop("dtype", None) or model_config.dtype or "float32")
    args.model_init_kwargs = {**options, "dtype": dtype}
    with refusals("loading the model"):
        return load_model(name, dtype=dtype, **options)


def bytes_of(model_config: ModelConfig) -> int:
    """Of each of a model's weights."""
    return torch.finfo(getattr(torch, str(model_config.dtype or "float32"), torch.float32)).bits // 8


def adapter_settings(name: str, model_config: ModelConfig) -> Any:
    """What TRL calls `peft_config`; None without `--use_peft`, and where the model is an adapter that is trained on.

    Raises:
        ConfigError: The model is an adapter, and of another make than the settings say.
        MissingExtra: peft is not installed.
    """
    is_adapter = base_of_adapter(name, revision=model_config.model_revision) is not None
    if not model_config.use_peft and not is_adapter:
        return None
    try:
        import peft
    except ImportError:
        raise MissingExtra("peft", "lora") from None
    if not is_adapter:
        with refusals("peft"):
            return get_peft_config(model_config)
    its: dict[str, Any] = peft.PeftConfig.from_pretrained(name).to_dict()
    defaults = ModelConfig()
    for setting, field in (
        ("lora_r", "r"), ("lora_alpha", "lora_alpha"), ("lora_dropout", "lora_dropout"), ("use_dora", "use_dora"),
        ("use_rslora", "use_rslora"),
    ):  # fmt: skip
        value = getattr(model_config, setting)
        if value not in (getattr(defaults, setting), its.get(field)):
            raise ConfigError(
                f"--{setting} {value}: {name!r} is an adapter with {field}={its.get(field)!r}, which is trained on as "
                f"it is; leave --{setting} out, or start a new adapter on {its.get('base_model_name_or_path')!r}"
            )
    return None


def longest_prompt(environments: Mapping[str, ToolEnv], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt among the first tasks, tools' schemas included; about."""
    lengths = [0]
    for env in environments.values():
        common = env.system_prompt + json.dumps(env.toolbox.schemas)
        lengths += [len(tokenizer.encode(common + task.prompt)) for task in env.tasks.take(TASKS_LOOKED_AT)]
    return max(lengths)


def read_template(path: str) -> str | None:
    """The text of a chat template's file; None for no path.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat_template {path!r} cannot be read: {error}") from None
