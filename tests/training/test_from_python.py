"""Promises of training from Python: names and environments that are there already, in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from trl import GRPOConfig  # type: ignore[attr-defined]

from toolrl import ConfigError, Task, ToolEnv, make, read_trajectories, say
from toolrl.training import GRPORun, train

SETTINGS: dict[str, Any] = {
    "max_steps": 1, "num_generations": 2, "per_device_train_batch_size": 4, "max_completion_length": 64,
    "max_turn_tokens": 16, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none",
    "save_strategy": "no", "eval_tasks": 2, "train_tasks": 8, "logging_steps": 1, "beta": 0.0,
}  # fmt: skip


def counting(count: int = 30) -> ToolEnv:
    return ToolEnv(
        tasks=[Task(f"t{n}", f"Say {n}.", str(n)) for n in range(count)],
        reward=lambda task, episode: float(episode.answer == task.answer),
        oracle=lambda task: [say(task.answer)],
    )


def test_names_and_environments_are_trained_on_together(tmp_path: Path) -> None:
    own, made = counting(), make("toolrl/PythonMath-v0", size=40)
    reports = train(
        [own, made, counting(), "toolrl/DocsSearch-v0"], "tiny", console=Console(quiet=True),
        output_dir=str(tmp_path / "run"), **{**SETTINGS, "per_device_train_batch_size": 16},
    )  # fmt: skip
    names = {"ToolEnv", "toolrl/PythonMath-v0", "ToolEnv@3", "toolrl/DocsSearch-v0"}
    assert set(reports["before"]) == set(reports["after"]) == names
    episodes = list(read_trajectories(tmp_path / "run" / "trajectories.jsonl"))
    by_mode = {
        mode: {t.task_id for t in episodes if t.env_id.startswith("ToolEnv") and t.info["mode"] == mode}
        for mode in ("train", "before")
    }
    assert by_mode["train"]
    assert by_mode["before"]
    assert not by_mode["train"] & by_mode["before"]
    assert len(own.tasks) == 30  # it is still whole
    own.close()
    made.close()


def test_a_config_may_be_named_and_settings_take_precedence(tmp_path: Path) -> None:
    settings = {**SETTINGS, "eval_tasks": 0, "output_dir": str(tmp_path / "run")}
    assert train("toolrl/PythonMath-v0:2", config="tiny", console=Console(quiet=True), **settings) == {}
    assert len(list(read_trajectories(tmp_path / "run" / "trajectories.jsonl"))) == 4


@pytest.mark.parametrize(
    ("envs", "settings", "message"),
    [
        ("toolrl/PythonMath-v0", {"learning_rat": 1}, "there is no flag --learning_rat; did you mean --learning_rate"),
        ("toolrl/PythonMath-v0", {"max_steps": "many"}, "invalid int value: 'many'"),
        (counting(), {"env_settings": {"ToolEnv": {"size": 3}}}, "'ToolEnv' is already made"),
        ([], {}, "no environment to train on"),
    ],
)
def test_a_wrong_setting_is_one_clear_error(tmp_path: Path, envs: Any, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(envs, "tiny", output_dir=str(tmp_path / "run"), **{**SETTINGS, **settings})
    assert not (tmp_path / "run").exists()


def test_a_run_takes_names_and_environments(tmp_path: Path) -> None:
    args = GRPOConfig(
        str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_steps=1, max_completion_length=64,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no",
    )  # fmt: skip
    run = GRPORun("tiny", None, [counting(), counting()], args, max_turn_tokens=8)
    assert list(run.environments) == ["ToolEnv", "ToolEnv@2"]
    run.train()
    assert len(run.last_batch) == 4
    run.close()
