"""What the scheduler saves: the recipe of `make train` with and without refill and a curriculum, same seeds.

Then `toolrl/PythonMath-v0` alone, whose tasks differ in difficulty, with and without a curriculum: the episodes played
until held-out success reaches 0.9. Episodes count whether they were trained on or not. Time is that of the steps,
without evaluation. The two runs of a pair go on at once, each on a core of its own. SCHEDULE_SEEDS="0 1 2"; a pair
takes some ten minutes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks.common import table
from toolrl.view.metrics import read_metrics

SEEDS = os.environ.get("SCHEDULE_SEEDS", "0 1 2").split()
VARIANTS: dict[str, list[str]] = {
    "recipe": [],
    # Steps of 7 groups, and of at most one more in the place of one without variance; half the episodes.
    "refill, curriculum": [
        "--refill=0.14", "--curriculum=true", "--per_device_train_batch_size=56", "--max_steps=40",
        "--train_tasks=2000",
    ],
}  # fmt: skip
MATH = ["--envs", "toolrl/PythonMath-v0", "--max_steps=40", "--eval_steps=2", "--train_tasks=2000"]
GOAL = 0.9


def main() -> str:
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for seed in SEEDS for row in pair(train, Path(folder), seed, VARIANTS)]
        columns = ["variant", "seed", "held-out success", "episodes", "in groups that differ", "seconds"]
        found = table("The recipe of `make train`", columns, [[*row.values()] for row in rows])
        found += ratios(
            [row for row in rows if row["variant"] != "recipe"], [r for r in rows if r["variant"] == "recipe"]
        )
        variants = {"mixture": [], "curriculum": ["--curriculum=true"]}
        rounds = [row for seed in SEEDS for row in pair(reach, Path(folder), seed, variants)]
        columns = ["tasks by", "seed", f"episodes to {GOAL}", "share of useful groups"]
        return found + "\n" + table("toolrl/PythonMath-v0, held-out success every two steps", columns, rounds)


def pair(measure: Callable[..., Any], folder: Path, seed: str, variants: dict[str, list[str]]) -> list[Any]:
    """Measure both variants at the same time."""
    with ThreadPoolExecutor() as pool:
        runs = [
            pool.submit(measure, folder, name, seed, flags, core) for core, (name, flags) in enumerate(variants.items())
        ]
        rows = [run.result() for run in runs]
    print(*rows, sep="\n", flush=True)
    return rows


def run(folder: Path, name: str, seed: str, flags: list[str], core: int) -> tuple[list[dict[str, Any]], Path]:
    """Train, and return the rows of the metrics."""
    own = folder / f"{name}-{seed}".replace(", ", "-")
    arguments = ["train", "--config=tiny", f"--seed={seed}", f"--task_seed={seed}", f"--output_dir={own}", *flags]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "toolrl", *arguments, "--save_strategy=no"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    return read_metrics(own / "metrics.jsonl"), own


def episodes(row: dict[str, Any]) -> float:
    return float(row.get("played/groups", 0.0)) * 8


def train(folder: Path, name: str, seed: str, flags: list[str], core: int) -> dict[str, Any]:
    rows, own = run(folder, name, seed, flags, core)
    after = json.loads((own / "report.json").read_text())["after"]
    useful = sum(row["useful_group_share"] * episodes(row) for row in rows if "useful_group_share" in row)
    seconds = sum(row["time/step"] - row.get("time/evaluation", 0.0) for row in rows if "time/step" in row)
    return {
        "variant": name,
        "seed": seed,
        "success": round(statistics.fmean(report["success"] for report in after.values()), 3),
        "episodes": round(sum(map(episodes, rows))),
        "useful": round(useful),
        "seconds": round(seconds),
    }


def ratios(new: list[dict[str, Any]], old: list[dict[str, Any]]) -> str:
    """The ratios of each pair."""
    lines = []
    for name in ("episodes", "seconds", "success"):
        pairs = [f"{one[name] / other[name]:.2f}" for one, other in zip(new, old, strict=True)]
        lines.append(f"{name}, new to recipe: {', '.join(pairs)}")
    return "\n".join(lines) + "\n"


def reach(folder: Path, name: str, seed: str, flags: list[str], core: int) -> list[Any]:
    rows, _ = run(folder, name, seed, [*MATH, *flags], core)
    played, reached = 0.0, "not reached"
    for row in rows:
        played += episodes(row)
        if row.get("eval_PythonMath/success", 0.0) >= GOAL:
            reached = f"{played:.0f}"
            break
    shares = [row["useful_group_share"] for row in rows if "useful_group_share" in row]
    return [name, seed, reached, f"{statistics.fmean(shares):.2f}"]
