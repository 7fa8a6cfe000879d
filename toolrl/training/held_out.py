"""Held-out tasks, played before, during and after training: success with intervals, the best model, when to stop."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import PartialState  # type: ignore[import-untyped]
from accelerate.utils import broadcast_object_list  # type: ignore[import-untyped]
from rich.console import Console
from rich.text import Text
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from toolrl.distributed import RolloutPool
from toolrl.env import ToolEnv
from toolrl.evaluation import Counterfactuals, EnvReport, evaluate, mean, progress, short_name
from toolrl.evaluation.counterfactuals import MODE, NONE, TOOLS, measure, under
from toolrl.gateway import ProgramEngine
from toolrl.training.arguments import ToolrlArguments
from toolrl.trajectory import Trajectory, TrajectoryWriter
from toolrl.types import SamplingParams

if TYPE_CHECKING:
    from toolrl.training.trl import GRPORun

EnvReports = dict[str, EnvReport]  # by environment
BEST, RESULTS = "best", "held_out.json"


class HeldOut(TrainerCallback):
    """Plays held-out tasks every `eval_steps`, and keeps the model with the highest success in `best/`.

    All processes take part: they hold the same reports and take the same decisions. The evaluations so far are in the
    trainer's own log, which each checkpoint holds, so a resumed run goes on counting where it stopped.

    Attributes:
        run: Whose policy plays; set it before the first evaluation.
        reports: "before" and "after", as in `report.json`.
    """

    run: GRPORun

    def __init__(
        self, environments: dict[str, ToolEnv], arguments: ToolrlArguments, writer: TrajectoryWriter, folder: Path,
        console: Console, *, resumes: bool = False,
    ):  # fmt: skip
        """Play tasks of `environments`; if the run `resumes`, go on with the results in its folder."""
        self._environments, self._arguments, self._writer = environments, arguments, writer
        self._folder, self._console = folder, console
        self._latest: tuple[int, EnvReports] = (-1, {})  # the step of the latest evaluation, and its reports
        self._use: dict[str, Counterfactuals] = {}  # of the latest evaluation, by environment
        if PartialState().is_main_process:
            _recover(folder)
        best = read_best(folder) if resumes else None
        stored = (read_reports(folder) if resumes else {}, best["success"] if best else -1.0)
        self.reports: dict[str, EnvReports]
        self.reports, self._best_success = broadcast_object_list([stored])[0]

    def play(self, mode: str) -> EnvReports:
        """Play the tasks with the current weights.

        Args:
            mode: "before", "after" or "eval" (during training); the first two are written to `report.json`.
        """
        trainer: Any = self.run.trainer
        step = trainer.state.global_step
        self.run.sync_weights()
        found: list[Any] = [None]
        if trainer.is_world_process_zero():
            what = f"held-out episodes, step {step}" if mode == "eval" else f"held-out episodes, {mode} training"
            with trainer.clock.part("evaluation"), progress(what) as show:
                played: list[Trajectory] = []
                reports = self._evaluate(self._environments, self._arguments.eval_tasks, mode, played, on_progress=show)
                found = [(reports, self._play_alone(played))]
        with trainer.clock.part("evaluation"):
            reports, self._use = broadcast_object_list(found)[0]
        self._latest = step, reports
        if mode != "eval":
            self._report(mode)
        return reports

    def _evaluate(
        self, environments: dict[str, ToolEnv], tasks: int, mode: str, played: list[Trajectory], **settings: Any
    ) -> EnvReports:
        """Play tasks as the run's settings say, record the episodes, and add them to `played`."""
        run, arguments = self.run, self._arguments
        trainer: Any = run.trainer

        def keep(trajectory: Trajectory) -> None:
            self._writer.write(trajectory)
            played.append(trajectory)

        elsewhere = run.engine if isinstance(run.engine, (RolloutPool, ProgramEngine)) else None
        return evaluate(
            environments,
            None if isinstance(run.policy, RolloutPool) else run.policy,
            run.renderer,
            workers=elsewhere,
            tasks=tasks,
            samples=arguments.eval_samples,
            sampling=SamplingParams(trainer.args.temperature, arguments.max_turn_tokens),
            concurrency=arguments.concurrency,
            policy_timeout_seconds=arguments.policy_timeout_seconds,
            max_completion_tokens=trainer.args.max_completion_length,
            on_trajectory=keep,
            info={"mode": mode, "session": run.session, "step": trainer.state.global_step},
            **settings,
        )

    def _play_alone(self, played: list[Trajectory]) -> dict[str, Counterfactuals]:
        """Play some of the tasks without tools too: what the model needs them for, and whether it calls them then."""
        environments = {env_id: env for env_id, env in self._environments.items() if env.toolbox.tools}
        if not self._arguments.eval_alone or not environments:
            return {}
        without = {env_id: under(env, NONE, played) or env for env_id, env in environments.items()}
        alone: list[Trajectory] = []
        self._evaluate(without, self._arguments.eval_alone, MODE, alone)
        return {
            env_id: measure(env_id, {TOOLS: _of(played, env_id), NONE: _of(alone, env_id)}) for env_id in environments
        }

    def finish(self) -> None:
        """Play the tasks after training, unless that was done at its last step."""
        if self._latest[0] == self.run.trainer.state.global_step:
            self._report("after")
        else:
            self.play("after")

    def _report(self, mode: str) -> None:
        self.reports[mode] = self._latest[1]
        if self.run.trainer.is_world_process_zero():
            _write_json(self._folder / "report.json", _plain(self.reports))

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The model before training is the first in the comparison."""
        if state.global_step == 0 and args.eval_steps:
            self._record(self.reports["before"])

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Every `eval_steps`, and at the last step, play the tasks; stop after `patience` times without a gain."""
        if not args.eval_steps:
            return
        is_last = state.global_step >= state.max_steps
        every = args.eval_steps if args.eval_steps >= 1 else math.ceil(state.max_steps * args.eval_steps)
        if not is_last and state.global_step % every:
            return
        should_log = control.should_log
        self._record(self.play("after" if is_last else "eval"))
        control.should_log = should_log  # logging clears it, and the step itself is still to be logged
        scores = [row["eval_success"] for row in state.log_history if "eval_success" in row]
        without_gain = len(scores) - 1 - scores.index(max(scores)) if scores else 0
        if 0 < self._arguments.patience <= without_gain and not is_last:
            control.should_training_stop = True
            if state.is_world_process_zero:
                line = f"stopped at step {state.global_step}: no gain in {without_gain} evaluations (--patience)"
                self._console.print(Text(line, style="yellow"), soft_wrap=True)

    def _record(self, reports: EnvReports) -> None:
        """Log an evaluation, and keep the model if no other has had more success."""
        scored = [report for report in reports.values() if report.samples]
        numbers: dict[str, float] = {}
        for report in scored:
            low, high = report.success_interval
            values = {"success": report.success, "success_low": low, "success_high": high, "reward": report.reward}
            numbers |= {f"eval_{short_name(report.env_id)}/{name}": value for name, value in values.items()}
        for report in reports.values():
            episodes = report.samples + report.unscored
            numbers[f"eval_{short_name(report.env_id)}/unscored_share"] = report.unscored / episodes
        for env_id, use in self._use.items():
            shares = {"need": use.need, "over_use": use.over_use, "under_use": use.under_use}
            name = short_name(env_id)
            numbers |= {f"eval_{name}/{what}": share.value for what, share in shares.items() if share.value is not None}
        success = mean(report.success for report in scored)
        if success is not None:
            numbers["eval_success"] = success
        trainer = self.run.trainer
        Trainer.log(trainer, dict(numbers))  # TRL's own would add what it has gathered of the step so far
        if success is not None and success > self._best_success:
            self._best_success = success
            self._keep(success, reports)

    def _keep(self, success: float, reports: EnvReports) -> None:
        """Replace `best/`; whenever the process is killed, a complete one is left."""
        partial, trainer = self._folder / f"{BEST}.partial", self.run.trainer
        if trainer.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(partial))
        if trainer.is_world_process_zero():
            plain = {env_id: dataclasses.asdict(report) for env_id, report in reports.items()}
            facts = {"step": trainer.state.global_step, "success": success, "reports": plain}
            _write_json(partial / RESULTS, facts)
            if (self._folder / BEST).exists():
                (self._folder / BEST).rename(self._folder / f"{BEST}.old")
            partial.rename(self._folder / BEST)
            shutil.rmtree(self._folder / f"{BEST}.old", ignore_errors=True)
        trainer.accelerator.wait_for_everyone()


def _of(played: list[Trajectory], env_id: str) -> list[Trajectory]:
    return [trajectory for trajectory in played if trajectory.env_id == env_id]


def read_best(folder: Path) -> dict[str, Any] | None:
    """The step, the mean success and the reports of the model in `best/`; None if there is none."""
    try:
        found: dict[str, Any] = json.loads((folder / BEST / RESULTS).read_text())
    except FileNotFoundError:
        return None
    found["reports"] = {env_id: _read(fields) for env_id, fields in found["reports"].items()}
    return found


def read_reports(folder: Path) -> dict[str, EnvReports]:
    """The reports in `report.json`, by mode; empty without such a file."""
    path = folder / "report.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    return {mode: {env_id: _read(fields) for env_id, fields in by_env.items()} for mode, by_env in stored.items()}


def _read(fields: dict[str, Any]) -> EnvReport:
    fields["success_interval"] = tuple(fields["success_interval"])
    for name in ("pass_at", "pass_all"):
        fields[name] = {int(k): value for k, value in fields.get(name, {}).items()}
    return EnvReport(**fields)


def _plain(reports: dict[str, EnvReports]) -> dict[str, Any]:
    return {mode: {env: dataclasses.asdict(report) for env, report in by.items()} for mode, by in reports.items()}


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(value, indent=1))
    partial.replace(path)


def _recover(folder: Path) -> None:
    """Undo what a killed process left undone: between two renames, `best/` is under its old name only."""
    if not (folder / BEST).exists() and (folder / f"{BEST}.old").exists():
        (folder / f"{BEST}.old").rename(folder / BEST)
    for left in ("old", "partial"):
        shutil.rmtree(folder / f"{BEST}.{left}", ignore_errors=True)
