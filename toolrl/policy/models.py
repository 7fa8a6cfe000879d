"""Loads models and tokenizers by name: "tiny", "smollm2", a folder, a GGUF file or a hub id, also of an adapter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.peft_utils import find_adapter_config_file

from toolrl.errors import ConfigError, MissingExtra, ToolrlError
from toolrl.policy.gguf import PACKAGED, checkpoint_of, packaged_file
from toolrl.policy.settings import CHAT_API, TINY_PATH


def locate(name: str) -> str:
    """The folder of a local model, or the hub id that `name` is.

    Args:
        name: "tiny", "smollm2", a folder, the path of a GGUF file, or a hub id.

    Raises:
        ConfigError: A package or a file is missing, or the file cannot be read.
        MissingExtra: It is a GGUF file, and the package gguf is not installed.
    """
    if name == "tiny":
        return str(TINY_PATH)
    if name in PACKAGED:
        return str(checkpoint_of(packaged_file(name)))
    return str(checkpoint_of(Path(name))) if name.endswith(".gguf") else name


def is_local(name: str) -> bool:
    """Whether a model is on this machine, not on a hub."""
    return name == "tiny" or name in PACKAGED or Path(name).exists()


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
        tokenizer = AutoTokenizer.from_pretrained(locate(name), **options)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_for_generation(name: str, device: str = "") -> PreTrainedModel:
    """Load a model to sample with: bfloat16 on a GPU, float32 on a CPU. An adapter is not merged into the weights.

    Args:
        name: See `locate`.
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


def load_model(name: str, *, dtype: str = "float32", **options: Any) -> PreTrainedModel:
    """Load a causal language model onto the CPU.

    Args:
        name: See `locate`. An adapter is loaded with its base model, as a trainable `PeftModel`.
        dtype: Of the weights, such as "float32" or "bfloat16".
        options: For `AutoModelForCausalLM.from_pretrained`.

    Raises:
        ConfigError: There is no such model, or an adapter's base model is missing.
        MissingExtra: It is an adapter, and peft is not installed.
    """
    base = base_of_adapter(name, **options)
    if base is None:
        with _loading(name):
            return AutoModelForCausalLM.from_pretrained(locate(name), dtype=dtype, **options)
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtra("peft", "lora") from None
    with _loading(f"{base} (the base model of the adapter {name})"):
        options = {**options, "revision": "main"}
        model = AutoModelForCausalLM.from_pretrained(locate(base), dtype=dtype, **options)
    with _loading(name):
        return PeftModel.from_pretrained(model, name, is_trainable=True)  # type: ignore[return-value]


def base_of_adapter(name: str, **options: Any) -> str | None:
    """The base model of an adapter; None if `name` is not an adapter.

    Raises:
        ConfigError: The adapter's configuration is damaged.
    """
    try:
        path = find_adapter_config_file(locate(name), revision=options.get("revision"))
        return None if path is None else str(json.loads(Path(path).read_text())["base_model_name_or_path"])
    except OSError:
        return None  # no such folder or id: loading it says so
    except (ValueError, KeyError) as error:
        raise ConfigError(f"the adapter {name!r} has a damaged adapter_config.json ({error!r})") from None


@contextmanager
def _loading(name: str) -> Iterator[None]:
    try:
        yield
    except ToolrlError:
        raise
    except (OSError, ValueError, ImportError, TypeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"cannot load the model {name!r}: {reason} Use 'tiny', 'smollm2', a local folder, a GGUF file or a hub id"
        ) from None
