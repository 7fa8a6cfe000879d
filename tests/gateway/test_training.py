"""Promises about training with a program as the policy's body, and about naming one on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner

from toolrl import ConfigError, read_trajectories
from toolrl.cli import app
from toolrl.gateway import parse_agent
from toolrl.training import train
from toolrl.view.metrics import read_metrics

AGENT = f"{Path(__file__).parent / 'agents.py'}:play"
SETTINGS: dict[str, Any] = {
    "max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 192,
    "max_turn_tokens": 48, "temperature": 0.6, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    "report_to": "none", "save_strategy": "no", "eval_tasks": 4, "train_tasks": 20, "logging_steps": 1, "beta": 0.0,
}  # fmt: skip


def test_an_agents_episodes_are_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    reports = train(
        "toolrl/PythonMath-v0", "tiny", console=Console(quiet=True), output_dir=str(folder), agent=AGENT, **SETTINGS
    )
    assert reports["before"]["toolrl/PythonMath-v0"].unscored == 0
    played = [t for t in read_trajectories(folder / "trajectories.jsonl") if t.info["mode"] == "train"]
    assert len(played) == 16
    assert all(t.has_tokens and t.score.value is not None for t in played)
    assert any(len(t.turns) > 1 for t in played)
    assert all(len(t.completion_ids) <= 192 for t in played)
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "mismatch/mean" in row]
    assert all(
        row["mismatch/mean"] < 1e-3 for row in rows
    )  # the tokens that are trained on are those that were sampled


def test_an_agent_is_evaluated_from_the_command_line(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ["eval", "toolrl/PythonMath-v0", "--agent", AGENT, "--tasks", "6", "--temperature", "0.6", "--json"]
    done = CliRunner().invoke(app, [*command, "--out", str(out)], catch_exceptions=False)
    assert json.loads(done.stdout)["toolrl/PythonMath-v0"]["samples"] == 6
    assert all(t.has_tokens for t in read_trajectories(out))


CROWD = """
import asyncio, pathlib
there, most = 0, 0

async def play(context):
    global there, most
    there += 1
    most = max(most, there)
    pathlib.Path(__file__).with_name("most").write_text(str(most))
    await asyncio.sleep(0.02)
    there -= 1
    return "8"
"""


def test_no_more_agents_play_at_once_than_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "crowd.py").write_text(CROWD)
    command = ["eval", "toolrl/PythonMath-v0", "--agent", f"{tmp_path / 'crowd.py'}:play", "--tasks", "9", "--json"]
    CliRunner().invoke(app, [*command, "--concurrency", "3"], catch_exceptions=False)
    assert (tmp_path / "most").read_text() == "3"


@pytest.mark.parametrize(
    ("agent", "message"),
    [
        ("missing.py:play", "there is no such file"),
        (AGENT.replace(":play", ":nobody"), "has no 'nobody'"),
        (AGENT.replace(":play", ":not_async"), "an agent is an async function"),
        ("", "--agent is empty"),
        ("python 'my agent.py", "is not a command: No closing quotation"),
    ],
)
def test_an_agent_that_cannot_be_found_is_one_clear_error(agent: str, message: str) -> None:
    with pytest.raises((ConfigError, LookupError), match=message):
        parse_agent(agent)


def test_a_command_is_an_agent_too() -> None:
    assert parse_agent("python my_agent.py --fast").command == ["python", "my_agent.py", "--fast"]


def test_an_agent_is_not_evaluated_without_its_tools(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave out eval_alone"):
        train(
            "toolrl/PythonMath-v0", "tiny", console=Console(quiet=True), output_dir=str(tmp_path / "run"), agent=AGENT,
            **SETTINGS, eval_alone=4,
        )  # fmt: skip


def test_the_gateway_can_be_tried_by_hand_and_keeps_what_it_answers(tmp_path: Path) -> None:
    out = tmp_path / "seen.jsonl"
    command = [sys.executable, "-m", "toolrl", "gateway", "--temperature", "0", "--out", str(out)]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert served.stdout is not None
    words = dict(word.split("=", 1) for word in served.stdout.readline().split()[1:])
    body = {"model": "tiny", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
    headers = {"Authorization": f"Bearer {words['OPENAI_API_KEY']}"}
    answer = httpx.post(f"{words['OPENAI_BASE_URL']}/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200
    until = time.monotonic() + 20
    while not (kept := list(read_trajectories(out))):  # before its end: it may be killed
        assert time.monotonic() < until
        time.sleep(0.1)
    served.send_signal(signal.SIGINT)
    _, errors = served.communicate(timeout=30)
    assert served.returncode == 0
    assert "1 turns in 1 conversations" in errors
    assert list(read_trajectories(out)) == kept
    assert [(one.has_tokens, one.score.value) for one in kept] == [(True, None)]
    assert [path.name for path in tmp_path.iterdir()] == ["seen.jsonl"]
