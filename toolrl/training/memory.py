"""What training takes of memory, before anything is loaded, and whether there is as much.

Parameters are counted on PyTorch's meta device, where nothing is computed.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from trl import GRPOConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.errors import ConfigError
from toolrl.policy.models import base_of_adapter
from toolrl.policy.settings import ALIASES
from toolrl.policy.transformers import CPU_CACHE_TOKENS
from toolrl.sandbox.local.cgroups import hierarchies
from toolrl.training.values import refusals


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What a model's memory depends on.

    Attributes:
        parameters: All of them; tied ones count once.
        trainable: Those that are trained: fewer with an adapter.
        activations: Bytes that one token leaves for the backward pass in bfloat16; None for an architecture that
            cannot be measured.
        checkpointed: The same with gradient checkpointing: the layers' inputs, and one layer being computed again.
        cached: Numbers that one token leaves in the key-value caches of all layers.
    """

    parameters: int
    trainable: int
    activations: float | None
    checkpointed: float | None
    cached: int


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes on one device that holds a whole copy of the model.

    Attributes:
        weights: The model, and a frozen copy of it where the loss wants one.
        gradients: Of what is trained.
        optimizer: Its state.
        activations: Kept for the backward pass of one micro-batch of the longest episodes; None if unknown.
        cache: Keys and values of one of the longest episodes; sampling holds many.
        sampling: What generation keeps beside the weights: its cache on a CPU, a copy of the weights in 16 bits.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    cache: int
    sampling: int = 0

    @property
    def training(self) -> int | None:
        """What a backward pass needs; None if unknown."""
        if self.activations is None:
            return None
        return self.weights + self.gradients + self.optimizer + self.activations


def read_size(name: str, *, peft_config: Any = None, **options: Any) -> ModelSize:
    """Count a model's parameters from its configuration.

    Args:
        name: "tiny", a folder, or a hub id; of a model or an adapter.
        peft_config: An adapter's; then only that is trainable.
        options: For `AutoConfig.from_pretrained`.

    Raises:
        ConfigError: There is no such configuration, or it is of no causal language model.
    """
    base = base_of_adapter(name, **options)
    if base is not None:
        from peft import PeftConfig

        name, peft_config = base, PeftConfig.from_pretrained(name)
        options.pop("revision", None)
    try:
        config = AutoConfig.from_pretrained(ALIASES.get(name, name), **options)
        trusted = {"trust_remote_code": True} if options.get("trust_remote_code") else {}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, **trusted)
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"cannot read the configuration of the model {name!r}: {error}") from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    activations, checkpointed = _kept_for_backward(model)
    if peft_config is not None:
        from peft import get_peft_model

        peft_config.inference_mode = False
        with torch.device("meta"), refusals("peft"):
            model = get_peft_model(model, peft_config)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelSize(parameters, trainable, activations, checkpointed, 2 * text.num_hidden_layers * heads * width)


def _kept_for_backward(model: PreTrainedModel) -> tuple[float, float] | tuple[None, None]:
    """Bytes for each token, without and with gradient checkpointing; see `ModelSize`."""
    try:
        whole = _bytes_per_token(model.train())
        model.gradient_checkpointing_enable({"use_reentrant": False})
        inputs = _bytes_per_token(model)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # of no common architecture
        return None, None
    return whole, inputs + whole / model.config.get_text_config().num_hidden_layers


def _bytes_per_token(model: PreTrainedModel, length: int = 64) -> float:
    """What autograd keeps for each token, the attention matrix left out, which the kernels of GPUs do not store.

    On the meta device nothing is computed. What is kept there grows with the length and, for the matrix, with its
    square: two lengths tell the two apart.
    """
    once, twice = _kept_bytes(model, length), _kept_bytes(model, 2 * length)
    return (4 * once - twice) / (2 * length)


def _kept_bytes(model: PreTrainedModel, length: int) -> int:
    ids = torch.zeros((1, length), dtype=torch.long, device="meta")
    mask = torch.ones((1, 1, length, length), dtype=torch.bool, device="meta")
    known = {tensor.untyped_storage()._cdata for tensor in (mask, *model.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}  # held, so that no other storage gets the same address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def estimate_memory(
    size: ModelSize,
    args: GRPOConfig | SFTConfig,
    prompt_tokens: int,
    weight_bytes: int,
    *,
    on_cpu: bool = False,
    own: bool = True,
) -> MemoryEstimate:
    """Estimate what training takes on one device.

    Activations are what autograd keeps of the model's own layers, to about a quarter: in 16 bits if the weights are or
    autocast is on, else in 32. Not counted are the output head, which works in tiles, the copies that autocast makes of
    weights in float32, and what the allocator leaves unused.

    Args:
        size: Of the model.
        args: TRL's config: batch, lengths, optimiser, `beta`.
        prompt_tokens: Of the longest prompt; of a demonstration, all of it.
        weight_bytes: For each parameter.
        on_cpu: Whether the CPU trains.
        own: Whether the trained model samples, and not vLLM.
    """
    adapter = size.trainable != size.parameters
    frozen = size.parameters if getattr(args, "beta", 0.0) and not adapter else 0
    length = prompt_tokens + int(getattr(args, "max_completion_length", None) or 0)
    per_token = size.checkpointed if args.gradient_checkpointing else size.activations
    computing = 2 if args.bf16 or args.fp16 else min(weight_bytes, 4)
    optimizer = str(getattr(args.optim, "value", args.optim))
    trained_bytes = 4 if adapter else weight_bytes  # peft keeps an adapter in float32
    copied = 2 * size.parameters if computing < weight_bytes and not adapter else 0
    cache = size.cached * min(weight_bytes, computing)
    return MemoryEstimate(
        weights=(size.parameters + frozen) * weight_bytes,
        gradients=size.trainable * trained_bytes,
        optimizer=size.trainable * (2 if "8bit" in optimizer else trained_bytes * (2 if "adam" in optimizer else 1)),
        activations=None
        if per_token is None
        else int(per_token * computing / 2 * args.per_device_train_batch_size * length),
        cache=cache * length,
        sampling=(copied + (cache * CPU_CACHE_TOKENS if on_cpu else 0)) if own else 0,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a device; on a CPU those of the machine, or of the control groups around this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        texts = [Path("/proc/self", name).read_text() for name in ("mountinfo", "cgroup")]
    except OSError:  # no Linux
        return sys.maxsize
    free = int(available[1]) * 1024 if available else sys.maxsize
    for hierarchy in hierarchies(*texts):
        if "memory" in hierarchy.controllers:
            for folder in (hierarchy.own, *hierarchy.own.parents):
                free = min(free, _left_in(folder, hierarchy.version))
                if folder == hierarchy.top:
                    break
    return free


def _left_in(group: Path, version: int) -> int:
    """Bytes that a control group may still take; pages of files that can go count as free."""
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    try:
        left = int((group / limit).read_text()) - int((group / used).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    except (OSError, ValueError):  # no limit: "max", or none at the top
        return sys.maxsize


def check_memory(
    size: ModelSize,
    args: GRPOConfig | SFTConfig,
    prompt_tokens: int,
    weight_bytes: int,
    *,
    device: torch.device,
    own: bool = True,
    free: int | None = None,
) -> str:
    """Compare what training takes with what is free, before the model is loaded.

    Args:
        size: Of the model.
        args: TRL's config.
        prompt_tokens: Of the longest prompt; of a demonstration, all of it.
        weight_bytes: For each parameter.
        device: What trains.
        own: Whether the trained model samples, and not vLLM.
        free: Bytes; by default those of the device.

    Returns:
        What may go wrong and which settings to change; empty if nothing.

    Raises:
        ConfigError: It cannot fit, even if episodes are half as long as they may be.
    """
    on_cpu = device.type == "cpu"
    if free is None:
        free = free_memory(device)
    # The processes of a machine share its memory; a GPU is each one's own.
    free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    memory = estimate_memory(size, args, prompt_tokens, weight_bytes, on_cpu=on_cpu, own=own)
    fixed = memory.weights + memory.gradients + memory.optimizer + memory.sampling
    activations = memory.activations or 0
    if fixed + activations <= free:
        return ""
    length = prompt_tokens + int(getattr(args, "max_completion_length", None) or 0)
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    text = (
        f"training takes an estimated {_shown(fixed + activations)} ({_shown(fixed)} for weights, gradients, optimiser "
        f"and sampling, {_shown(activations)} for {batch} episodes of up to {length} tokens), and {_shown(free)} are "
        f"free on the {device.type}. "
    )
    shorter = "--max_length" if isinstance(args, SFTConfig) else "--max_completion_length"
    fitting = next((n for n in range(batch, 0, -1) if batch % n == 0 and fixed + activations * n / batch <= free), 0)
    if fixed > free:
        text += "Take a smaller model, or an adapter (--use_peft true --dtype bfloat16), or a machine with more memory"
    elif fitting:
        text += (
            f"The same batch in smaller parts: --per_device_train_batch_size {fitting} --gradient_accumulation_steps "
            f"{accumulated * batch // fitting}"
        )
    else:
        text += f"Shorten {shorter}, with --per_device_train_batch_size 1"
    if fixed <= free and not args.gradient_checkpointing:
        text += "; or --gradient_checkpointing true"
    if fixed <= free and fitting:
        text += f"; or a shorter {shorter}"
    if fixed + activations / 2 > free:
        raise ConfigError(f"{text}. (--check_memory false to try all the same)")
    return text


def _shown(amount: float) -> str:
    return f"{amount / 2**30:,.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:,.0f} MiB"
