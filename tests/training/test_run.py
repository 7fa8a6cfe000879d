"""`toolrl train` from the command line to the run's folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import pandas
import pytest
import yaml

from tests.training.commands import command
from toolrl import Renderer, read_trajectories
from toolrl.policy.models import load_tokenizer

SMALL = [
    "--model_name_or_path=tiny", "--envs", "toolrl/PythonMath-v0", "toolrl/DocsSearch-v0:0.5", "--max_steps=2",
    "--num_generations=4", "--per_device_train_batch_size=8", "--use_cpu=true", "--bf16=false",
    "--gradient_checkpointing=false", "--report_to=none", "--logging_steps=1", "--save_steps=1", "--eval_tasks=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "first"
    assert command("train", *SMALL, f"--output_dir={path}") == 0
    return path


def test_run_folder_is_complete(folder: Path) -> None:
    for name in ("config.yaml", "trajectories.jsonl", "metrics.jsonl", "curves.png", "report.json", "checkpoint-2"):
        assert (folder / name).exists(), name
    assert (folder / "model" / "model.safetensors").is_file()
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2]
    report = json.loads((folder / "report.json").read_text())
    assert set(report) == {"before", "after"}
    assert report["after"]["toolrl/PythonMath-v0"]["samples"] == 4


def test_trajectories_open_with_the_usual_tools(folder: Path) -> None:
    path = str(folder / "trajectories.jsonl")
    rows = datasets.load_dataset("json", data_files=path, cache_dir=str(folder / "cache"))["train"]
    frame = pandas.read_json(path, lines=True)
    assert len(rows) == len(frame) == 2 * 8 + 2 * 2 * 4
    for row in rows:
        assert len(row["completion_ids"]) == len(row["mask"]) == len(row["logprobs"]) > 0


def test_replaying_a_trajectory_gives_the_same_ids(folder: Path) -> None:
    renderer = Renderer(load_tokenizer("tiny"))
    from toolrl import Message, make

    schemas = {name: make(name).toolbox.schemas for name in ("toolrl/PythonMath-v0", "toolrl/DocsSearch-v0")}
    for trajectory in read_trajectories(folder / "trajectories.jsonl"):
        assert renderer.prompt_ids(trajectory.prompt, schemas[trajectory.env_id]) == trajectory.prompt_ids
        after_tools = False
        for turn in trajectory.turns:
            parsed = renderer.parse(turn.sample.token_ids, schemas[trajectory.env_id], after_tools=after_tools)
            after_tools = bool(turn.results)
            assert (parsed.content, len(parsed.tool_calls)) == (turn.message.content, len(turn.message.tool_calls))
            if turn.observation_ids and not trajectory.stop.truncated:
                messages = [
                    Message("tool", result.content, name=result.call.name, tool_call_id=result.call.id)
                    for result in turn.results
                ]
                assert tuple(renderer.observation_ids(messages)) == turn.observation_ids


def test_config_repeats_the_run(folder: Path, tmp_path: Path) -> None:
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert stored["envs"] == ["toolrl/PythonMath-v0", "toolrl/DocsSearch-v0:0.5"]
    again = tmp_path / "again"
    assert command("train", f"--config={folder / 'config.yaml'}", f"--output_dir={again}", "--eval_tasks=0") == 0
    assert (again / "model").is_dir()


def test_run_resumes_where_it_stopped(folder: Path) -> None:
    before = len(list(read_trajectories(folder / "trajectories.jsonl")))
    arguments = [a for a in SMALL if not a.startswith("--max_steps")]
    assert command("train", *arguments, "--max_steps=3", f"--output_dir={folder}", "--resume_from_checkpoint=true") == 0
    trajectories = list(read_trajectories(folder / "trajectories.jsonl"))
    # One more step of 8 episodes, and the evaluation after training; the one before is not repeated.
    assert len(trajectories) == before + 8 + 8
    assert len({t.id for t in trajectories}) == len(trajectories)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "reward" in row] == [1, 2, 3]


def test_kill_leaves_whole_lines_and_the_run_resumes(tmp_path: Path) -> None:
    path = tmp_path / "killed"
    arguments = [a for a in SMALL if not a.startswith(("--max_steps", "--eval_tasks"))]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "toolrl",
            "train",
            *arguments,
            "--max_steps=500",
            "--eval_tasks=0",
            f"--output_dir={path}",
        ],
        stdout=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None and not (path / "checkpoint-2" / "trainer_state.json").exists():
            try:
                process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
        assert process.poll() is None, "training ended before it could be killed"
    finally:
        process.kill()
        process.wait()
    lines = (path / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    assert all(json.loads(line) for line in lines if line.endswith(b"\n"))
    # The kill may have interrupted a checkpoint, which is then skipped.
    step = max(int(state.parent.name.split("-")[1]) for state in path.glob("checkpoint-*/trainer_state.json"))
    (path / f"checkpoint-{step + 7}").mkdir(exist_ok=True)
    resumed = [*arguments, f"--max_steps={step + 1}", "--eval_tasks=0", f"--output_dir={path}"]
    assert command("train", *resumed, "--resume_from_checkpoint=true") == 0
    assert all(list(read_trajectories(path / "trajectories.jsonl")))


@pytest.mark.slow
def test_two_processes_train_together(tmp_path: Path) -> None:
    path = tmp_path / "two"
    arguments = [a for a in SMALL if not a.startswith("--eval_tasks")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    # As `accelerate launch` does on GPUs; on a CPU it needs MPI to start several processes.
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run(
        [*launch, "-m", "toolrl", "train", *arguments, "--eval_tasks=2", f"--output_dir={path}"],
        env=environment,
        check=True,
        timeout=110,
        stdout=subprocess.DEVNULL,
    )
    trajectories = list(read_trajectories(path / "trajectories.jsonl"))
    training = [t for t in trajectories if t.info["mode"] == "train"]
    assert len(training) == 2 * 2 * 8
    assert {t.info["group"].split("/")[1] for t in training} == {"0", "1"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--envs", "toolrl/PythonMaths-v0"], "did you mean toolrl/PythonMath-v0"),
        (["train"], "no environment to train on"),
        (["train", "--envs", "toolrl/PythonMath-v0:heavy"], "'heavy' is not a number"),
        (["train", "--envs", "toolrl/PythonMath-v0", "--env_settings", "{"], "not valid JSON"),
        (["train", "--config", "nowhere.yaml"], "no config file at 'nowhere.yaml'"),
        (["train", "--envs", "toolrl/PythonMath-v0", "--model_name_or_path", "./nowhere"], "cannot load the model"),
        (["train", "--envs", "toolrl/PythonMath-v0", "--chat_template", "nowhere.jinja"], "'nowhere.jinja' cannot be"),
        (["train", "--envs", "toolrl/PythonMath-v0", "--chat_template", "qwen2.4"], "did you mean qwen2_5"),
        (["train", "--envs", "toolrl/PythonMath-v0", "--tool_prompt", "both"], "'template' or 'system', got 'both'"),
        (["eval", "toolrl/PythonMath-v0", "--tool_prompt", "both"], "'template' or 'system', got 'both'"),
        (["eval", "toolrl/PythonMath-v0", "--model", "nowhere.gguf"], "cannot read the model 'nowhere.gguf'"),
        (["eval", "toolrl/Nothing-v0"], "no environment"),
        (["eval", "toolrl/PythonMath-v0", "--policy", "magic"], "--policy must be"),
        (["eval", "toolrl/PythonMath-v0", "--env_settings", '{"toolrl/PythonMath-v0": {"sizes": 1}}'], "sizes"),
        (["eval", "toolrl/PythonMath-v0", "--split", "validation"], "split must be"),
    ],
)
def test_wrong_input_is_one_clear_error(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = [f"--output_dir={tmp_path}", "--use_cpu=true", "--bf16=false"] if arguments[0] == "train" else []
    assert command(*arguments, *extra) == 2
    error = capsys.readouterr().err
    assert expected in " ".join(error.split())
    assert "Traceback" not in error


def test_wrong_task_file_names_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text('{"question": "1+1?", "answer": "#### 2"}\n{"question": \n')
    settings = json.dumps({"toolrl/PythonMath-v0": {"data": str(path)}})
    assert command("eval", "toolrl/PythonMath-v0", "--env_settings", settings) == 2
    assert "tasks.jsonl, line 2" in " ".join(capsys.readouterr().err.split())
