"""Promises of `toolrl eval --resume`: what was played counts once, and only the rest is played."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolrl import read_trajectories
from toolrl.cli import app
from toolrl.errors import ConfigError

COMMAND = ["eval", "toolrl/PythonMath-v0", "--policy", "oracle", "--tasks", "12", "--samples", "2", "--json"]


def evaluated(out: Path, *further: str) -> str:
    return CliRunner().invoke(app, [*COMMAND, "--out", str(out), *further], catch_exceptions=False).stdout


def test_an_evaluation_that_was_ended_goes_on(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    expected = json.loads(evaluated(whole))
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:7]) + lines[7][:50])  # as a kill may leave it
    found = json.loads(evaluated(cut, "--resume"))
    for report in (*expected.values(), *found.values()):
        report.pop("usage")
    assert found == expected
    played = list(read_trajectories(cut))
    assert Counter(t.id for t in played) == Counter(t.id for t in read_trajectories(whole))
    assert cut.read_text().startswith("".join(lines[:7]))
    before = cut.read_text()
    assert json.loads(evaluated(cut, "--resume")).keys() == expected.keys()
    assert cut.read_text() == before  # nothing was left to play


def test_a_file_without_a_whole_line_is_begun_again(tmp_path: Path) -> None:
    out = tmp_path / "cut.jsonl"
    out.write_text('{"schema_version": 6, "id": "ev')
    evaluated(out, "--resume")
    assert len(list(read_trajectories(out))) == 24


def test_without_a_file_it_begins(tmp_path: Path) -> None:
    out = tmp_path / "new.jsonl"
    evaluated(out, "--resume")
    assert len(list(read_trajectories(out))) == 24


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--split", "train"], "episodes of another evaluation, with split 'test' and not 'train'"),
        (["--policy", "model"], "with model 'oracle' and not 'tiny'"),
        (["--policy", "model", "--counterfactuals", "none"], "not with --counterfactuals"),
    ],
)
def test_another_evaluation_is_not_mixed_in(tmp_path: Path, further: list[str], message: str) -> None:
    out = tmp_path / "one.jsonl"
    evaluated(out)
    before = out.read_text()
    with pytest.raises(ConfigError, match=message):
        evaluated(out, "--resume", *further)
    assert out.read_text() == before
