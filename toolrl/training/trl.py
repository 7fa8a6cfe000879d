"""A run: environments, a model and a config become a `GRPOTrainer` whose completions toolrl plays.

This module and `trainer.py` hold all contact with TRL's GRPO; other modules use only its settings. The seam is
`GRPOTrainer(rollout_func=...)`, which TRL marks as experimental; pyproject.toml pins TRL to the versions that
tests/training/test_trl.py runs against. They rely on (trl 1.16, trainer/grpo_trainer.py):

- `rollout_func` gets prompts, repeated `num_generations` times, and must return one completion for each. It may answer
  with other prompts' tokens: the rows are places, which the scheduler fills with groups of its own choosing. TRL
  compares neighbours: each process holds the next part of a batch, and a group may span two of them.
- `_save_checkpoint` writes trainer_state.json last, and `_step` counts the micro-batches of this process.
- `env_mask` becomes the loss mask. Completions must not be empty.
- A reward of None excludes a sample from its group's baseline, and gives it advantage 0.
- The last token of a completion decides whether it counts as truncated.
- `_compute_loss` masks the log-probabilities and entropies of `_get_per_token_logps_and_entropies`; masked ones need
  not be computed. See `trainer.py`.
- `_compute_loss` multiplies what it makes of a row's log-probabilities by the row's advantages, but for the terms of
  `beta`, of entropy (bonus, quantile) and of the auxiliary loss; its normalisers come from masks and shapes.
- It takes advantages of shape (B,) or (B, C), as `_generate_and_score_completions` returns them; in between, rows are
  shuffled and split along the first axis of every tensor.
- Old and reference log-probabilities are computed before the rewards are asked for.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object  # type: ignore[import-untyped]
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

from toolrl.chat import Renderer
from toolrl.chat.renderer import ToolPromptChoice
from toolrl.distributed import PoolSettings, RolloutPool
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation.evaluate import task_info
from toolrl.evaluation.inputs import named
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import Policy, PolicySettings
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.policy.vllm.base import EnginePolicy
from toolrl.rollout import RolloutEngine, RolloutRequest
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.training.arguments import MISMATCH_LIMIT
from toolrl.training.credit import CreditSettings, assign_credit
from toolrl.training.curriculum import Curriculum
from toolrl.training.flags import refuse_unsupported, rejections, start_training, try_optimizer
from toolrl.training.held_out import HeldOut
from toolrl.training.layout import GroupLayout, check_schedule, places, prompts_needed
from toolrl.training.metrics import batch_metrics, equal_in_float32, staleness_metrics, zero_variance_shares
from toolrl.training.mixture import Mixture, Place, TaskSource
from toolrl.training.monitors import HackMonitor, Probe, graded
from toolrl.training.sampler import open_sampler, open_workers, sync_policy
from toolrl.training.scheduler import FATES, Group, Scheduler, read_state, write_state
from toolrl.training.trainer import SampledTokensTrainer
from toolrl.training.tree import columns_of, turns_of
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
        source: Chooses the tasks.
        scheduler: Chooses the groups of a batch.
        last_batch: The latest batch, in TRL's order.
        monitor: Compares the reward with the environments' gold rewards.
        probe: Measures the distance from the start, where there is a gold reward.
        session: Identifies the trajectories of this run, in all its processes.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        tokenizer: PreTrainedTokenizerBase | None,
        environments: Mapping[str, ToolEnv] | Sequence[ToolEnv],
        args: GRPOConfig,
        *,
        weights: Mapping[str, float] | None = None,
        chat_template: str | None = None,
        dialect: str | None = None,
        tool_prompt: ToolPromptChoice = "auto",
        writer: TrajectoryWriter | None = None,
        peft_config: Any = None,
        task_seed: int = 0,
        train_tasks: int = 0,
        max_turn_tokens: int = 512,
        concurrency: int = 256,
        retries: int = 2,
        policy_timeout_seconds: float = POLICY_TIMEOUT_SECONDS,
        sampler: PolicySettings | None = None,
        workers: PoolSettings | None = None,
        agent: AgentProgram | None = None,
        mismatch_limit: float = MISMATCH_LIMIT,
        refill: float = 0.0,
        curriculum: bool = False,
        max_staleness: int = 0,
        credit: CreditSettings | None = None,
        callbacks: list[Any] | None = None,
        model_name: str = "",
    ):
        """Build the trainer.

        Args:
            model: A causal language model, or its name.
            tokenizer: Its tokenizer; None for the one of a model's name.
            environments: By name, or a list of them; a run mixes them.
            args: TRL's config.
            weights: Relative frequency of each environment; equal by default.
            chat_template: Replaces the tokenizer's, and is saved with the model.
            dialect: How the model calls tools, by name; by default as the template writes a call.
            tool_prompt: Who shows the model its tools; see `Renderer`.
            writer: Gets the trajectories as they finish.
            peft_config: Trains an adapter instead of the whole model.
            task_seed: Seeds the choice and order of tasks.
            train_tasks: Prompts per epoch; 0 for the number that `args.max_steps` needs, else 1000.
            max_turn_tokens: Sampled tokens per turn.
            concurrency: Episodes in flight.
            retries: Further attempts after an infrastructure fault.
            policy_timeout_seconds: A sampler that samples nothing for this long, for any episode, has failed.
            sampler: What generates; by default the trained model itself.
            workers: Play on workers of a Ray cluster, each with a sampler of its own.
            agent: A program that plays the episodes, with the model behind a gateway; all its conversations are trained
                on.
            mismatch_limit: `mismatch/alarm` is 1 if the log-probabilities of sampler and trainer differ by more nats a
                token on average; 0 for no alarm.
            refill: How many groups without variance may be replaced for a batch, as a multiple of its groups.
            curriculum: Draw tasks by what is known of their pass rate; see `toolrl.training.curriculum`.
            max_staleness: Batches that a group may be behind the weights; see `toolrl.training.scheduler`.
            credit: How scores become advantages; by default as in TRL.
            callbacks: For the trainer.
            model_name: Where `model` was loaded from, for the run's README.

        Raises:
            ConfigError: A setting of `args` is not supported.
            TemplateError: The chat template cannot be used.
        """
        if isinstance(model, str):
            model_name, model = model_name or model, load_model(model)
        tokenizer = tokenizer or load_tokenizer(model_name or str(model.name_or_path))
        if not isinstance(environments, Mapping):
            environments = {name: env for name, env in named(environments).items() if isinstance(env, ToolEnv)}
        sampler = sampler or PolicySettings()
        evaluates = any(isinstance(callback, HeldOut) for callback in callbacks or [])
        refuse_unsupported(args, sampler=sampler.sampler, use_peft=peft_config is not None, eval_tasks=evaluates)
        kind = "workers" if workers else sampler.sampler
        check_schedule(args, kind, refill=refill, curriculum=curriculum, max_staleness=max_staleness)
        self._layout = GroupLayout.of(args)
        self._layout.keep_together([env_id for env_id, env in environments.items() if env.grader.group_reward])
        self._credit = credit or CreditSettings()
        self._credit.refuse_conflicts(args)
        if agent is not None and self._credit.credit == "turn":
            raise ConfigError("--credit turn needs the turns of one conversation, and an agent may have several")
        self.environments = dict(environments)
        self.renderer = Renderer(tokenizer, chat_template=chat_template, dialect=dialect, tool_prompt=tool_prompt)
        self.renderer.keep_template()
        self.last_batch: list[Trajectory] = []
        self._played: list[Group] = []  # for the latest batch, trained on or not
        self.monitor, self.probe = HackMonitor(), Probe()
        self._writer = writer
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        with rejections("TRL"):
            self.trainer = SampledTokensTrainer(
                model=model,
                reward_funcs=self._reward,
                args=args,
                train_dataset=places(prompts_needed(args, train_tasks)),
                processing_class=tokenizer,
                rollout_func=self._rollout,  # TRL's type hint omits conversational prompts
                peft_config=peft_config,
                callbacks=callbacks,
            )
            try_optimizer(args, model)
        self.trainer.model_name = model_name or str(model.name_or_path)
        self.trainer.sources = {
            env_id: f"{len(env.tasks)} tasks, weight {(weights or {}).get(env_id, 1.0):g}"
            for env_id, env in self.environments.items()
        }
        self.trainer.mismatch_limit = mismatch_limit
        self.trainer.before_checkpoint = self._save_schedule
        # A resumed run may repeat a step, and a step may play several batches: ids are unique nevertheless.
        self.session = str(broadcast_object_list([secrets.token_hex(8)])[0])
        self._episodes = itertools.count()
        playing: dict[str, Any] = {
            "sampling": SamplingParams(args.temperature, max_turn_tokens),
            "max_completion_tokens": args.max_completion_length,
            "retries": retries,
            "policy_timeout_seconds": policy_timeout_seconds,
        }
        self.policy: Policy | RolloutPool
        self.engine: RolloutEngine | RolloutPool
        if workers is not None:
            if agent is not None and agent.made_from is None:
                raise ConfigError("workers make the agent too: name it, as in parse_agent('my_agent.py:play')")
            playing["agent"] = None if agent is None else agent.made_from
            self.policy = self.engine = open_workers(sampler, workers, self.trainer, model, self.renderer, playing)
        else:
            self.policy = open_sampler(sampler, self.trainer, self.base_model, self.renderer)
            playing["concurrency"] = concurrency
            self.engine = (
                ProgramEngine(agent, self.policy, self.renderer, **playing)
                if agent is not None
                else RolloutEngine(self.policy, self.renderer, **playing)
            )
        # The trained model itself is up to date from the start.
        self._synced_step = 0 if kind == "transformers" else -1
        self.source = self._task_source(weights or {}, task_seed, train_tasks, curriculum)
        self.scheduler = Scheduler(
            self.source,
            self._play,
            self._layout.groups,
            refill=refill,
            max_staleness=max_staleness,
            teaches=lambda episodes: not all(assign_credit(self._credit, episodes).zero),
            record=self._record,
            generating=self.policy.generating,
        )

    def train(self, checkpoint: Path | None = None) -> None:
        """Train to the end, from a checkpoint if one is given.

        Raises:
            ConfigError: Training cannot start: the checkpoint does not fit, or TRL rejects a setting late.
        """
        self._has_started = False
        if checkpoint is not None:
            self.scheduler.restore(read_state(checkpoint, *self._layout.shard, type(self.source).__name__))
        start_training(self.trainer, checkpoint, lambda: self._has_started)

    def sync_weights(self) -> None:
        """Sample with the current weights of the trained model. If they are sharded, all processes must take part."""
        with self.trainer.clock.part("weights"):
            sync_policy(self.policy, self.trainer)
        self._synced_step = self.trainer.state.global_step

    def close(self) -> None:
        """Stop playing and generation, and close the environments."""
        self.scheduler.close()
        if isinstance(self.engine, ProgramEngine):
            self.engine.close()
        self.policy.close()
        for env in self.environments.values():
            env.close()

    @property
    def base_model(self) -> PreTrainedModel:
        """The trained model without wrappers, which generates."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        # An adapter is injected into the base model's layers, so the base model generates with it.
        return model.get_base_model() if hasattr(model, "get_base_model") else model

    def _task_source(self, weights: Mapping[str, float], seed: int, size: int, curriculum: bool) -> TaskSource:
        tasks = {env_id: [task.id for task in env.tasks] for env_id, env in self.environments.items()}
        rank, shards = self._layout.shard
        mixture = Mixture(tasks, weights, seed, size=size, shard=rank, shards=shards)
        if not curriculum:
            return mixture
        known = {place: self.find_task(place) for place in mixture.places}
        return Curriculum(mixture, known, weights, self._layout.size, seed + rank)

    def _save_schedule(self, checkpoint: Path) -> None:
        """Called before each checkpoint is written, in each process."""
        args: Any = self.trainer.args
        is_complete = self.trainer._step % (args.steps_per_generation * self.trainer.num_iterations) == 0
        write_state(checkpoint, self.scheduler.state(is_complete), *self._layout.shard, type(self.source).__name__)

    def _rollout(self, prompts: list[list[dict[str, Any]]], trainer: GRPOTrainer) -> dict[str, Any]:
        """TRL's `rollout_func`: fill N places with the episodes of whole groups; return tokens, logprobs and masks."""
        self._has_started = True
        if trainer.state.global_step != self._synced_step:
            self.sync_weights()
        self._step = trainer.state.global_step
        with self.trainer.clock.part("rollout"):
            batch = self.scheduler.next_batch()
        self._played = self.scheduler.take_played()
        self.trainer.clock.played([episode for group in self._played for episode in group.episodes])
        self.last_batch = [episode for group in batch for episode in group.episodes]
        if len(self.last_batch) != len(prompts):
            raise ConfigError(
                f"{len(self.last_batch)} episodes were played for {len(prompts)} rows; remove settings of the data "
                "loader and of accelerate that change the size of batches"
            )
        if not all(trajectory.has_tokens for trajectory in self.last_batch):
            raise ConfigError(
                "a chat policy has no tokens to train on; evaluate it, or fine-tune on its episodes (toolrl sft)"
            )
        tokenizer = self.renderer.tokenizer
        columns, self.trainer.trees = columns_of(
            self.last_batch, tokenizer.eos_token_id, tokenizer.pad_token_id, self.renderer.closing_ids
        )
        return columns

    async def _play(self, group: Group) -> list[Trajectory]:
        """Play this process's episodes of a group."""
        env, task = self.environments[group.place.env_id], self.find_task(group.place)
        rank = self.trainer.accelerator.process_index
        info = {**task_info(task), "session": self.session, "mode": "train"}
        info["group"] = f"{self.session}/{self._layout.shard[0]}/{group.number}"
        requests = []
        for _ in range(self._layout.members(group.number)):  # perhaps none, if groups span processes
            id = f"train/{self.session}/{self._step}/{rank}/{next(self._episodes)}"
            requests.append(RolloutRequest(env, task, group.place.env_id, id, info=info))
        return await self.engine.play_group(requests, record=False) if requests else []

    def _record(self, group: Group) -> None:
        """Write the episodes of a group, with what became of it."""
        fate: dict[str, Any] = {"step": self._step, "staleness": group.staleness}
        if group.dropped:
            fate["dropped"] = group.dropped
        group.episodes = [dataclasses.replace(t, info={**t.info, **fate}) for t in group.episodes]
        if self._writer is not None and group.episodes:
            self._writer.write(*group.episodes)

    def _reward(self, completions: list[Any], log_metric: Any = None, **_: Any) -> list[float | None]:
        """TRL's reward function (N,): the scores of the latest batch after costs; None for an unscored episode.

        Raises:
            ConfigError: A reward is too large to be compared with others in float32.
        """
        if isinstance(
            self.policy, (EnginePolicy, RolloutPool)
        ):  # older weights differ by purpose, and are corrected for
            now = self.policy.version
            self.trainer.fresh = [
                all(turn.sample.policy_version == now for turn in turns_of(episode)) for episode in self.last_batch
            ]
        self.trainer.scored = [trajectory.score.value is not None for trajectory in self.last_batch]
        for trajectory in self.last_batch:
            if abs(trajectory.score.value or 0.0) > LARGEST_REWARD:
                raise ConfigError(
                    f"the reward of {trajectory.env_id} for task {trajectory.task_id!r} is {trajectory.score.value!r}: "
                    f"beyond {LARGEST_REWARD:g} the variance of a group overflows in float32, and the loss would be 0; "
                    "scale the rewards"
                )
        episodes = [trajectory for group in self._played for trajectory in group.episodes]
        rank = self.trainer.accelerator.process_index
        self.trainer.credit = assign_credit(self._credit, self.last_batch, gather_object, rank)
        scores = self.trainer.credit.scores
        if log_metric is not None:
            after_costs = {t.id: score for t, score in zip(self.last_batch, scores, strict=True)}
            # A group may span processes.
            rewards = gather_object(
                [(t.env_id, t.info["group"], after_costs.get(t.id, t.score.value)) for t in episodes]
            )
            metrics = batch_metrics(episodes) | zero_variance_shares(rewards)
            if equal_in_float32(rewards):
                metrics["reward/alarm"] = 1.0
            for name, value in (metrics | self._schedule_metrics() | self._watch_gold(episodes)).items():
                log_metric(name, value)
        return scores

    def _schedule_metrics(self) -> dict[str, float]:
        """What the scheduler did for a batch; its source learns from the groups of all processes."""
        groups = gather_object([(group.outcome, group.dropped) for group in self._played])
        self.scheduler.learn([outcome for outcome, _ in groups])
        metrics = {f"dropped/{fate.replace(' ', '_')}": float(sum(w == fate for _, w in groups)) for fate in FATES}
        metrics |= staleness_metrics(gather_object([episode.info["staleness"] for episode in self.last_batch]))
        metrics["played/groups"] = float(len(groups))
        return metrics | (self.source.metrics() if isinstance(self.source, Curriculum) else {})

    def _watch_gold(self, episodes: Sequence[Trajectory]) -> dict[str, float]:
        """Metrics of over-optimisation; none without a gold reward."""
        if not any(env.grader.gold for env in self.environments.values()):
            return {}
        self.probe.fill(episodes)
        metrics = self.monitor.observe(self.trainer.state.global_step, gather_object(graded(episodes)))
        distance = self.probe.distance(self.trainer)
        return metrics if distance is None else {**metrics, "kl_from_start": distance}

    def recall(self, trajectories: Iterable[Trajectory], step: int) -> None:
        """Take up the comparison with gold where a run resumes, from its record of the steps below `step`."""
        played: dict[int, list[Trajectory]] = {}
        for trajectory in trajectories:
            if trajectory.info.get("mode") == "train" and trajectory.info["step"] < step:
                played.setdefault(trajectory.info["step"], []).append(trajectory)
        for number in sorted(played):
            self.probe.fill(played[number])
            self.monitor.observe(number, graded(played[number]))

    def find_task(self, place: Place) -> Task:
        """The task of a place."""
        return self.environments[place.env_id].tasks.by_id(place.task_id)
