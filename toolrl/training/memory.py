"""How much memory training takes, estimated before anything is loaded, and whether that much is free.

Parameters and activations are counted on PyTorch's meta device, which computes nothing.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, ModelConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.policy.models import base_of_adapter, locate
from toolrl.policy.transformers import CPU_CACHE_TOKENS
from toolrl.sandbox.local.cgroups import hierarchies
from toolrl.training.flags import rejections

_PROMPTS = 20  # tasks per environment whose prompts are measured


@dataclass(frozen=True, slots=True)
class ModelSize:
    """The numbers that a model's memory depends on.

    Attributes:
        parameters: All parameters; tied ones count once.
        trainable: Trainable parameters: fewer with an adapter.
        activations: Bytes per token kept for the backward pass in bfloat16; None if the architecture cannot be
            measured.
        checkpointed: The same with gradient checkpointing: the layers' inputs, and one layer being recomputed.
        cached: Numbers per token in the key-value caches of all layers.
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
        weights: The model, and the frozen reference model if the loss needs one.
        gradients: Of the trainable parameters.
        optimizer: The optimiser's state.
        activations: Kept for the backward pass of one micro-batch of the longest episodes; None if unknown.
        cache: Keys and values of one episode of maximal length; sampling holds many.
        sampling: Kept by generation besides the weights: its cache on a CPU, a 16-bit copy of the weights.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    cache: int
    sampling: int = 0

    @property
    def training(self) -> int | None:
        """Everything a backward pass needs; None if unknown."""
        kept = self.activations
        return None if kept is None else self.weights + self.gradients + self.optimizer + kept


def read_size(name: str, *, peft_config: Any = None, **options: Any) -> ModelSize:
    """Count a model's parameters from its configuration.

    Args:
        name: "tiny", a folder, or a hub id, of a model or an adapter.
        peft_config: Of an adapter; then only the adapter is trainable.
        options: For `AutoConfig.from_pretrained`.

    Raises:
        ConfigError: There is no such configuration, or not of a causal language model.
    """
    base = base_of_adapter(name, **options)
    if base is not None:
        from peft import PeftConfig

        name, peft_config = base, PeftConfig.from_pretrained(name)
        options.pop("revision", None)
    try:
        config = AutoConfig.from_pretrained(locate(name), **options)
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
        with torch.device("meta"), rejections("peft"):
            model = get_peft_model(model, peft_config)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return ModelSize(parameters, trainable, activations, checkpointed, 2 * text.num_hidden_layers * heads * width)


def _kept_for_backward(model: PreTrainedModel) -> tuple[float, float] | tuple[None, None]:
    """Bytes per token, without and with gradient checkpointing; see `ModelSize`."""
    try:
        whole = _bytes_per_token(model.train())
        model.gradient_checkpointing_enable({"use_reentrant": False})
        inputs = _bytes_per_token(model)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError):  # an unusual architecture
        return None, None
    return whole, inputs + whole / model.config.get_text_config().num_hidden_layers


def _bytes_per_token(model: PreTrainedModel, length: int = 64) -> float:
    """Bytes per token kept by autograd, without the attention matrix, which GPU kernels do not store.

    The matrix grows with the square of the length, the rest linearly: two lengths tell the two apart.
    """
    once, twice = _kept_bytes(model, length), _kept_bytes(model, 2 * length)
    return (4 * once - twice) / (2 * length)


def _kept_bytes(model: PreTrainedModel, length: int) -> int:
    ids = torch.zeros((1, length), dtype=torch.long, device="meta")
    mask = torch.ones((1, 1, length, length), dtype=torch.bool, device="meta")
    known = {tensor.untyped_storage()._cdata for tensor in (mask, *model.parameters())}
    kept: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no other storage gets the same address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in known:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.get_decoder()(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def weight_bytes(model_config: ModelConfig) -> int:
    """Bytes per weight."""
    return torch.finfo(getattr(torch, str(model_config.dtype or "float32"), torch.float32)).bits // 8


def longest_prompt(environments: Mapping[str, ToolEnv], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest prompt among the first tasks, with the tools' schemas; approximate."""
    lengths = [0]
    for env in environments.values():
        common = env.system_prompt + json.dumps(env.toolbox.schemas)
        lengths += [len(tokenizer.encode(common + task.prompt)) for task in env.tasks.take(_PROMPTS)]
    return max(lengths)


def estimate_memory(
    size: ModelSize,
    args: GRPOConfig | SFTConfig,
    prompt_tokens: int,
    bytes_per_weight: int,
    *,
    on_cpu: bool = False,
    samples: bool = True,
) -> MemoryEstimate:
    """Estimate the memory that training takes on one device.

    Activations are those that autograd keeps of the model's own layers, accurate to about a quarter: in 16 bits if the
    weights are or autocast is on, else in 32. The output head (which works in tiles), autocast's copies of float32
    weights and the allocator's unused memory are not counted.

    Args:
        size: Of the model.
        args: TRL's config: batch, lengths, optimiser, `beta`.
        prompt_tokens: Tokens of the longest prompt, or of the longest demonstration.
        bytes_per_weight: See `weight_bytes`.
        on_cpu: Whether training runs on the CPU.
        samples: Whether the trained model itself samples.
    """
    adapter = size.trainable != size.parameters
    frozen = size.parameters if getattr(args, "beta", 0.0) and not adapter else 0
    length = prompt_tokens + int(getattr(args, "max_completion_length", None) or 0)
    per_token = size.checkpointed if args.gradient_checkpointing else size.activations
    computing = 2 if args.bf16 or args.fp16 else min(bytes_per_weight, 4)
    optimizer = str(getattr(args.optim, "value", args.optim))
    trained_bytes = 4 if adapter else bytes_per_weight  # peft keeps an adapter in float32
    state_bytes = 2 if "8bit" in optimizer else trained_bytes * (2 if "adam" in optimizer else 1)
    copied = 2 * size.parameters if computing < bytes_per_weight and not adapter else 0
    cache = size.cached * min(bytes_per_weight, computing)
    activations = None
    if per_token is not None:
        activations = int(per_token * computing / 2 * args.per_device_train_batch_size * length)
    return MemoryEstimate(
        weights=(size.parameters + frozen) * bytes_per_weight,
        gradients=size.trainable * trained_bytes,
        optimizer=size.trainable * state_bytes,
        activations=activations,
        cache=cache * length,
        sampling=copied + (cache * CPU_CACHE_TOKENS if on_cpu else 0) if samples else 0,
    )


def free_memory(device: torch.device) -> int:
    """Free bytes of a device; for a CPU, of the machine or of the control groups around this process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        available = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
        texts = [Path("/proc/self", name).read_text() for name in ("mountinfo", "cgroup")]
    except OSError:  # not Linux
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
    """Bytes that a control group may still take; reclaimable page cache counts as free."""
    limit, used = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    )
    try:
        left = int((group / limit).read_text()) - int((group / used).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return left + int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    except (OSError, ValueError):  # no limit ("max"), or no file at the top
        return sys.maxsize


def check_memory(
    size: ModelSize,
    args: GRPOConfig | SFTConfig,
    prompt_tokens: int,
    bytes_per_weight: int,
    *,
    device: torch.device,
    samples: bool = True,
    free: int | None = None,
) -> str:
    """Compare the memory that training takes with the memory that is free, before the model is loaded.

    Args:
        size: Of the model.
        args: TRL's config.
        prompt_tokens: Tokens of the longest prompt, or of the longest demonstration.
        bytes_per_weight: See `weight_bytes`.
        device: Where training runs.
        samples: Whether the trained model itself samples.
        free: Free bytes; by default those of the device.

    Returns:
        A warning that says which settings to change; empty if everything fits.

    Raises:
        ConfigError: It cannot fit, even if episodes are half as long as allowed.
    """
    on_cpu = device.type == "cpu"
    if free is None:
        free = free_memory(device)
    # The processes of a machine share its memory; each has a GPU to itself.
    free //= int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if on_cpu else 1
    memory = estimate_memory(size, args, prompt_tokens, bytes_per_weight, on_cpu=on_cpu, samples=samples)
    fixed = memory.weights + memory.gradients + memory.optimizer + memory.sampling
    activations = memory.activations or 0
    if fixed + activations <= free:
        return ""
    length = prompt_tokens + int(getattr(args, "max_completion_length", None) or 0)
    batch, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    text = (
        f"training takes an estimated {_shown(fixed + activations)} ({_shown(fixed)} for weights, gradients, optimiser "
        f"and sampling, {_shown(activations)} for {batch} episodes of up to {length} tokens), but {_shown(free)} are "
        f"free on the {device.type}. "
    )
    shorter = "--max_length" if isinstance(args, SFTConfig) else "--max_completion_length"
    fitting = next((n for n in range(batch, 0, -1) if batch % n == 0 and fixed + activations * n / batch <= free), 0)
    if fixed > free:
        text += "Use a smaller model, or an adapter (--use_peft true --dtype bfloat16), or a machine with more memory"
    elif fitting:
        text += (
            f"Split the same batch: --per_device_train_batch_size {fitting} --gradient_accumulation_steps "
            f"{accumulated * batch // fitting}"
        )
    else:
        text += f"Lower {shorter}, with --per_device_train_batch_size 1"
    if fixed <= free and not args.gradient_checkpointing:
        text += "; or pass --gradient_checkpointing true"
    if fixed <= free and fitting:
        text += f"; or lower {shorter}"
    if fixed + activations / 2 > free:
        raise ConfigError(f"{text}. (To try anyway: --check_memory false)")
    return text


def _shown(amount: float) -> str:
    return f"{amount / 2**30:,.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:,.0f} MiB"
