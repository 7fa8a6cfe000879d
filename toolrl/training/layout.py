"""Where the groups of a batch lie: in TRL's rows, and in the processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from datasets import Dataset
from trl import GRPOConfig  # type: ignore[attr-defined]

from toolrl.errors import ConfigError


@dataclass(frozen=True)
class GroupLayout:
    """How the groups of a batch lie in the processes: TRL gives each process a part of the batch, in order.

    Attributes:
        size: Episodes of a group.
        batch: Episodes of a batch, in all processes.
        processes: How many.
        rank: This one.
    """

    size: int
    batch: int
    processes: int
    rank: int

    @property
    def is_whole(self) -> bool:
        """Whether each process holds whole groups."""
        return self.batch // self.processes % self.size == 0

    @property
    def groups(self) -> int:
        """Groups of a batch that this process draws: its own, or all of them if groups span processes."""
        return self.batch // self.size // (self.processes if self.is_whole else 1)

    @property
    def shard(self) -> tuple[int, int]:
        """This process's share of the draws: its number and how many shares there are."""
        return (self.rank, self.processes) if self.is_whole else (0, 1)

    @classmethod
    def of(cls, args: GRPOConfig) -> GroupLayout:
        """The layout of a run on these settings."""
        size, batch = int(args.num_generations or 1), int(args.generation_batch_size or 1)
        return cls(size, batch, args.world_size, args.process_index)

    def keep_together(self, compared: Sequence[str]) -> None:
        """Refuse to split groups of environments that compare the episodes of a group.

        Raises:
            ConfigError: A group would span processes.
        """
        if compared and not self.is_whole:
            raise ConfigError(
                f"{compared[0]} has a group_reward, but a group of num_generations={self.size} would be split between "
                f"processes, which play {self.batch // self.processes} episodes each; make that a multiple of it"
            )

    def members(self, number: int) -> int:
        """How many episodes of a group lie in this process."""
        if self.is_whole:
            return self.size
        part = self.batch // self.processes
        first = number % self.groups * self.size
        return max(0, min(first + self.size, (self.rank + 1) * part) - max(first, self.rank * part))


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


def places(size: int) -> Dataset:
    """Rows for TRL's sampler, which repeats each for a group. The scheduler chooses what is played in their place."""
    return Dataset.from_list([{"prompt": [{"role": "user", "content": ""}]}] * size)


def check_schedule(
    args: GRPOConfig, sampler: str, *, refill: float = 0.0, curriculum: bool = False, max_staleness: int = 0
) -> None:
    """Refuse settings of the scheduler that contradict others.

    Raises:
        ConfigError: Names the setting, its value and what to change.
    """
    for name, value in (("refill", refill), ("max_staleness", max_staleness)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"--{name} must be 0 or more, got {value!r}")
    layout = GroupLayout.of(args)
    chosen = {"refill": refill, "curriculum": curriculum, "max_staleness": max_staleness}
    for name in (name for name, value in chosen.items() if value and not layout.is_whole):
        raise ConfigError(
            f"--{name} {chosen[name]} needs whole groups in each process, but a process holds "
            f"{layout.batch // layout.processes} episodes of a batch, in groups of --num_generations {layout.size}; "
            "make --per_device_train_batch_size (times the accumulated or generation steps) a multiple of it"
        )
    if refill and args.beta:
        raise ConfigError(
            f"--refill {refill} drops groups that have no variance, but with --beta {args.beta} they still train: the "
            "KL term is theirs too; set one of them to 0"
        )
    if not max_staleness:
        return
    if args.use_vllm or sampler == "transformers":
        what = "TRL's own engine" if args.use_vllm else "the trained model itself"
        raise ConfigError(
            f"--max_staleness {max_staleness}: {what} samples, so nothing can be played while the trainer steps; pass "
            "--sampler vllm, or the addresses of servers, or --max_staleness 0"
        )
    if args.vllm_enable_sleep_mode:
        raise ConfigError(
            f"--max_staleness {max_staleness}: an engine that plays on while the trainer steps cannot sleep; remove "
            "--vllm_enable_sleep_mode, or set --max_staleness 0"
        )
    if not args.vllm_importance_sampling_correction:
        raise ConfigError(
            f"--max_staleness {max_staleness}: older weights sampled, and without the correction the gradient would be "
            "wrong; set --vllm_importance_sampling_correction true, or --max_staleness 0"
        )
