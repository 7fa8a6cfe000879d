"""How well a curriculum's belief predicts a run: what it would have expected of each group before it was played.

Reads the records of runs of `make train` (CURRICULUM_RUNS, folders separated by spaces; by default runs/tiny). The log
likelihood of the successes, in nats a group, is what its constants were chosen by.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import toolrl_envs  # noqa: F401 - registers the environments
from tests.benchmarks.common import table
from toolrl import Trajectory, make, read_trajectories
from toolrl.training.curriculum import Curriculum
from toolrl.training.mixture import Mixture, Outcome, Place
from toolrl.training.scheduler import has_variance

WEIGHTS = {"toolrl/PythonMath-v0": 2.0, "toolrl/DocsSearch-v0": 3.0, "toolrl/DocsCompute-v0": 1.0}
RUNS = os.environ.get("CURRICULUM_RUNS", "runs/tiny").split()


def main() -> str:
    if missing := [run for run in RUNS if not (Path(run) / "trajectories.jsonl").exists()]:
        return f"curriculum: no run in {missing[0]!r}; name some in CURRICULUM_RUNS\n"
    columns = ["run", "nats a group", "first half: expected to differ", "did", "second half: expected", "did"]
    return table("A curriculum's belief, before each group was played", columns, [predict(Path(run)) for run in RUNS])


def predict(run: Path) -> list[str]:
    """A row of the table."""
    tasks = {Place(name, task.id): task for name in WEIGHTS for task in make(name).tasks}
    ids = {name: [place.task_id for place in tasks if place.env_id == name] for name in WEIGHTS}
    groups: dict[int, dict[str, list[Trajectory]]] = defaultdict(lambda: defaultdict(list))
    places: dict[str, Place] = {}
    for played in read_trajectories(run / "trajectories.jsonl"):
        if played.info["mode"] == "train" and played.score.value is not None:
            groups[played.info["step"]][played.info["group"]].append(played)
            places[played.info["group"]] = Place(played.env_id, played.task_id)
    size = max(len(group) for step in groups.values() for group in step.values())
    plan = Curriculum(Mixture(ids, WEIGHTS, 0), tasks, WEIGHTS, size, 0)
    likelihood, expected, found = [], [], []
    for step in sorted(groups):
        passes, fails = plan._beliefs()
        useful, outcomes = plan.usefulness(), []
        for name, episodes in groups[step].items():
            task, passed = plan._index[places[name]], sum(bool(episode.score.success) for episode in episodes)
            likelihood.append(_log_likelihood(float(passes[task]), float(fails[task]), passed, len(episodes) - passed))
            expected.append(float(useful[task]))
            found.append(has_variance(episodes))
            outcomes.append(Outcome(places[name], passed, len(episodes), found[-1]))
        plan.learn(outcomes)
    half = len(found) // 2
    parts = (expected[:half], found[:half], expected[half:], found[half:])
    return [run.name, f"{fmean(likelihood):.2f}", *(f"{fmean(part):.2f}" for part in parts)]


def _log_likelihood(a: float, b: float, passed: int, failed: int) -> float:
    """Of a beta-binomial distribution."""
    log = math.lgamma(passed + failed + 1) - math.lgamma(passed + 1) - math.lgamma(failed + 1)
    log += math.lgamma(a + passed) + math.lgamma(b + failed) - math.lgamma(a + b + passed + failed)
    return log - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
