"""From TRL's settings to the model that is trained: its weights, an adapter, a chat template."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config  # type: ignore[attr-defined]

from toolrl.errors import ConfigError, MissingExtra
from toolrl.policy.models import base_of_adapter, is_local, load_model
from toolrl.training.flags import rejections


def load_for_training(name: str, args: GRPOConfig | SFTConfig, model_config: ModelConfig) -> PreTrainedModel:
    """Load the model that TRL's settings describe; float32 unless they say otherwise.

    TRL loads the reference model (`beta`) itself; `args.model_init_kwargs` tells it how.

    Raises:
        ConfigError: The model or a setting is rejected.
    """
    given: dict[str, Any] = dict(args.model_init_kwargs or {})  # type: ignore[arg-type] # TRL has parsed it
    options = {**loading_options(args, model_config), **given}
    if model_config.attn_implementation:
        options["attn_implementation"] = model_config.attn_implementation
    dtype = str(options.pop("dtype", None) or model_config.dtype or "float32")
    # TRL's SFTTrainer loads nothing, and warns about settings for it.
    args.model_init_kwargs = {**options, "dtype": dtype} if isinstance(args, GRPOConfig) else None
    with rejections("the model"):
        return load_model(name, dtype=dtype, **options)


def loading_options(args: GRPOConfig | SFTConfig, model_config: ModelConfig) -> dict[str, Any]:
    """Options for loading the model's configuration, tokenizer and weights.

    Raises:
        ConfigError: A revision is requested for a local folder.
    """
    name = model_config.model_name_or_path or "tiny"
    if model_config.model_revision != "main" and is_local(name):
        raise ConfigError(
            f"--model_revision {model_config.model_revision}: {name!r} is local and has no revisions; remove it"
        )
    trusted = {"trust_remote_code": True} if args.trust_remote_code else {}
    return {"revision": model_config.model_revision, **trusted}


def adapter_settings(name: str, model_config: ModelConfig) -> Any:
    """TRL's `peft_config`; None without `--use_peft`, and if the model already is an adapter.

    Raises:
        ConfigError: The model is an adapter with other settings.
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
        with rejections("peft"):
            return get_peft_config(model_config)
    existing: dict[str, Any] = peft.PeftConfig.from_pretrained(name).to_dict()
    defaults = ModelConfig()
    for setting in ("lora_r", "lora_alpha", "lora_dropout", "use_dora", "use_rslora"):
        field = "r" if setting == "lora_r" else setting
        value = getattr(model_config, setting)
        if value not in (getattr(defaults, setting), existing.get(field)):
            raise ConfigError(
                f"--{setting} {value}: {name!r} is an adapter with {field}={existing.get(field)!r}, which stays; "
                f"remove --{setting}, or start a new adapter on {existing.get('base_model_name_or_path')!r}"
            )
    return None
