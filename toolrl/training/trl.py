"""All contact with TRL: from environments, a model and a config to a `GRPOTrainer`.

The seam is `GRPOTrainer(rollout_func=...)`, which TRL flags as experimental; pyproject.toml pins TRL
to the range that tests/training/test_trl.py runs against. What is relied on (trl 1.16,
trainer/grpo_trainer.py):

- `rollout_func` gets prompts only, already repeated `num_generations` times, and must return one
  completion for each, in order. A prompt's message keeps extra keys: ours carry the task.
- `env_mask` becomes the loss mask. Completions must not be empty.
- A reward of None leaves a sample out of its group's baseline, and gives it advantage 0.
- Whether a completion is truncated is read from its last token.
- `_compute_loss` gets log-probabilities and entropies from `_get_per_token_logps_and_entropies` and masks
  them; what it masks need not be computed. See `trainer.py`.
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
from toolrl.errors import ConfigError, UserError
from toolrl.evaluation.evaluate import task_info
from toolrl.policy import PolicySettings
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.training.arguments import MISMATCH_LIMIT
from toolrl.training.flags import refuse_unhonoured
from toolrl.training.metrics import alike_in_float32, batch_metrics, zero_variance_shares
from toolrl.training.sampler import open_sampler, update
from toolrl.training.trainer import SampledTokensTrainer
from toolrl.training.values import is_refusal, refusals
from toolrl.trajectory import Trajectory, TrajectoryWriter
from toolrl.types import SamplingParams, StopReason, Task

# Squares of differences of rewards must be within float32, which ends at 3.4e38.
LARGEST_REWARD = 1e18


class GRPORun:
    """A `GRPOTrainer` whose completions are played by toolrl's rollout engine.

    Attributes:
        trainer: The trainer; call `trainer.train()`.
        policy: Samples, with the weights of the model being trained.
        renderer: Of the trainer's tokenizer.
        dataset: One prompt per row.
        last_batch: The latest trajectories, in TRL's order.
        session: Tells the trajectories of this call of `toolrl train`, in all its processes, from all others.
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
            environments: By id; they are mixed in one run.
            args: TRL's config.
            weights: How often each environment is drawn, relative to the others; equally by default.
            chat_template: In place of the tokenizer's.
            dialect: How the model calls tools, by name; by default as the template writes a call.
            writer: Trajectories are appended to it as they finish.
            peft_config: Trains an adapter in place of the whole model.
            task_seed: Seeds the choice and order of tasks.
            train_tasks: Prompts per epoch; 0 for as many as `args.max_steps` needs, else 1000.
            max_turn_tokens: Sampled tokens per turn.
            concurrency: Episodes in flight.
            retries: Further attempts after an infrastructure fault.
            policy_timeout_seconds: A sampler that samples nothing for so long, for any episode, is a fault.
            sampler: What generates; by default the trained model itself.
            mismatch_limit: Mean difference between the sampler's and the trainer's log-probabilities, in nats a token,
                above which `mismatch/alarm` is 1; 0 for no alarm.
            callbacks: For the trainer.
            model_name: What `model` was loaded from, for the run's README.

        Raises:
            ConfigError: A setting of `args` would make training wrong.
            TemplateError: The chat template cannot be used.
        """
        sampler = sampler or PolicySettings()
        refuse_unhonoured(args, sampler=sampler.sampler, use_peft=peft_config is not None)
        self.environments = dict(environments)
        self.renderer = Renderer(tokenizer, chat_template=chat_template, dialect=dialect)
        self.last_batch: list[Trajectory] = []
        self._writer = writer
        self.dataset = prompt_dataset(self.environments, weights or {}, prompts_needed(args, train_tasks), task_seed)
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        with refusals("TRL"):
            self.trainer = SampledTokensTrainer(
                model=model,
                reward_funcs=self._reward,
                args=args,
                train_dataset=self.dataset,
                processing_class=tokenizer,
                rollout_func=self._rollout,  # TRL's hint leaves out conversational prompts
                peft_config=peft_config,
                callbacks=callbacks,
            )
            _try_optimizer(args, model)
        self.trainer.model_name = model_name or str(model.name_or_path)
        self.trainer.env_ids = list(self.environments)
        self.trainer.mismatch_limit = mismatch_limit
        # A resumed run may play a step again, and a step may play several batches: ids tell all of them apart.
        self.session = str(broadcast_object_list([secrets.token_hex(8)])[0])
        self._rollouts = itertools.count()
        self._numbers = itertools.count()
        self.policy = open_sampler(sampler, self.trainer, self._base_model(), self.renderer, args)
        # The model itself has its own weights from the start.
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
            ConfigError: Training cannot start: the checkpoint does not fit, or a setting is refused late.
        """
        self._started = False
        try:
            self.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except Exception as error:
            if self._started or isinstance(error, UserError) or not is_refusal(error):
                raise
            origin = f" from {str(checkpoint)!r}" if checkpoint else ""
            raise ConfigError(
                f"training cannot start{origin}: {type(error).__name__}: {' '.join(str(error).split())[:600]}"
            ) from error

    def sync_weights(self) -> None:
        """Sample with the trained model's weights as they are now. A collective where those are split."""
        update(self.policy, self.trainer)
        self._synced_step = self.trainer.state.global_step

    def close(self) -> None:
        """Stop generation and close the environments."""
        self.policy.close()
        for env in self.environments.values():
            env.close()

    def _base_model(self) -> PreTrainedModel:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        # An adapter is injected into the base model's own layers, so that the base model generates with it.
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _rollout(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: play one episode per prompt (N,), and hand over tokens, logprobs and masks."""
        self._started = True
        step = trainer.state.global_step
        if step != self._synced_step:
            self.sync_weights()
        rank, mode = trainer.accelerator.process_index, "train" if self.trainer.is_training else "eval"
        found = [self.find_task(prompt) for prompt in prompts]
        groups = group_numbers(
            gather_object([(env_id, task.id) for env_id, task in found]), int(trainer.num_generations or 1)
        )[rank * len(prompts) : (rank + 1) * len(prompts)]
        rollout = next(self._rollouts)
        requests = []
        for (env_id, task), group in zip(found, groups, strict=True):
            info = {"session": self.session, "mode": mode, "step": step, "group": f"{self.session}/{rollout}/{group}"}
            id = f"{mode}/{self.session}/{step}/{rank}/{next(self._numbers)}"
            info = {**task_info(task), **info}
            requests.append(RolloutRequest(self.environments[env_id], task, env_id, id, info=info))
        self.last_batch = self.engine.run(requests)
        if not all(trajectory.has_tokens for trajectory in self.last_batch):
            raise ConfigError("a chat policy gives no tokens to train on; it can only be evaluated or imitated")
        columns: dict[str, list[list[Any]]] = {"prompt_ids": [], "completion_ids": [], "logprobs": [], "env_mask": []}
        for trajectory in self.last_batch:
            ids, mask, logprobs = trajectory.completion_ids, trajectory.mask, trajectory.logprobs
            if not ids:  # nothing was sampled before a fault; TRL needs a token to look at
                ids, mask, logprobs = [self._filler_id()], [0], [0.0]
            elif trajectory.stop is StopReason.ANSWER and ids[-1] not in self._trl_ends:
                # The template ends an answer with a token of its own; TRL would take it for truncated.
                eos = self.renderer.tokenizer.eos_token_id
                ids, mask, logprobs = [*ids, eos], [*mask, 0], [*logprobs, 0.0]
            columns["prompt_ids"].append(trajectory.prompt_ids)
            columns["completion_ids"].append(ids)
            columns["logprobs"].append(logprobs)
            columns["env_mask"].append(mask)
        return columns

    def _reward(self, completions: list[Any], log_metric: Any = None, **_: Any) -> list[float | None]:
        """TRL's reward function (N,): the verdicts on the batch just played; None where there is none.

        Raises:
            ConfigError: A reward is so large that TRL's float32 cannot compare it with others.
        """
        self.trainer.scored = [trajectory.score.value is not None for trajectory in self.last_batch]
        for trajectory in self.last_batch:
            if abs(trajectory.score.value or 0.0) > LARGEST_REWARD:
                raise ConfigError(
                    f"the reward of {trajectory.env_id} for task {trajectory.task_id!r} is {trajectory.score.value!r}: "
                    f"beyond {LARGEST_REWARD:g} the spread of a group overflows in float32, and the loss would be 0; "
                    "scale the rewards"
                )
        if log_metric is not None:
            played = [(t.env_id, t.info["group"], t.score.value) for t in self.last_batch]
            # A group may be spread over processes.
            played = gather_object(played)
            shares = zero_variance_shares(played)
            if alike_in_float32(played):
                shares["reward/alarm"] = 1.0
            for name, value in (batch_metrics(self.last_batch) | shares).items():
                log_metric(name, value)
        return [trajectory.score.value for trajectory in self.last_batch]

    def find_task(self, prompt: Sequence[Mapping[str, Any]]) -> tuple[str, Task]:
        """The environment's id and the task that a prompt of the data set asks for."""
        message = prompt[-1]
        return message["env_id"], self.environments[message["env_id"]].tasks.by_id(message["task_id"])

    def _filler_id(self) -> int:
        """Some token that does not end a turn, so that an empty completion counts as truncated."""
        ends = self.renderer.closing_ids
        return next(token for token in range(len(ends) + 1) if token not in ends)

    @property
    def _trl_ends(self) -> tuple[int | None, int | None]:
        """By which last tokens TRL knows a completion that was not truncated."""
        return self.renderer.tokenizer.eos_token_id, self.renderer.tokenizer.pad_token_id


def group_numbers(tasks: Sequence[tuple[str, str]], size: int) -> list[int]:
    """Which group each episode of a batch belongs to (N,), all processes together.

    TRL deals a batch of whole groups to the processes from the first to the last, and compares neighbours: a group may
    lie in two processes, and then its parts are compared all the same.

    Args:
        tasks: (N,) environment and task of each episode, process after process.
        size: Episodes of a group, `num_generations`.

    Raises:
        ConfigError: A group would hold several tasks.
    """
    for start in range(0, len(tasks), size):
        if len(group := set(tasks[start : start + size])) > 1 or start + size > len(tasks):
            raise ConfigError(
                f"a group of num_generations={size} episodes holds {len(group)} tasks ({sorted(group)[:2]}): something "
                "deals rows in another order than TRL's sampler; remove settings of the data loader and of accelerate"
            )
    return [place // size for place in range(len(tasks))]


def prompts_needed(args: GRPOConfig, train_tasks: int) -> int:
    """How many prompts the data set should hold.

    Raises:
        ConfigError: `train_tasks` are fewer than a batch holds.
    """
    together = int(args.generation_batch_size or 1) // int(args.num_generations or 1)
    if 0 < train_tasks < together:
        raise ConfigError(
            f"train_tasks={train_tasks} are fewer than the {together} tasks of a batch (generation_batch_size="
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
    """`size` conversational prompts; environments drawn by weight, each one's tasks in shuffled rounds."""
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
    """Have transformers refuse an optimiser or a schedule now, not when the first evaluation has been played."""
    make, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    for name in ("optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"):
        default = next(field.default for field in dataclasses.fields(args) if field.name == name)
        plain = copy.copy(args)
        setattr(plain, name, default)
        if getattr(args, name) != default and Trainer.get_optimizer_cls_and_kwargs(plain, model)[1] == options:
            optim = getattr(args.optim, "value", args.optim)
            raise ConfigError(f"--optim {optim} takes no --{name}, got {getattr(args, name)!r}; leave it out")
    if "optimizer_dict" in options or "params" in options:  # of those that look at the model's layers
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
