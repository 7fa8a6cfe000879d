"""A run: environments, a model and a config become a `GRPOTrainer` whose completions toolrl plays.

This module and `trainer.py` hold all contact with TRL's GRPO; other modules use only its settings. The seam is
`GRPOTrainer(rollout_func=...)`, which TRL marks as experimental; pyproject.toml pins TRL to the versions that
tests/training/test_trl.py runs against. They rely on (trl 1.16, trainer/grpo_trainer.py):

- `rollout_func` gets prompts only, already repeated `num_generations` times, and must return one completion for each,
  in order. A prompt's message keeps extra keys, which carry the task.
- `env_mask` becomes the loss mask. Completions must not be empty.
- A reward of None excludes a sample from its group's baseline, and gives it advantage 0.
- The last token of a completion decides whether it counts as truncated.
- `_compute_loss` masks the log-probabilities and entropies of `_get_per_token_logps_and_entropies`; masked ones need
  not be computed. See `trainer.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import random
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, get_scheduler
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.evaluate import task_info
from toolrl.policy import PolicySettings
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.training.arguments import MISMATCH_LIMIT
from toolrl.training.flags import refuse_unsupported, rejections, start_training
from toolrl.training.held_out import HeldOut
from toolrl.training.metrics import batch_metrics, equal_in_float32, staleness_metrics, zero_variance_shares
from toolrl.training.sampler import open_sampler, sync_policy
from toolrl.training.trainer import SampledTokensTrainer
from toolrl.trajectory import Trajectory, TrajectoryWriter
from toolrl.types import SamplingParams, Task

# Squared differences of rewards must fit into float32, whose maximum is 3.4e38.
LARGEST_REWARD = 1e18


class GRPORun:
    """A `GRPOTrainer` whose completions are played by toolrl's rollout engine.

    Attributes:
        trainer: TRL's trainer.
        policy: Samples with the weights of the trained model.
        renderer: Of the trainer's tokenizer.
        dataset: One prompt per row.
        last_batch: The latest trajectories, in TRL's order.
        session: Identifies the trajectories of this run, in all its processes.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        environments: Mapping[str, ToolEnv],
        args: GRPOConfig,
        *,
        weights: Mapping[str, float] | None = None,
        chat_template: str | None = None,
        dialect: str | None = None,
        writer: TrajectoryWriter | None = None,
        peft_config: Any = None,
        task_seed: int = 0,
        train_tasks: int = 0,
        max_turn_tokens: int = 512,
        concurrency: int = 256,
        retries: int = 2,
        policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS,
        sampler: PolicySettings | None = None,
        mismatch_limit: float = MISMATCH_LIMIT,
        callbacks: list[Any] | None = None,
        model_name: str = "",
    ):
        """Build the trainer.

        Args:
            model: A causal language model.
            tokenizer: Its tokenizer.
            environments: By id; a run mixes them.
            args: TRL's config.
            weights: Relative frequency of each environment; equal by default.
            chat_template: Replaces the tokenizer's.
            dialect: How the model calls tools, by name; by default as the template writes a call.
            writer: Gets the trajectories as they finish.
            peft_config: Trains an adapter instead of the whole model.
            task_seed: Seeds the choice and order of tasks.
            train_tasks: Prompts per epoch; 0 for the number that `args.max_steps` needs, else 1000.
            max_turn_tokens: Sampled tokens per turn.
            concurrency: Episodes in flight.
            retries: Further attempts after an infrastructure fault.
            policy_timeout_seconds: A sampler that samples nothing for this long, for any episode, has failed.
            sampler: What generates; by default the trained model itself.
            mismatch_limit: `mismatch/alarm` is 1 if the log-probabilities of sampler and trainer differ by more nats a
                token on average; 0 for no alarm.
            callbacks: For the trainer.
            model_name: Where `model` was loaded from, for the run's README.

        Raises:
            ConfigError: A setting of `args` is not supported.
            TemplateError: The chat template cannot be used.
        """
        sampler = sampler or PolicySettings()
        evaluates = any(isinstance(callback, HeldOut) for callback in callbacks or [])
        refuse_unsupported(args, sampler=sampler.sampler, use_peft=peft_config is not None, eval_tasks=evaluates)
        self.environments = dict(environments)
        self.renderer = Renderer(tokenizer, chat_template=chat_template, dialect=dialect)
        self.last_batch: list[Trajectory] = []
        self._writer = writer
        self.dataset = prompt_dataset(self.environments, weights or {}, prompts_needed(args, train_tasks), task_seed)
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        with rejections("TRL"):
            self.trainer = SampledTokensTrainer(
                model=model,
                reward_funcs=self._reward,
                args=args,
                train_dataset=self.dataset,
                processing_class=tokenizer,
                rollout_func=self._rollout,  # TRL's type hint omits conversational prompts
                peft_config=peft_config,
                callbacks=callbacks,
            )
            _try_optimizer(args, model)
        self.trainer.model_name = model_name or str(model.name_or_path)
        self.trainer.sources = {
            env_id: f"{len(env.tasks)} tasks, weight {(weights or {}).get(env_id, 1.0):g}"
            for env_id, env in self.environments.items()
        }
        self.trainer.mismatch_limit = mismatch_limit
        # A resumed run may repeat a step, and a step may play several batches: ids are unique nevertheless.
        self.session = str(broadcast_object_list([secrets.token_hex(8)])[0])
        self._rollouts = itertools.count()
        self._numbers = itertools.count()
        self.policy = open_sampler(sampler, self.trainer, self.base_model, self.renderer)
        # The trained model itself is up to date from the start.
        self._synced_step = 0 if sampler.sampler == "transformers" else -1
        self.engine = RolloutEngine(
            self.policy,
            self.renderer,
            sampling=SamplingParams(args.temperature, max_turn_tokens),
            max_completion_tokens=args.max_completion_length,
            concurrency=concurrency,
            retries=retries,
            policy_timeout_seconds=policy_timeout_seconds,
            on_trajectory=writer.write if writer else None,
        )

    def train(self, checkpoint: Path | None = None) -> None:
        """Train to the end, from a checkpoint if one is given.

        Raises:
            ConfigError: Training cannot start: the checkpoint does not fit, or TRL rejects a setting late.
        """
        self._has_started = False
        start_training(self.trainer, checkpoint, lambda: self._has_started)

    def sync_weights(self) -> None:
        """Sample with the current weights of the trained model. If they are sharded, all processes must take part."""
        with self.trainer.clock.part("weights"):
            sync_policy(self.policy, self.trainer)
        self._synced_step = self.trainer.state.global_step

    def close(self) -> None:
        """Stop generation and close the environments."""
        self.policy.close()
        for env in self.environments.values():
            env.close()

    @property
    def base_model(self) -> PreTrainedModel:
        """The trained model without wrappers, which generates."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        # An adapter is injected into the base model's layers, so the base model generates with it.
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _rollout(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: play one episode per prompt (N,), and return tokens, logprobs and masks."""
        self._has_started = True
        step = trainer.state.global_step
        if step != self._synced_step:
            self.sync_weights()
        rank, mode = trainer.accelerator.process_index, "train" if self.trainer.is_training else "eval"
        found = [self.find_task(prompt) for prompt in prompts]
        everywhere = gather_object([(env_id, task.id) for env_id, task in found])
        groups = group_numbers(everywhere, int(trainer.num_generations or 1))
        rollout = next(self._rollouts)
        requests = []
        for (env_id, task), group in zip(found, groups[rank * len(found) : (rank + 1) * len(found)], strict=True):
            id = f"{mode}/{self.session}/{step}/{rank}/{next(self._numbers)}"
            info = {"session": self.session, "mode": mode, "step": step, "group": f"{self.session}/{rollout}/{group}"}
            requests.append(
                RolloutRequest(self.environments[env_id], task, env_id, id, info={**task_info(task), **info})
            )
        with self.trainer.clock.part("rollout"):
            self.last_batch = self.engine.run(requests)
        self.trainer.clock.played(self.last_batch)
        if not all(trajectory.has_tokens for trajectory in self.last_batch):
            raise ConfigError(
                "a chat policy has no tokens to train on; evaluate it, or fine-tune on its episodes (toolrl sft)"
            )
        eos, pad = self.renderer.tokenizer.eos_token_id, self.renderer.tokenizer.pad_token_id
        # An empty completion gets a token that does not end a turn, and so counts as truncated.
        filler = next(token for token in itertools.count() if token not in self.renderer.closing_ids)
        columns: dict[str, list[list[Any]]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
        for trajectory in self.last_batch:
            ids, mask, logprobs = trajectory.completion_ids, trajectory.mask, trajectory.logprobs
            if not ids:  # a fault before the first token
                ids, mask, logprobs = [filler], [0], [0.0]
            elif trajectory.stop.terminated and ids[-1] not in (eos, pad):
                # The template ends answers with another token; TRL would count this one as truncated.
                ids, mask, logprobs = [*ids, eos], [*mask, 0], [*logprobs, 0.0]
            columns["prompt_ids"].append(trajectory.prompt_ids)
            columns["completion_ids"].append(ids)
            columns["logprobs"].append(logprobs)
            columns["env_mask"].append(mask)
        return columns

    def _reward(self, completions: list[Any], log_metric: Any = None, **_: Any) -> list[float | None]:
        """TRL's reward function (N,): the scores of the latest batch; None for an unscored episode.

        Raises:
            ConfigError: A reward is too large to be compared with others in float32.
        """
        self.trainer.scored = [trajectory.score.value is not None for trajectory in self.last_batch]
        for trajectory in self.last_batch:
            if abs(trajectory.score.value or 0.0) > LARGEST_REWARD:
                raise ConfigError(
                    f"the reward of {trajectory.env_id} for task {trajectory.task_id!r} is {trajectory.score.value!r}: "
                    f"beyond {LARGEST_REWARD:g} the variance of a group overflows in float32, and the loss would be 0; "
                    "scale the rewards"
                )
        if log_metric is not None:
            # A group may span processes.
            played = gather_object([(t.env_id, t.info["group"], t.score.value) for t in self.last_batch])
            shares = zero_variance_shares(played)
            if equal_in_float32(played):
                shares["reward/alarm"] = 1.0
            shares |= staleness_metrics(gather_object([t.info.get("staleness") for t in self.last_batch]))
            for name, value in (batch_metrics(self.last_batch) | shares).items():
                log_metric(name, value)
        return [trajectory.score.value for trajectory in self.last_batch]

    def find_task(self, prompt: Sequence[Mapping[str, Any]]) -> tuple[str, Task]:
        """The environment's id and the task of a prompt of the data set."""
        message = prompt[-1]
        return message["env_id"], self.environments[message["env_id"]].tasks.by_id(message["task_id"])


def group_numbers(tasks: Sequence[tuple[str, str]], size: int) -> list[int]:
    """The group of each episode of a batch (N,), over all processes.

    TRL distributes a batch of whole groups to the processes in order, and compares neighbours: a group may span two
    processes.

    Args:
        tasks: (N,) environment and task of each episode, process after process.
        size: Episodes per group, `num_generations`.

    Raises:
        ConfigError: A group would hold several tasks.
    """
    for start in range(0, len(tasks), size):
        if len(group := set(tasks[start : start + size])) > 1 or start + size > len(tasks):
            raise ConfigError(
                f"a group of num_generations={size} episodes holds {len(group)} tasks ({sorted(group)[:2]}): rows are "
                "not in the order of TRL's sampler; remove settings of the data loader and of accelerate"
            )
    return [place // size for place in range(len(tasks))]


def prompts_needed(args: GRPOConfig, train_tasks: int) -> int:
    """The number of prompts that the data set should hold.

    Raises:
        ConfigError: A batch holds more than `train_tasks`.
    """
    together = int(args.generation_batch_size or 1) // int(args.num_generations or 1)
    if 0 < train_tasks < together:
        raise ConfigError(
            f"train_tasks={train_tasks}, but a batch holds {together} tasks (generation_batch_size="
            f"{args.generation_batch_size} / num_generations={args.num_generations}); raise train_tasks"
        )
    if train_tasks:
        return train_tasks
    if args.max_steps <= 0:
        return max(1000, together)
    steps_per_generation = args.steps_per_generation or args.gradient_accumulation_steps
    per_generation = args.per_device_train_batch_size * args.world_size * steps_per_generation
    generations = -(-args.max_steps * args.gradient_accumulation_steps // (steps_per_generation * args.num_iterations))
    return max(1, generations * per_generation // (args.num_generations or 1))


def prompt_dataset(environments: Mapping[str, ToolEnv], weights: Mapping[str, float], size: int, seed: int) -> Dataset:
    """Draw `size` conversational prompts: environments by weight, the tasks of each in shuffled rounds."""
    rng = random.Random(seed)
    env_ids = list(environments)
    drawn = rng.choices(env_ids, [weights.get(env_id, 1.0) for env_id in env_ids], k=size)
    rounds: dict[str, list[Task]] = {env_id: [] for env_id in env_ids}
    rows = []
    for env_id in drawn:
        if not rounds[env_id]:
            rounds[env_id] = list(environments[env_id].tasks)
            rng.shuffle(rounds[env_id])
        task = rounds[env_id].pop()
        rows.append({"prompt": [{"role": "user", "content": task.prompt, "env_id": env_id, "task_id": task.id}]})
    return Dataset.from_list(rows)


def _try_optimizer(args: GRPOConfig, model: PreTrainedModel) -> None:
    """Have transformers reject an optimiser or a schedule now, not after the first evaluation."""
    make, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    for name in ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"):
        default = next(field.default for field in dataclasses.fields(args) if field.name == name)
        plain = copy.copy(args)
        setattr(plain, name, default)
        if getattr(args, name) != default and Trainer.get_optimizer_cls_and_kwargs(plain, model)[1] == options:
            optim = getattr(args.optim, "value", args.optim)
            raise ConfigError(f"--optim {optim} takes no --{name}, got {getattr(args, name)!r}; remove it")
    if "optimizer_dict" in options or "params" in options:  # an optimiser that needs the model's layers
        return
    optimizer = make([torch.nn.Parameter(torch.zeros(1))], **options)
    schedule: Any = args.lr_scheduler_kwargs or {}
    get_scheduler(
        args.lr_scheduler_type,
        optimizer,
        num_warmup_steps=args.get_warmup_steps(max(args.max_steps, 1)),
        num_training_steps=max(args.max_steps, 1),
        scheduler_specific_kwargs=dict(schedule),
    )
