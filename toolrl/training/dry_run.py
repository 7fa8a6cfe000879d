"""`toolrl train --dry_run`: all of a run but its model and its training, and what the run would need.

The model's configuration is read, its weights are not: parameters are counted on PyTorch's meta device. TRL's trainer
is built around the embedded model, and refuses what it would refuse later. Episodes are played by the tasks' oracles,
with the real tokenizer, tools and reward.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, ModelConfig  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation import short_name
from toolrl.evaluation.tables import number
from toolrl.models import ALIASES, load_model
from toolrl.policy import ScriptedPolicy
from toolrl.rollout import RolloutRequest, renderer_of
from toolrl.training.trl import GRPORun
from toolrl.trajectory import Trajectory

EPISODES = 4
MIB = 2**20


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
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int | None
    cache: int

    @property
    def training(self) -> int | None:
        """What a backward pass needs; None if unknown."""
        if self.activations is None:
            return None
        return self.weights + self.gradients + self.optimizer + self.activations


def read_size(name: str, *, revision: str = "main", peft_config: Any = None) -> ModelSize:
    """Count a model's parameters from its configuration.

    Args:
        name: "tiny", a folder, or a hub id.
        revision: On the hub.
        peft_config: An adapter's; then only that is trainable.

    Raises:
        ConfigError: There is no such configuration, or it is of no causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(ALIASES.get(name, name), revision=revision)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the configuration of the model {name!r}: {error}") from None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    activations, checkpointed = _kept_for_backward(model)
    if peft_config is not None:
        from peft import get_peft_model

        with torch.device("meta"):
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


def estimate_memory(size: ModelSize, args: GRPOConfig, prompt_tokens: int, weight_bytes: int) -> MemoryEstimate:
    """Estimate what training takes on one device.

    Activations are what autograd keeps of the model's own layers in bfloat16, to about a quarter. Not counted are the
    output head, which works in tiles, the copies that autocast makes of weights in float32, and what the allocator
    leaves unused.

    Args:
        size: Of the model.
        args: TRL's config: batch, lengths, optimiser, `beta`.
        prompt_tokens: Of the longest prompt.
        weight_bytes: For each parameter.
    """
    frozen = size.parameters if args.beta and size.trainable == size.parameters else 0
    length = prompt_tokens + int(args.max_completion_length or 0)
    per_token = size.checkpointed if args.gradient_checkpointing else size.activations
    optimizer = str(getattr(args.optim, "value", args.optim))
    return MemoryEstimate(
        weights=(size.parameters + frozen) * weight_bytes,
        gradients=size.trainable * weight_bytes,
        optimizer=size.trainable * (2 if "8bit" in optimizer else weight_bytes * (2 if "adam" in optimizer else 1)),
        activations=None if per_token is None else int(per_token * args.per_device_train_batch_size * length),
        cache=size.cached * min(weight_bytes, 2) * length,
    )


def dry_run(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    environments: Mapping[str, ToolEnv],
    args: GRPOConfig,
    model_config: ModelConfig,
    console: Console,
    *,
    peft_config: Any = None,
    **settings: Any,
) -> list[Trajectory]:
    """Build a run without its model, play a few episodes, and print what it would take.

    Args:
        name: The model: "tiny", a folder, or a hub id.
        tokenizer: Of the model.
        environments: By id.
        args: TRL's config.
        model_config: TRL's.
        console: Where to print.
        peft_config: An adapter's.
        settings: Further ones of `GRPORun`.

    Returns:
        The episodes that the tasks' oracles have played.

    Raises:
        UserError: A setting is wrong.
    """
    size = read_size(name, revision=model_config.model_revision, peft_config=peft_config)
    with tempfile.TemporaryDirectory() as nowhere:
        args.output_dir = nowhere  # the trainer makes its folder
        # The oracle plays, so nothing else has to be started.
        args.use_vllm, settings["sampler"] = False, None
        run = GRPORun(load_model("tiny"), tokenizer, environments, args, peft_config=peft_config, **settings)
        with closing(run):
            requests = [_request(run, prompt) for prompt in run.dataset["prompt"][:EPISODES]]
            trajectories = run.engine.run(requests)
            console.print(_episodes_table(trajectories))
            longest = max(len(trajectory.prompt_ids) for trajectory in trajectories)
            weight_bytes = torch.finfo(getattr(torch, str(model_config.dtype or "float32"), torch.float32)).bits // 8
            for line in _budget(run, args):
                console.print(line, highlight=False, soft_wrap=True)
            console.print(_memory_table(size, estimate_memory(size, args, longest, weight_bytes)))
    return trajectories


def _request(run: GRPORun, prompt: Sequence[Mapping[str, str]]) -> RolloutRequest:
    env_id, task = run.find_task(prompt)
    env = run.environments[env_id]
    own = renderer_of(run.renderer, env, task)
    oracle = ScriptedPolicy([own.assistant_ids(message, env.toolbox.schemas) for message in env.oracle(task)])
    return RolloutRequest(env, task, env_id, f"dry/{task.id}", oracle)


def _episodes_table(trajectories: Sequence[Trajectory]) -> Table:
    table = Table(title="episodes played by the oracle; tokens")
    for column in ("environment", "task", "prompt", "sampled", "observed", "turns", "calls", "stop", "reward"):
        table.add_column(column)
    for trajectory in trajectories:
        sampled = sum(trajectory.mask)
        table.add_row(
            short_name(trajectory.env_id),
            trajectory.task_id,
            str(len(trajectory.prompt_ids)),
            str(sampled),
            str(len(trajectory.completion_ids) - sampled),
            str(len(trajectory.turns)),
            str(len(trajectory.tool_results)),
            str(trajectory.stop),
            number(trajectory.score.value),
        )
    return table


def _budget(run: GRPORun, args: GRPOConfig) -> list[str]:
    """What a step consists of, in episodes and tokens."""
    group = int(args.num_generations or 1)
    batch = int(args.generation_batch_size or 0)
    micro, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    updates = max(batch // (micro * args.world_size * accumulated), 1) * args.num_iterations
    total = args.max_steps if args.max_steps > 0 else "as many as the epochs give"
    return [
        f"a batch: {batch} episodes = {batch // group} tasks x {group}, on {args.world_size} device(s); "
        f"{updates} optimiser step(s) of {micro} x {accumulated} on each",
        f"steps: {total}; at most {batch * int(args.max_completion_length or 0):,} tokens a batch after the prompts",
    ]


def _memory_table(size: ModelSize, memory: MemoryEstimate) -> Table:
    counted = f"{size.parameters / 1e6:,.1f} M parameters"
    if size.trainable != size.parameters:
        counted += f", {size.trainable / 1e6:,.1f} M trained"
    table = Table(title=f"memory of a device with all of the model, estimated ({counted})")
    parts = {
        "weights": memory.weights,
        "gradients": memory.gradients,
        "optimizer": memory.optimizer,
        "activations": memory.activations,
        "to train": memory.training,
        "cache of one longest episode": memory.cache,
    }
    for name in parts:
        table.add_column(name, justify="right")
    table.add_row(*("-" if amount is None else f"{amount / MIB:,.0f} MiB" for amount in parts.values()))
    return table
