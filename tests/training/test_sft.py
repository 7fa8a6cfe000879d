"""From demonstrations to a policy that has learnt from them: `toolrl demonstrations`, `sft`, `eval`, `train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from trl import GRPOConfig, ModelConfig, SFTConfig, SFTTrainer  # type: ignore[attr-defined]

from tests.training.commands import command
from toolrl import make, read_trajectories
from toolrl.chat.variants import named_template
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import GRPORun
from toolrl.training.loading import load_for_training

ENV = "toolrl/PythonMath-v0"
FLAGS = [
    "--model_name_or_path=tiny", "--max_steps=10", "--per_device_train_batch_size=16", "--learning_rate=1e-3",
    "--lr_scheduler_type=constant", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false",
    "--report_to=none", "--logging_steps=1", "--save_strategy=no",
]  # fmt: skip
ORACLE = ["demonstrations", "--env", ENV]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations") / "data.jsonl"
    assert command(*ORACLE, "--tasks", "200", "--out", str(path)) == 0
    return path


@pytest.fixture(scope="module")
def folder(demonstrations: Path) -> Path:
    path = demonstrations.parent / "sft"
    assert command("sft", *FLAGS, "--dataset", str(demonstrations), f"--output_dir={path}") == 0
    return path


def test_the_readme_says_what_was_learnt_from_and_that_nothing_was_measured(folder: Path, demonstrations: Path) -> None:
    card = (folder / "README.md").read_text()
    assert card == (folder / "model" / "README.md").read_text()
    assert f"- `{demonstrations}`: demonstrations" in card
    assert "| demonstrations | `200` |" in card
    assert "| steps | `10` |" in card
    assert "nothing is known of its success" in card
    assert "None" not in card


def greedy(model: str, path: Path) -> dict[str, tuple[bool, int]]:
    """Success and calls by task, on the same held-out tasks."""
    arguments = [ENV, "--tasks", "24", "--temperature", "0", "--max_turn_tokens", "96", "--device", "cpu"]
    assert command("eval", *arguments, "--model", model, "--out", str(path)) == 0
    return {t.task_id: (bool(t.score.success), len(t.tool_results)) for t in read_trajectories(path)}


def test_oracles_demonstrations_are_in_the_order_of_their_tasks(demonstrations: Path) -> None:
    rows = map(json.loads, demonstrations.read_text().splitlines())
    assert [row["task_id"] for row in rows] == [task.id for task in make(ENV).tasks.take(200)]


def test_the_loss_falls_and_greedy_behaviour_changes(folder: Path, tmp_path: Path) -> None:
    losses = [
        row["loss"] for row in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row
    ]
    assert len(losses) == 10
    assert sum(losses[-3:]) < sum(losses[:3]) / 3
    before, after = greedy("tiny", tmp_path / "before.jsonl"), greedy(str(folder / "model"), tmp_path / "after.jsonl")
    assert before != after
    # The embedded policy makes needless calls; the oracle does not.
    assert sum(calls for _, calls in after.values()) < sum(calls for _, calls in before.values())
    assert sum(right for right, _ in after.values()) > sum(right for right, _ in before.values())


def test_a_run_repeats_from_its_config_and_training_starts_from_its_model(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    config = ["--config", str(folder / "config.yaml"), f"--output_dir={again}", "--max_steps=1"]
    assert command("sft", *config) == 0
    arguments = [
        f"--model_name_or_path={again / 'model'}", "--envs", ENV, "--max_steps=1", "--num_generations=2",
        "--per_device_train_batch_size=2", "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false",
        "--report_to=none", "--eval_tasks=0", "--save_strategy=no", f"--output_dir={tmp_path / 'train'}",
    ]  # fmt: skip
    assert command("train", *arguments) == 0


def test_a_models_own_episodes_are_learnt_from_token_by_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    episodes, data = tmp_path / "episodes.jsonl", tmp_path / "data.jsonl"
    # At temperature 0.6 a third of its answers is correct; at 1 a tenth, and sometimes none of 24.
    arguments = [
        "eval",
        ENV,
        "--tasks",
        "24",
        "--samples",
        "2",
        "--split",
        "train",
        "--temperature",
        "0.6",
        "--device",
        "cpu",
    ]
    assert command(*arguments, "--out", str(episodes)) == 0
    assert command("demonstrations", str(episodes), "--out", str(data)) == 0
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    played = list(read_trajectories(episodes))
    assert {row["task_id"] for row in rows} <= {t.task_id for t in played if t.score.success}
    assert len({row["task_id"] for row in rows}) == len(rows) > 0
    capsys.readouterr()
    sft = ["sft", *FLAGS, "--dataset", str(data), f"--output_dir={tmp_path / 'sft'}", "--max_steps=1"]
    assert command(*sft) == 0
    assert f"{len(rows)} demonstrations, {len(rows)} as sampled" in " ".join(capsys.readouterr().out.split())


def test_trl_learns_from_the_same_file_by_itself(demonstrations: Path, tmp_path: Path) -> None:
    rows = datasets.load_dataset("json", data_files=str(demonstrations), cache_dir=str(tmp_path / "cache"))["train"]
    tokenizer = load_tokenizer("tiny")
    config = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, max_steps=1
    )
    trainer = SFTTrainer(load_model("tiny"), config, train_dataset=rows, processing_class=tokenizer)
    assert isinstance(trainer.train_dataset, datasets.Dataset)
    texts = [tokenizer.decode(ids) for ids in trainer.train_dataset["input_ids"]]
    assert any("<tool_call>" in text and '"code"' in text for text in texts)
    assert not any("null" in text or "None" in text for text in texts)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["demonstrations", "--out", "x.jsonl"], "nothing to select from"),
        (["demonstrations", "nowhere.jsonl", "--out", "x.jsonl"], "no trajectories at 'nowhere.jsonl'"),
        (
            ["demonstrations", "--env", ENV, "--policy", "model", "--out", "x.jsonl"],
            "--policy must be 'oracle', got 'model'",
        ),
        (
            ["demonstrations", "--env", ENV, "--tasks", "2", "--min_reward", "7", "--out", "x.jsonl"],
            "0 demonstrations; left out: 2",
        ),
        (["sft"], "nothing to learn from; pass --dataset"),
        (["sft", "--dataset", "nowhere.jsonl"], "no data file at 'nowhere.jsonl'"),
        (["sft", "--dataset", "nowhere.jsonl", "--assistant_only_loss=true"], "remove --assistant_only_loss"),
        (["sft", "--dataset", "DATA", "--max_length=8"], "none of 200 demonstrations fits; the longest has"),
        (["sft", "--dataset", "DATA", "--model_name_or_path=openai:gpt"], "so it cannot be trained"),
        (["train", "--envs", ENV, "--model_name_or_path=openai:gpt"], "so it cannot be trained"),
        (["eval", ENV, "--price_in", "1"], "prices are for models named 'openai:NAME'"),
        (["eval", ENV, "--model", "openai:gpt", "--base_url", "127.0.0.1"], "base_url must start with http"),
        (["eval", ENV, "--model", "openai:gpt", "--request", "{"], "--request is not valid JSON"),
    ],
)
def test_wrong_input_is_one_clear_error(
    arguments: list[str],
    expected: str,
    demonstrations: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    extra = ["--output_dir=out", "--use_cpu=true", "--bf16=false"] if arguments[0] in ("train", "sft") else []
    assert command(*(str(demonstrations) if part == "DATA" else part for part in arguments), *extra) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert expected in error
    assert "Traceback" not in error
    assert not (tmp_path / "x.jsonl").exists()


def test_a_model_told_by_the_system_message_is_fine_tuned_trained_and_played_alike(
    demonstrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "the system message shows the tools, which the chat template leaves out; calls are written in the dialect"
    few = [*FLAGS, "--max_steps=1", "--check_memory=false"]
    flags = ["--dataset", str(demonstrations), "--chat_template=chatml", f"--output_dir={tmp_path / 'sft'}"]
    assert command("sft", *few, *flags) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    model = str(tmp_path / "sft" / "model")
    assert load_tokenizer(model).chat_template == named_template("chatml")
    assert command("eval", ENV, "--model", model, "--tasks", "1", "--max_turn_tokens", "8") == 0
    assert said in " ".join(capsys.readouterr().err.split())
    flags = ["--envs", ENV, "--eval_tasks=0", f"--output_dir={tmp_path / 'run'}", "--max_completion_length=32"]
    assert command("train", *few, f"--model_name_or_path={model}", *flags, "--max_turn_tokens=8") == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert load_tokenizer(str(tmp_path / "run" / "model")).chat_template == named_template("chatml")
    [prompt] = {
        load_tokenizer(model).decode(trajectory.prompt_ids).partition("<|im_end|>")[0]
        for trajectory in read_trajectories(tmp_path / "run" / "trajectories.jsonl")
    }
    assert "# Tools" in prompt


def test_a_run_saves_the_template_it_was_given_or_that_the_model_lacked(
    grpo_run: Callable[..., GRPORun], tmp_path: Path
) -> None:
    bare = load_tokenizer("tiny")
    bare.chat_template = None
    for tokenizer, given, saved in (
        (None, None, load_tokenizer("tiny").chat_template),
        (None, named_template("qwen2.5"), named_template("qwen2.5")),
        (bare, None, named_template("chatml")),
    ):
        run = grpo_run(tokenizer=tokenizer, chat_template=given)
        run.trainer.save_model(str(tmp_path / "model"))
        assert load_tokenizer(str(tmp_path / "model")).chat_template == saved


def test_only_the_trainer_that_loads_a_model_is_told_how() -> None:
    for config, told in ((SFTConfig, None), (GRPOConfig, {"revision": "main", "dtype": "float32"})):
        args = config(output_dir="unused", use_cpu=True, bf16=False, report_to="none")
        load_for_training("tiny", args, ModelConfig())
        assert args.model_init_kwargs == told, "TRL's SFTTrainer warns about settings for a model that it does not load"
