"""`toolrl train --dry_run`: all of a run but its model and its training, and what the run would need.

The model's configuration is read, its weights are not: parameters are counted on PyTorch's meta device. TRL's trainer
is built around the embedded model, and refuses what it would refuse later. Episodes are played by the tasks' oracles,
with the real tokenizer, tools and reward.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig, ModelConfig  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.evaluation import short_name
from toolrl.evaluation.tables import number
from toolrl.policy import ScriptedPolicy
from toolrl.policy.models import load_model
from toolrl.rollout import RolloutRequest, renderer_of
from toolrl.training.loading import bytes_of, loading_options
from toolrl.training.memory import MemoryEstimate, ModelSize, estimate_memory, read_size
from toolrl.training.trl import GRPORun
from toolrl.trajectory import Trajectory

EPISODES = 4
MIB = 2**20


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
    size = read_size(name, peft_config=peft_config, **loading_options(args, model_config))
    with tempfile.TemporaryDirectory() as nowhere:
        args.output_dir = nowhere  # the trainer makes its folder
        # The oracle plays, so nothing else has to be started.
        sampler = settings.pop("sampler", None)
        args.use_vllm = False
        run = GRPORun(load_model("tiny"), tokenizer, environments, args, peft_config=peft_config, **settings)
        with closing(run):
            requests = [_request(run, prompt) for prompt in run.dataset["prompt"][:EPISODES]]
            trajectories = run.engine.run(requests)
            console.print(_episodes_table(trajectories))
            longest = max(len(trajectory.prompt_ids) for trajectory in trajectories)
            own = sampler is None or sampler.sampler == "transformers"
            for line in _budget(run, args):
                console.print(line, highlight=False, soft_wrap=True)
            estimate = estimate_memory(
                size, args, longest, bytes_of(model_config), on_cpu=args.device.type == "cpu", own=own
            )
            console.print(_memory_table(size, estimate))
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
        "sampling": memory.sampling,
        "to train": memory.training,
        "cache of one longest episode": memory.cache,
    }
    for name in parts:
        table.add_column(name, justify="right")
    table.add_row(*("-" if amount is None else f"{amount / MIB:,.0f} MiB" for amount in parts.values()))
    return table
