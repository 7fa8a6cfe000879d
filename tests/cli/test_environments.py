"""Promises about `toolrl check` and `toolrl audit`."""

from __future__ import annotations

import json

import gymnasium
import pytest
from typer.testing import CliRunner

from toolrl import ConfigError, Score, Task, TaskSet, ToolEnv, say
from toolrl.cli import app


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_report_is_text_or_json() -> None:
    text = run(
        "check", "toolrl/PythonMath-v0", "--tasks", "2", "--env_settings", '{"toolrl/PythonMath-v0": {"size": 30}}'
    )
    assert text.startswith("check of toolrl/PythonMath-v0: passed")
    text = run(
        "audit",
        "toolrl/PythonMath-v0",
        "--tasks",
        "1",
        "--env_settings",
        '{"toolrl/PythonMath-v0": {"size": 30}}',
        "--json",
    )
    assert json.loads(text)["passed"] is True


def test_an_audit_can_sample_tokens() -> None:
    gymnasium.register("toolrl/PaysNobody-v0", entry_point=pays_nobody)
    try:
        report = json.loads(run("audit", "toolrl/PaysNobody-v0", "--tasks", "1", "--tokens", "tiny", "--json"))
    finally:
        del gymnasium.registry["toolrl/PaysNobody-v0"]
    assert report["passed"]
    assert any(outcome["episodes"] > outcome["tasks"] > 0 for outcome in report["outcomes"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[]", "must be like"),
        ("{", "not valid JSON"),
        ("3", "must be like"),
        ('{"size": 3}', "got int for 'size'"),
        ('{"toolrl/DocsSearch-v0": {}}', "names 'toolrl/DocsSearch-v0', which is not among"),
    ],
)
def test_settings_are_by_environment(settings: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("check", "toolrl/PythonMath-v0", "--env_settings", settings)


def paid_for_anything(**settings: object) -> ToolEnv:
    return ToolEnv(
        tasks=TaskSet([Task("only", "What is 6 times 7?", "42")]),
        tools=[],
        reward=lambda task, episode: Score(1.0),
        oracle=lambda task: [say("42")],
    )


def pays_nobody(**settings: object) -> ToolEnv:
    return ToolEnv(tasks=TaskSet([Task("only", "What is 6 times 7?", "42")]), reward=lambda task, episode: Score(0.0))


def test_a_failed_check_exits_with_status_1() -> None:
    gymnasium.register("toolrl/PaidForAnything-v0", entry_point=paid_for_anything)
    try:
        result = CliRunner().invoke(app, ["check", "toolrl/PaidForAnything-v0", "--tasks", "1"])
    finally:
        del gymnasium.registry["toolrl/PaidForAnything-v0"]
    assert result.exit_code == 1
    assert "FAILED" in result.output.splitlines()[0]
