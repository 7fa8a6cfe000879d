"""Models and tokenizers by name: "tiny", a folder, or a hub id, of a whole model or an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file
from trl import GRPOConfig, ModelConfig, SFTConfig, get_peft_config  # type: ignore[attr-defined]

from toolrl.errors import ConfigError, MissingExtra
from toolrl.tiny import PATH
from toolrl.training.flags import rejections

ALIASES = {"tiny": str(PATH)}
# Prefix of a model behind a chat-completions API.
CHAT_API = "openai:"


def load_tokenizer(name: str, **options: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer; without a padding token it pads with the end-of-text token.

    Raises:
        ConfigError: There is no such model, or it is behind an API.
    """
    if name.startswith(CHAT_API):
        raise ConfigError(
            f"{name!r} returns messages without tokens, so it cannot be trained: play episodes with it (toolrl eval "
            f"--model {name} --out), then fine-tune on the successful ones (toolrl demonstrations, toolrl sft)"
        )
    with _loading(name):
        tokenizer = AutoTokenizer.from_pretrained(ALIASES.get(name, name), **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, *, dtype: str = "float32", **options: Any) -> PreTrainedModel:
    """Load a causal language model onto the CPU.

    Args:
        name: "tiny", a folder, or a hub id. An adapter is loaded with its base model, as a trainable `PeftModel`.
        dtype: Of the weights, such as "float32" or "bfloat16".
        options: For `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ConfigError: There is no such model, or an adapter's base model is missing.
        MissingExtra: It is an adapter, and peft is not installed.
    """
    base = base_of_adapter(name, **options)
    if base is None:
        with _loading(name):
            return AutoModelForCausalLM.from_pretrained(ALIASES.get(name, name), dtype=dtype, **options)
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra("peft", "lora") from None
    with _loading(f"{base} (the base model of the adapter {name})"):
        options = {**options, "revision": "main"}
        model = AutoModelForCausalLM.from_pretrained(ALIASES.get(base, base), dtype=dtype, **options)
    with _loading(name):
        return PeftModel.from_pretrained(model, name, is_trainable=True)  # type: ignore[return-value]


def load_for_generation(name: str, device: str = "") -> PreTrainedModel:
    """Load a model to sample with: bfloat16 on a GPU, float32 on a CPU. An adapter is not merged into the weights.

    Args:
        name: "tiny", a folder, or a hub id.
        device: "cpu", "cuda" ...; by default a GPU if there is one.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_model(name, dtype="float32" if device == "cpu" else "bfloat16")
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    try:
        torch.nn.Module.to(model, device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"cannot move the model to the device {device!r}: {error}") from None
    return model


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
    args.model_init_kwargs = {**options, "dtype": dtype}
    with rejections("the model"):
        return load_model(name, dtype=dtype, **options)


def loading_options(args: GRPOConfig | SFTConfig, model_config: ModelConfig) -> dict[str, Any]:
    """Options for loading the model's configuration, tokenizer and weights.

    Raises:
        ConfigError: A revision is requested for a local folder.
    """
    name = model_config.model_name_or_path or "tiny"
    if model_config.model_revision != "main" and (name in ALIASES or Path(name).is_dir()):
        raise ConfigError(
            f"--model_revision {model_config.model_revision}: the folder {name!r} has no revisions; remove it"
        )
    trusted = {"trust_remote_code": True} if args.trust_remote_code else {}
    return {"revision": model_config.model_revision, **trusted}


def base_of_adapter(name: str, **options: Any) -> str | None:
    """The base model of an adapter; None if `name` is not an adapter.

    Raises:
        ConfigError: The adapter's configuration is damaged.
    """
    try:
        path = find_adapter_config_file(ALIASES.get(name, name), revision=options.get("revision"))
        return None if path is None else str(json.loads(Path(path).read_text())["base_model_name_or_path"])
    except OSError:
        return None  # no such folder or id: loading it says so
    except (ValueError, KeyError) as error:
        raise ConfigError(f"the adapter {name!r} has a damaged adapter_config.json ({error!r})") from None


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


def read_template(path: str) -> str | None:
    """The text of a chat template's file; None without a path.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat_template {path!r} cannot be read: {error}") from None


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"cannot load the model {name!r}: {reason} Use 'tiny', a local folder or a hub id") from None
