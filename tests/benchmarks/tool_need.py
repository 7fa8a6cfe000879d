"""Which kinds of problems a language model solves without tools, and how often it calls them before and after training.

The model after the warm start of `make train-lm` plays `toolrl/PythonMath-v0` without its tool, up to 12 held-out tasks
of each kind, once. Beside it stand the held-out episodes of runs: tool use and success of each kind, before and after
training. LANGUAGE_MODEL is the model's folder, LANGUAGE_MODEL_RUNS "runs/smollm2 runs/smollm2-seed1".
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.common import table
from toolrl import Limits, Renderer, SamplingParams, Task, TaskSet, ToolEnv, Trajectory, make, read_trajectories
from toolrl.evaluation import evaluate
from toolrl.policy import TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.rewards import answer_reward, numbers_equal

MODEL = os.environ.get("LANGUAGE_MODEL", "runs/smollm2-sft/model")
RUNS = os.environ.get("LANGUAGE_MODEL_RUNS", "runs/smollm2").split()
ENV, TASKS, TEMPERATURE = "toolrl/PythonMath-v0", 12, 0.8  # the temperature is that of the runs
SOLVED = 0.9  # success without tools from which on a kind needs none


def main() -> str:
    missing = [path for path in (MODEL, *RUNS) if not Path(path).is_dir()]
    if missing:
        return f"tool_need: {missing[0]!r} is missing; `make train-lm` writes it\n"
    env = make(ENV, split="test")
    kinds = {task.id: task.kind for task in env.tasks}
    alone = by_kind(play_alone(env), kinds)
    held_out = [t for run in RUNS for t in read_trajectories(Path(run) / "trajectories.jsonl") if t.env_id == ENV]
    moments = [by_kind((t for t in held_out if t.info.get("mode") == mode), kinds) for mode in ("before", "after")]
    order = sorted(alone, key=lambda kind: -success(alone[kind]))
    rows = [_row(kind, alone[kind], *(moment[kind] for moment in moments)) for kind in order]
    for name, needed in ((f"solved alone, {SOLVED} or more", False), ("the others", True)):
        chosen = [kind for kind in order if (success(alone[kind]) < SOLVED) == needed]
        together = [[t for kind in chosen for t in found[kind]] for found in (alone, *moments)]
        if all(together):
            rows.append(_row(name, *together))
    columns = ["kind", "without tools", "calls before", "calls after", "success before", "success after", "episodes"]
    return table(f"Need of tools is a model's own: {MODEL}, {', '.join(RUNS)}", columns, rows)


def play_alone(env: ToolEnv) -> list[Trajectory]:
    """Play tasks of all kinds without tools."""
    chosen: dict[str, list[Task]] = defaultdict(list)
    for task in env.tasks:
        if len(chosen[task.kind]) < TASKS:
            chosen[task.kind].append(task)
    tasks = TaskSet([task for found in chosen.values() for task in found])
    reward = answer_reward(numbers_equal, call_cost=0.0)
    without = ToolEnv(
        tasks=tasks, tools=[], reward=reward, system_prompt=env.system_prompt, limits=Limits(turns=1, turn_tokens=32)
    )
    renderer = Renderer(load_tokenizer(MODEL))
    policy = TransformersPolicy(load_model(MODEL), stop_token_ids=renderer.stop_token_ids, seed=0)
    found: list[Trajectory] = []
    sampling = SamplingParams(TEMPERATURE, 32)
    evaluate({ENV: without}, policy, renderer, tasks=len(tasks), sampling=sampling, on_trajectory=found.append)
    policy.close()
    return found


def by_kind(trajectories: Iterable[Trajectory], kinds: dict[str, str]) -> dict[str, list[Trajectory]]:
    found = defaultdict(list)
    for trajectory in trajectories:
        found[kinds[trajectory.task_id]].append(trajectory)
    return found


def success(trajectories: list[Trajectory]) -> float:
    return sum(bool(t.score.success) for t in trajectories) / max(1, len(trajectories))


def calls(trajectories: list[Trajectory]) -> float:
    """Share of episodes with a call."""
    return sum(bool(t.tool_results) for t in trajectories) / max(1, len(trajectories))


def _row(kind: str, alone: list[Trajectory], before: list[Trajectory], after: list[Trajectory]) -> list[str]:
    shares = success(alone), calls(before), calls(after), success(before), success(after)
    return [kind, *(f"{share:.2f}" for share in shares), f"{len(alone)}, {len(before)}, {len(after)}"]
