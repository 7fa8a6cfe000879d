"""`toolrl train --dry_run`: a run without its model and its training, and what it would need.

Only the model's configuration is read. TRL's trainer is built around the embedded model, so it refuses what it would
refuse later. The tasks' oracles play a few episodes, with the real tokenizer, tools and reward.
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
from toolrl.players import renderer_of
from toolrl.policy import ScriptedPolicy
from toolrl.policy.models import load_model
from toolrl.rollout import RolloutRequest
from toolrl.training.loading import loading_options
from toolrl.training.memory import ModelSize, estimate_memory, read_size, weight_bytes
from toolrl.training.mixture import Place
from toolrl.training.trl import GRPORun
from toolrl.trajectory import Trajectory

EPISODES = 4


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
) -> None:
    """Build a run without its model, play a few episodes, and print what the run would need.

    Args:
        name: The model: "tiny", a folder, or a hub id.
        tokenizer: Of the model.
        environments: By id.
        args: TRL's config.
        model_config: TRL's.
        console: Where to print.
        peft_config: Of an adapter.
        settings: Further ones of `GRPORun`.

    Raises:
        UserError: A setting is wrong.
    """
    size = read_size(name, peft_config=peft_config, **loading_options(args, model_config))
    with tempfile.TemporaryDirectory() as folder:
        args.output_dir = folder  # the trainer creates its output folder
        # The oracle plays, so no sampler is started.
        sampler = settings.pop("sampler", None)
        args.use_vllm = False
        settings["max_staleness"] = 0
        args.eval_steps = None
        run = GRPORun(load_model("tiny"), tokenizer, environments, args, peft_config=peft_config, **settings)
        with closing(run):
            trajectories = run.engine.run([_request(run, run.source.draw()) for _ in range(EPISODES)])
            console.print(_episodes_table(trajectories))
            for line in _budget(args):
                console.print(line, highlight=False, soft_wrap=True)
            longest = max(len(trajectory.prompt_ids) for trajectory in trajectories)
            samples = sampler is None or sampler.sampler == "transformers"
            console.print(_memory_table(size, args, longest, weight_bytes(model_config), samples))


def _request(run: GRPORun, place: Place) -> RolloutRequest:
    env_id, task = place.env_id, run.find_task(place)
    env = run.environments[env_id]
    renderer = renderer_of(run.renderer, env, task)
    oracle = ScriptedPolicy([renderer.assistant_ids(message, env.toolbox.schemas) for message in env.oracle(task)])
    return RolloutRequest(env, task, env_id, f"dry/{task.id}", oracle)


def _episodes_table(trajectories: Sequence[Trajectory]) -> Table:
    table = Table(title="episodes played by the oracle; tokens")
    for column in ("environment", "task", "prompt", "sampled", "observed", "turns", "calls", "stop", "reward"):
        table.add_column(column)
    for trajectory in trajectories:
        sampled = sum(trajectory.mask)
        counts = (
            len(trajectory.prompt_ids), sampled, len(trajectory.completion_ids) - sampled, len(trajectory.turns),
            len(trajectory.tool_results),
        )  # fmt: skip
        table.add_row(
            short_name(trajectory.env_id), trajectory.task_id, *map(str, counts), str(trajectory.stop),
            number(trajectory.score.value),
        )  # fmt: skip
    return table


def _budget(args: GRPOConfig) -> list[str]:
    """The size of a step, in episodes and tokens."""
    group = int(args.num_generations or 1)
    batch = int(args.generation_batch_size or 0)
    micro, accumulated = args.per_device_train_batch_size, args.gradient_accumulation_steps
    updates = max(batch // (micro * args.world_size * accumulated), 1) * args.num_iterations
    total = args.max_steps if args.max_steps > 0 else f"{args.num_train_epochs:g} epoch(s)"
    return [
        f"a batch: {batch} episodes = {batch // group} tasks x {group}, on {args.world_size} device(s); "
        f"{updates} optimiser step(s) of {micro} x {accumulated} on each",
        f"steps: {total}; at most {batch * int(args.max_completion_length or 0):,} tokens a batch after the prompts",
    ]


def _memory_table(size: ModelSize, args: GRPOConfig, prompt_tokens: int, bytes_per_weight: int, samples: bool) -> Table:
    on_cpu = args.device.type == "cpu"
    memory = estimate_memory(size, args, prompt_tokens, bytes_per_weight, on_cpu=on_cpu, samples=samples)
    counted = f"{size.parameters / 1e6:,.1f} M parameters"
    if size.trainable != size.parameters:
        counted += f", {size.trainable / 1e6:,.1f} M trained"
    table = Table(title=f"estimated memory of a device that holds the whole model ({counted})")
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
    table.add_row(*("-" if amount is None else f"{amount / 2**20:,.0f} MiB" for amount in parts.values()))
    return table
