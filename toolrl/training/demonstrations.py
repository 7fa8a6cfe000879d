"""Demonstrations: successful episodes as a data set for supervised fine-tuning.

A row is in TRL's conversational form (`messages`, `tools`). It also holds schemas and arguments as JSON text, which
Parquet does not fill with nulls, and the sampled tokens, if the policy had any: `toolrl sft` uses them if they belong
to its own tokenizer.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError
from toolrl.trajectory import Trajectory

FAILED = "did not succeed"
HELD_OUT = "are from held-out tasks"
CUT = "were cut by a limit"
MALFORMED = "have a malformed call"
SURPLUS = "are surplus for their task"


@dataclass(frozen=True)
class Demonstrations:
    """Episodes worth imitating.

    Attributes:
        chosen: Best first within a task, tasks in the order of their first episodes.
        left_out: The number of other episodes, by reason.
    """

    chosen: list[Trajectory]
    left_out: Counter[str] = field(default_factory=Counter)

    def summary(self) -> str:
        """One line for people."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.most_common())
        return f"{len(self.chosen)} demonstrations" + (f"; left out: {reasons}" if reasons else "")


def select_demonstrations(
    trajectories: Iterable[Trajectory], *, per_task: int = 1, min_reward: float | None = None, held_out: bool = False
) -> Demonstrations:
    """Choose successful episodes: for each task the highest reward first, then the fewest calls.

    Episodes with a malformed call and episodes cut by a limit are left out.

    Args:
        trajectories: Of any environments.
        per_task: The most demonstrations of one task, all different.
        min_reward: The lowest reward accepted; None for any success.
        held_out: Whether to include held-out tasks, which makes evaluations on them worthless.

    Raises:
        ConfigError: `per_task` is not positive.
    """
    if per_task < 1:
        raise ConfigError(f"per_task must be at least 1, got {per_task}")
    left_out: Counter[str] = Counter()
    by_task: dict[tuple[str, str], list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        reward = trajectory.score.value
        if not trajectory.score.success or reward is None or (min_reward is not None and reward < min_reward):
            left_out[FAILED] += 1
        elif not held_out and is_held_out(trajectory):
            left_out[HELD_OUT] += 1
        elif not trajectory.stop.terminated:
            left_out[CUT] += 1
        elif any(call.error is not None for turn in trajectory.turns for call in turn.message.tool_calls):
            left_out[MALFORMED] += 1
        else:
            by_task[trajectory.env_id, trajectory.task_id].append(trajectory)
    chosen = []
    for group in by_task.values():
        different: dict[str, Trajectory] = {}
        for trajectory in sorted(group, key=_quality, reverse=True):
            different.setdefault(_conversation(trajectory), trajectory)
        best = list(different.values())[:per_task]
        left_out[SURPLUS] += len(group) - len(best)
        chosen += best
    return Demonstrations(chosen, +left_out)


def is_held_out(trajectory: Trajectory) -> bool:
    """Whether the task was played for evaluation: from the test split, or before or after training."""
    info = trajectory.info
    return str(info.get("split", "train" if info.get("mode", "train") == "train" else "test")) != "train"


def as_demonstration(trajectory: Trajectory, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One row of the data set.

    Args:
        trajectory: The episode.
        tools: The environment's schemas (`env.toolbox.schemas`).
    """
    return {
        "messages": [message.to_dict() for message in trajectory.messages],
        "tools": list(tools),
        # Arrow fills the others with nulls if a file has two tools; `toolrl sft` reads these.
        "tools_json": json.dumps(list(tools)),
        "arguments_json": [json.dumps(dict(call.arguments)) for m in trajectory.messages for call in m.tool_calls],
        "env_id": trajectory.env_id,
        "task_id": trajectory.task_id,
        "reward": trajectory.score.value,
        "tool_calls": len(trajectory.tool_results),
        "model": str(trajectory.info.get("model", "")),
        "trajectory_id": trajectory.id,
        "prompt_ids": trajectory.prompt_ids,
        "completion_ids": trajectory.completion_ids,
        "mask": trajectory.mask,
    }


def write_demonstrations(
    path: str | Path, trajectories: Iterable[Trajectory], tools: Mapping[str, Sequence[Mapping[str, Any]]]
) -> None:
    """Write a JSONL file atomically.

    Args:
        path: Replaced if it exists.
        trajectories: One row each.
        tools: Schemas by environment id.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for trajectory in trajectories:
            file.write(json.dumps(as_demonstration(trajectory, tools[trajectory.env_id]), ensure_ascii=False) + "\n")
    partial.replace(path)


def _quality(trajectory: Trajectory) -> tuple[float, int, int]:
    length = sum(len(message.content) for message in trajectory.messages)
    return float(trajectory.score.value or 0.0), -len(trajectory.tool_results), -length


def _conversation(trajectory: Trajectory) -> str:
    """A key for duplicates: everything said, without the ids of calls."""
    said = [
        (message.role, message.content, message.thinking, [(call.name, call.arguments) for call in message.tool_calls])
        for message in trajectory.messages
    ]
    return json.dumps(said, default=dict)
