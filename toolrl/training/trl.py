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

import os
import random
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.evaluate import task_info
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.training.arguments import MISMATCH_LIMIT, SamplerSettings
from toolrl.training.metrics import batch_metrics
from toolrl.training.sampler import open_policy, update
from toolrl.training.trainer import SampledTokensTrainer
from toolrl.trajectory import Trajectory, TrajectoryWriter
from toolrl.types import Sampling, StopReason, Task
from toolrl.waiting import POLICY_TIMEOUT_SECONDS


class GRPORun:
    """A `GRPOTrainer` whose completions are played by toolrl's rollout engine.

    Attributes:
        trainer: The trainer; call `trainer.train()`.
        policy: Samples, with the weights of the model being trained.
        renderer: Of the trainer's tokenizer.
        dataset: One prompt per row.
        last_batch: The latest trajectories, in TRL's order.
        session: Tells this process's trajectories from those of earlier sessions of the same run.
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
        sampler: SamplerSettings | None = None,
        mismatch_limit: float = MISMATCH_LIMIT,
        callbacks: list[Any] | None = None,
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

        Raises:
            ConfigError: A setting of `args` would make training wrong.
            TemplateError: The chat template cannot be used.
        """
        _check(args)
        self.environments = dict(environments)
        self.renderer = Renderer(tokenizer, chat_template=chat_template, dialect=dialect)
        self.last_batch: list[Trajectory] = []
        self._writer = writer
        # A resumed run may play a step again: ids tell the sessions apart.
        self.session = secrets.token_hex(3)
        self.dataset = prompt_dataset(self.environments, weights or {}, prompts_needed(args, train_tasks), task_seed)
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        self.trainer = SampledTokensTrainer(
            model=model,
            reward_funcs=self._reward,
            args=args,
            train_dataset=self.dataset,
            processing_class=tokenizer,
            rollout_func=self._rollout,  # type: ignore[arg-type] # TRL's hint leaves out conversational prompts
            peft_config=peft_config,
            callbacks=callbacks,
        )
        self.trainer.mismatch_limit = mismatch_limit
        sampler = sampler or SamplerSettings()
        self.policy = open_policy(sampler, self.trainer, self._base_model(), self.renderer, args)
        # The model itself has its own weights from the start.
        self._synced_step = 0 if sampler.kind == "transformers" else -1
        self.engine = RolloutEngine(
            self.policy,
            self.renderer,
            sampling=Sampling(args.temperature, max_turn_tokens),
            max_completion_tokens=args.max_completion_length,
            concurrency=concurrency,
            retries=retries,
            policy_timeout_seconds=policy_timeout_seconds,
            on_trajectory=writer.write if writer else None,
        )

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
        return model.get_base_model() if hasattr(model, "peft_config") else model

    def _rollout(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: play one episode per prompt (N,), and hand over tokens, logprobs and masks."""
        step = trainer.state.global_step
        if step != self._synced_step:
            self.sync_weights()
        rank, mode = trainer.accelerator.process_index, "train" if self.trainer.is_training else "eval"
        requests = []
        for index, prompt in enumerate(prompts):
            env_id, task = self.find_task(prompt)
            group = index // (trainer.num_generations or 1)
            info = {"session": self.session, "mode": mode, "step": step, "group": f"{step}/{rank}/{group}"}
            id = f"{mode}/{self.session}/{step}/{rank}/{index}"
            info = {**task_info(task.metadata), **info}
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
        """TRL's reward function (N,): the verdicts on the batch just played; None where there is none."""
        if log_metric is not None:
            for name, value in batch_metrics(self.last_batch).items():
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


def prompts_needed(args: GRPOConfig, train_tasks: int) -> int:
    """How many prompts the data set should hold."""
    if train_tasks:
        return train_tasks
    if args.max_steps <= 0:
        return 1000
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


def _check(args: GRPOConfig) -> None:
    if (args.top_p or 1.0) < 1.0 or args.top_k or args.min_p:
        raise ConfigError(
            f"top_p={args.top_p}, top_k={args.top_k}, min_p={args.min_p}: truncated sampling biases the importance "
            "ratio; train with top_p=1, top_k=0 and no min_p"
        )
    if args.eval_strategy != "no":
        raise ConfigError("eval_strategy is not supported; held-out tasks are played before and after (--eval_tasks)")
