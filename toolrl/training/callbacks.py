"""Metrics written, and progress shown, while TRL trains."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers import TrainerCallback, TrainerState

from toolrl.evaluation import progress
from toolrl.support.progress import Show
from toolrl.view.metrics import read_metrics
from toolrl.view.plots import plot_curves
from toolrl.view.terminal import print_trajectory

USELESS_STEPS = 5  # without a group that teaches anything, until that is said


class MetricsCallback(TrainerCallback):
    """Appends each log to `metrics.jsonl` and redraws `curves.png` from time to time."""

    def __init__(self, folder: Path, redraw_seconds: float = 30.0):
        """Write into `folder`; when a run resumes, rows of steps that it repeats are dropped."""
        self._metrics, self._image = folder / "metrics.jsonl", folder / "curves.png"
        self._redraw_seconds = redraw_seconds
        self._drawn = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Keep the rows up to the step where training starts."""
        if state.is_world_process_zero:
            kept = [row for row in read_metrics(self._metrics) if row["step"] <= state.global_step > 0]
            partial = self._metrics.with_suffix(".partial")
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept))
            partial.replace(self._metrics)

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line."""
        if not state.is_world_process_zero or not logs:
            return
        # JSON has no NaN and no infinity.
        infinite = {name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)}
        numbers = {name: value for name, value in logs.items() if value is not None and name not in infinite}
        with self._metrics.open("a") as file:
            file.write(json.dumps({"step": state.global_step, "time": time.time(), **numbers}) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if time.monotonic() - self._drawn > self._redraw_seconds:
            plot_curves(self._metrics, self._image)
            self._drawn = time.monotonic()

    def on_train_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Draw the last curves."""
        if state.is_world_process_zero:
            plot_curves(self._metrics, self._image)


class ProgressCallback(TrainerCallback):
    """Prints one line per log: step, time, and success and tool use of each environment, or the loss of fine-tuning."""

    def __init__(self, console: Console, sample_every: int = 0, run: Any = None):
        """Print to `console`; every `sample_every` steps, also an episode of `run.last_batch`."""
        self._console = console
        self._useless = 0  # consecutive logs without a useful group
        self._sample_every = sample_every
        self.run = run
        self._start = time.monotonic()
        self._show: Show = lambda done, total: None

    @contextmanager
    def steps(self, *, is_main: bool, about: Callable[[], str] | None = None) -> Iterator[None]:
        """While open, the main process shows the progress of the steps: a bar in a terminal, else lines on stderr.

        Args:
            is_main: Whether this is the main process.
            about: Gives a further line, such as how the rollout workers are.
        """
        if not is_main:
            yield
            return
        with progress("steps", self._console if self._console.is_terminal else None, about) as self._show:
            yield

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        self._show(state.global_step, state.max_steps)

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self._show(state.global_step, state.max_steps)
        if state.is_world_process_zero and state.global_step >= state.max_steps:
            self._console.print(
                f"step {state.global_step}/{state.max_steps}: nothing left to train; raise --max_steps to continue"
            )
        elif state.is_world_process_zero and self.run:
            self._console.print(
                "success, and share of episodes with a tool call where one is needed | where none is", style="dim"
            )

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Print one line."""
        if state.is_world_process_zero and logs and "eval_success" in logs:
            found = [name[len("eval_") : -len("/success")] for name in logs if name.endswith("/success")]
            parts = [f"{env} {_held_out(logs, f'eval_{env}')}" for env in found]
            self._console.print(Text(f"step {state.global_step:>4} held-out success  {'  '.join(parts)}", style="bold"))
        if not state.is_world_process_zero or not logs or not logs.keys() & {"reward", "loss"}:
            return
        elapsed = time.monotonic() - self._start
        line = f"step {state.global_step:>4}/{state.max_steps} {elapsed:5.0f} s  "
        if "reward" not in logs:
            accuracy = logs.get("mean_token_accuracy")
            line += f"loss {logs['loss']:.4f}" + ("" if accuracy is None else f"  token accuracy {accuracy:.3f}")
            self._console.print(Text(line), soft_wrap=True)
            return
        reward = "none " if logs["reward"] is None else f"{logs['reward']:.3f}"
        parts = [_environment(logs, name[: -len("/success")]) for name in sorted(logs) if name.endswith("/success")]
        self._console.print(Text(f"{line}reward {reward}  {'  '.join(parts)}"), soft_wrap=True)
        for alarm in self._alarms(logs):
            self._console.print(Text(alarm), style="bold red", soft_wrap=True)
        if self._sample_every and state.global_step % self._sample_every == 0 and self.run and self.run.last_batch:
            print_trajectory(self._console, self.run.last_batch[0])

    def _alarms(self, logs: dict[str, Any]) -> Iterator[str]:
        """Warnings about the values logged."""
        if logs["reward"] is None:
            reasons = [t.score.reason for t in self.run.last_batch if t.score.reason] if self.run else []
            yield "no episode was scored, so nothing was learnt" + (f"; for example: {reasons[0]}" if reasons else "")
        if logs.get("loss/alarm"):
            yield (
                f"the loss or its gradient was not finite in {logs['loss/alarm']:.0f} step(s), which did not change "
                "the model; lower --learning_rate, use bf16 instead of fp16, and check the rewards"
            )
        if logs.get("reward/alarm"):
            yield "different rewards of a group are equal in float32; shift or scale them"
        self._useless = 0 if logs.get("useful_group_share", 1.0) else self._useless + 1
        if self._useless == USELESS_STEPS:
            yield (
                f"no group of the last {USELESS_STEPS} steps had episodes with different rewards: nothing was learnt; "
                "the tasks are too easy or too hard for the policy, or the reward is constant; see toolrl check"
            )
        if logs.get("mismatch/alarm"):
            mean, most, masked = (logs[f"mismatch/{name}"] for name in ("mean", "max", "masked_share"))
            yield (
                f"sampler and trainer disagree: log-probabilities differ by {mean:.3f} nats a token, "
                f"at most by {most:.2f}; {masked:.0%} of the tokens are masked"
            )


def _held_out(logs: dict[str, Any], env: str) -> str:
    success, low, high = (logs[f"{env}/success{which}"] for which in ("", "_low", "_high"))
    return f"{success:.2f} [{low:.2f}, {high:.2f}]"


def _environment(logs: dict[str, Any], env: str) -> str:
    """Success and tool use in an environment, and the hack rate and gap of code answers, if there are any."""
    shares = (logs.get(f"{env}/call_share_{which}") for which in ("needed", "needless"))
    use = " | ".join("-" if share is None else f"{share:.2f}" for share in shares)
    hack, gap = logs.get(f"{env}/part_hack", 0.0), logs.get(f"{env}/part_gap", 0.0)
    hacks = f" hacks {hack:.2f}, visible - hidden {gap:.2f}" if hack or gap else ""
    return f"{env} {logs[f'{env}/success']:.2f} ({use}){hacks}"
