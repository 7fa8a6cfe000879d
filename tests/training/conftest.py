"""A small training set-up on the embedded model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trl import GRPOConfig  # type: ignore[attr-defined]

from tests.training.rows import run_for_rows
from toolrl import TrajectoryWriter, make
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import GRPORun
from toolrl.training.trainer import SampledTokensTrainer


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., GRPOConfig]:
    def build(**changes: Any) -> GRPOConfig:
        settings = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 1,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 1e-3,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "save_strategy": "no",
            "logging_steps": 1,
            "disable_tqdm": True,
        }
        return GRPOConfig(**{**settings, **changes})

    return build


@pytest.fixture
def grpo_run(config: Callable[..., GRPOConfig], tmp_path: Path) -> Iterator[Callable[..., GRPORun]]:
    opened: list[GRPORun] = []
    writer = TrajectoryWriter(tmp_path / "trajectories.jsonl")

    def build(
        environments: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        tokenizer: Any = None,
        **options: Any,
    ) -> GRPORun:
        environments = environments or {"toolrl/PythonMath-v0": make("toolrl/PythonMath-v0", size=50)}
        run = GRPORun(
            load_model("tiny"),
            tokenizer or load_tokenizer("tiny"),
            environments,
            config(**(changes or {})),
            **{"writer": writer, **options},
        )
        opened.append(run)
        return run

    yield build
    for run in opened:
        run.close()
    writer.close()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GRPORun]:
    """A run that is not started, for `rows`."""
    run = run_for_rows(str(tmp_path_factory.mktemp("rows")))
    yield run
    run.close()


@pytest.fixture
def trainer(idle: GRPORun, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SampledTokensTrainer]:
    """Its trainer, with other settings for the time of a test."""

    def change(**settings: Any) -> SampledTokensTrainer:
        for name, value in settings.items():
            monkeypatch.setattr(idle.trainer, name, value)
        return idle.trainer

    return change
