"""Promises about held-out tasks during training: logged with intervals, the best model kept, an end when all is won."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from rich.console import Console
from transformers import Trainer

from tests.training.commands import command
from toolrl import ConfigError, Task, ToolEnv, TrajectoryWriter, make, read_trajectories
from toolrl.policy.models import load_tokenizer
from toolrl.training import GRPORun, ToolrlArguments
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.held_out import HeldOut, read_best
from toolrl.view.plots import plot_curves

BAD = [
    (["--patience=2"], "--patience 2 counts held-out evaluations; pass --eval_steps too"),
    (["--eval_steps=2", "--eval_tasks=0"], "--eval_steps 2.0: it plays held-out tasks; pass --eval_tasks"),
    (["--eval_steps=1.5"], "--eval_steps must be a whole number"),
    (["--eval_steps=0"], "--eval_steps must be above 0"),
    (["--patience=-1"], "--patience must be at least 0"),
    (["--eval_strategy=steps"], "keeps the best model in best/; pass --eval_steps and --eval_tasks"),
]


def look_up(key: str) -> str:
    """Look something up.

    Args:
        key: It.
    """
    return key


class Session:
    """Trains as `toolrl train` does, with held-out tasks that are solved at some steps only."""

    def __init__(self, grpo_run: Callable[..., GRPORun], folder: Path):
        self.grpo_run, self.folder, self.told = grpo_run, folder, io.StringIO()
        folder.mkdir(exist_ok=True)

    def train(
        self, solved: list[int], *, checkpoint: int = 0, patience: int = 0, alone: int = 0, **changes: Any
    ) -> HeldOut:
        """Train; `solved` are the steps at which half of the held-out tasks are solved."""
        held_out = ToolEnv(
            tasks=[Task(str(n), f"{n} + {n}?", "") for n in range(4)],
            tools=[look_up] if alone else [],
            reward=lambda task, episode: float(run.trainer.state.global_step in solved and int(task.id) % 2),
        )
        arguments = ToolrlArguments(eval_tasks=4, eval_alone=alone, patience=patience, max_turn_tokens=4)
        console = Console(file=self.told, width=200)
        with TrajectoryWriter(self.folder / "trajectories.jsonl") as writer:
            evaluation = HeldOut(
                {"mine/Sums-v0": held_out}, arguments, writer, self.folder, console, resumes=checkpoint > 0
            )
            settings = {
                "num_generations": 2, "per_device_train_batch_size": 2, "eval_steps": 1, "save_strategy": "steps",
                "save_steps": 1, "output_dir": str(self.folder), "max_completion_length": 24,
            }  # fmt: skip
            callbacks = [MetricsCallback(self.folder), ProgressCallback(console), evaluation]
            run = self.grpo_run(changes={**settings, **changes}, callbacks=callbacks, max_turn_tokens=8)
            evaluation.run = run
            if "before" not in evaluation.reports:
                evaluation.play("before")
            run.train(self.folder / f"checkpoint-{checkpoint}" if checkpoint else None)
            evaluation.finish()
            run.trainer.create_model_card()
        return evaluation

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def session(grpo_run: Callable[..., GRPORun], tmp_path: Path) -> Session:
    return Session(grpo_run, tmp_path / "run")


def test_the_best_model_is_kept_and_training_stops_when_nothing_is_gained(session: Session) -> None:
    evaluation = session.train([1, 2], patience=2, max_steps=9)
    found = [row for row in session.rows if "eval_success" in row]
    assert [(row["step"], row["eval_success"]) for row in found] == [(0, 0.0), (1, 0.5), (2, 0.5), (3, 0.0)]
    assert all(
        row["eval_Sums/success_low"] <= row["eval_Sums/success"] <= row["eval_Sums/success_high"] for row in found
    )
    assert found[1]["eval_Sums/success_low"] < 0.2
    assert found[1]["eval_Sums/success_high"] > 0.8
    assert [row["step"] for row in session.rows if "reward" in row] == [1, 2, 3], "steps are logged as ever"
    best = read_best(session.folder)
    assert best is not None
    assert (best["step"], best["success"]) == (1, 0.5)
    weights = "model.safetensors"
    kept = (session.folder / "best" / weights).read_bytes()
    assert kept == (session.folder / "checkpoint-1" / weights).read_bytes()
    assert load_tokenizer(str(session.folder / "best")).eos_token
    assert "no gain in 2 evaluations (--patience)" in session.told.getvalue()
    assert "held-out success  Sums 0.50 [0.15, 0.85]" in session.told.getvalue()
    # The last evaluation is the one after training.
    assert evaluation.reports["after"]["mine/Sums-v0"].success == 0.0
    played = [t.info for t in read_trajectories(session.folder / "trajectories.jsonl")]
    assert [(info["mode"], info["step"]) for info in played] == [
        (mode, step) for step, mode in enumerate(("before", "eval", "eval", "eval")) for _ in range(4)
    ]
    assert plot_curves(session.folder / "metrics.jsonl", session.folder / "curves.png")
    card = ModelCard.load(session.folder / "README.md")
    assert "| `mine/Sums-v0` | 4 | 0.00 [0.00, 0.49] | 0.00 [0.00, 0.49] | 0.50 [0.15, 0.85] |" in card.text
    assert "best, step 1" in card.text
    assert card.data.eval_results[0].metric_value == 0.0
    assert (session.folder / "best" / "README.md").is_file()


def test_some_tasks_are_also_played_without_tools_apart_from_the_others(session: Session) -> None:
    session.train([1], alone=2, max_steps=2)
    found = [row for row in session.rows if "eval_success" in row]
    assert [(row["eval_Sums/need"], row["eval_Sums/under_use"]) for row in found] == [
        (1.0, 1.0),
        (0.5, 1.0),
        (1.0, 1.0),
    ]
    assert [row.get("eval_Sums/over_use") for row in found] == [None, 0.0, None]
    assert [row["eval_success"] for row in found] == [0.0, 0.5, 0.0]
    modes = [t.info["mode"] for t in read_trajectories(session.folder / "trajectories.jsonl")]
    assert {mode: modes.count(mode) for mode in modes} == {"before": 4, "counterfactual": 6, "eval": 4, "after": 4}


def test_a_resumed_run_keeps_the_best_model_and_goes_on_counting(session: Session) -> None:
    session.train([1], max_steps=2, eval_steps=0.5)
    kept = (session.folder / "best" / "model.safetensors").read_bytes()
    session.train([], checkpoint=2, patience=2, max_steps=9, eval_steps=1)
    assert [row["step"] for row in session.rows if "eval_success" in row] == [0, 1, 2, 3]
    assert (session.folder / "best" / "model.safetensors").read_bytes() == kept
    best = read_best(session.folder)
    assert best is not None
    assert best["step"] == 1


def test_a_model_that_is_half_written_is_never_the_best(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def save(trainer: Any, folder: str, **_: Any) -> None:
        whole(trainer, folder)
        if trainer.state.global_step == 1 and folder.endswith("best.partial"):
            (Path(folder) / "model.safetensors").write_bytes(b"half")
            raise Killed

    whole = Trainer.save_model
    monkeypatch.setattr(Trainer, "save_model", save)
    with pytest.raises(Killed):
        session.train([1], max_steps=2)
    best = read_best(session.folder)
    assert best is not None
    assert best["step"] == 0
    assert len((session.folder / "best" / "model.safetensors").read_bytes()) > 100
    # A process that is killed between two renames leaves the older one, under another name.
    (session.folder / "best").rename(session.folder / "best.old")
    with TrajectoryWriter(session.folder / "trajectories.jsonl") as writer:
        HeldOut({}, ToolrlArguments(), writer, session.folder, Console(), resumes=True)
    assert read_best(session.folder) == best
    assert [path.name for path in session.folder.glob("best*")] == ["best"]


@pytest.mark.parametrize(("flags", "expected"), BAD)
def test_settings_that_contradict_are_one_clear_error(
    flags: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["train", "--envs", "toolrl/PythonMath-v0", "--use_cpu=true", "--bf16=false", f"--output_dir={tmp_path}"]
    assert command(*small, *flags) == 2
    assert expected in " ".join(capsys.readouterr().err.split())


def test_python_code_without_held_out_tasks_cannot_ask_for_evaluations(grpo_run: Callable[..., GRPORun]) -> None:
    with pytest.raises(ConfigError, match="it plays held-out tasks"):
        grpo_run({"e": make("toolrl/PythonMath-v0", size=4)}, {"eval_steps": 1})
