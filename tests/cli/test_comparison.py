"""Promises about `toolrl report`, `compare`, `arena`, `suite` and `eval --counterfactuals`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.rewards.test_judge import Server, verdict
from toolrl import Message, Sample, Score, StopReason, Trajectory, TrajectoryWriter, read_trajectories
from toolrl.cli import app
from toolrl.errors import ConfigError, QueryError, TaskError
from toolrl.trajectory import Turn


def write(folder: Path, mode: str, solved: range, count: int = 40) -> Path:
    """Episodes of forty tasks of two kinds, some of which are solved."""
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        for number in range(count):
            turn = Turn(Sample([5, 2], [-0.1, -0.2]), Message("assistant", f"said by {folder.name}"))
            prompt = (Message("user", f"question {number}"),)
            info = {"mode": mode, "kind": ("odd", "even")[number % 2 == 0]}
            score = Score(float(number in solved), {}, "", "")
            id = f"{mode}/{number}"
            writer.write(
                Trajectory(id, "a/B-v0", f"t{number}", prompt, [1], (turn,), score, StopReason.ANSWER, info=info)
            )
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write(tmp_path / "run", "before", range(10))
    write(tmp_path / "run", "train", range(40))
    return write(tmp_path / "run", "after", range(30))


def text(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_is_compared_with_itself_before_training(run: Path) -> None:
    (row,) = json.loads(text("compare", run, "--json"))
    assert (row["a"], row["b"], row["tasks"], row["difference"]) == ("before", "after", 40, 0.5)
    shown = text("compare", run, "--by", "kind", "--changed", "3")
    for words in ("even", "odd", "before 0.25", "after 0.75", "+0.50 [+0.3", "< 0.001", "the tasks that differ most"):
        assert words in shown
    assert shown.count("question") == 3


def test_runs_stand_for_their_held_out_episodes_unless_a_query_says_more(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", "eval", range(35))
    rows = json.loads(text("compare", f"{run}[mode == 'before']", run, other, f"{run}[kind == 'odd']", "--json"))
    assert [(row["a"], row["b"], row["tasks"]) for row in rows] == [
        ("run, before", "run", 40), ("run, before", "other", 40), ("run, before", "run, kind == 'odd'", 20),
    ]  # fmt: skip
    assert [row["mean_b"] for row in rows[:2]] == [0.75, 0.875]


def test_an_arena_orders_sides(run: Path, tmp_path: Path) -> None:
    others = [write(tmp_path / name, "eval", range(solved)) for name, solved in (("worst", 2), ("best", 39))]
    found = json.loads(text("arena", run, *others, "--json"))
    assert [row["name"] for row in found["standings"]] == ["best", "run", "worst"]
    assert found["wins"]["best"]["worst"] == pytest.approx((37 + 3 / 2) / 40)
    assert "share of common tasks" in text("arena", run, *others)


def test_a_judge_decides_ties_in_the_arena(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", "eval", range(30))
    server = Server(lambda answers: verdict(float(answers["first"] > answers["second"])))
    try:
        rubric = tmp_path / "rubric.txt"
        rubric.write_text("The later in the alphabet wins.")
        judge = ["--judge", "m", "--base_url", server.url, "--rubric", rubric]
        found = json.loads(text("arena", run, other, *judge, "--json"))
        shown = text("arena", run, other, *judge)
        assert "The later in the alphabet wins." in server.requests[-1]["messages"][0]["content"]
    finally:
        server.http.shutdown()
        server.http.server_close()
    assert set(found["judge"]) == {"pairs", "first", "first_interval", "contradicted"}
    assert found["judge"]["pairs"] == 40
    assert found["wins"]["run"]["other"] == 1.0
    assert "the judge decided ties, 40 pairs of answers" in " ".join(shown.split())
    for wrong, message in ((["--judge", "m"], "needs --rubric"), (["--rubric", "x"], "name its model with --judge")):
        with pytest.raises(ConfigError, match=message):
            text("arena", run, other, *wrong)


def test_sides_that_cannot_be_compared_are_refused(run: Path, tmp_path: Path) -> None:
    for sides, error, message in (
        ([run, run], ConfigError, "two sides are 'run'"),
        ([run, tmp_path / "none"], TaskError, "no readable trajectories"),
        ([run, f"{run}[reward > 2]"], ConfigError, "no episode of .* matches 'reward > 2'"),
        ([run, f"{run}[colour == 2]"], QueryError, "unknown field 'colour'"),
        ([write(tmp_path / "x", "eval", range(3))], ConfigError, "no episode of .*x' matches"),
    ):
        with pytest.raises(error, match=message):
            CliRunner().invoke(app, ["compare", *map(str, sides)], catch_exceptions=False)


def test_a_report_is_a_table_json_or_a_page(run: Path, tmp_path: Path) -> None:
    shown = text("report", run, "--by", "kind")
    for words in ("run: success", "0.75 [0.60, 0.86]", "even", "odd", "cost of an episode"):
        assert words in shown
    found = json.loads(text("report", f"{run}[mode == 'before']", "--json", "--html", tmp_path / "page.html"))
    assert (found["name"], found["lines"][0]["success"]) == ("run, before", 0.25)
    assert "run, before" in (tmp_path / "page.html").read_text()
    with pytest.raises(ConfigError, match="cannot write"):
        text("report", run, "--html", tmp_path)


def test_counterfactuals_are_printed_as_tables_or_json_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "episodes.jsonl"
    arguments = ("eval", "toolrl/PythonMath-v0", "--tasks", "6", "--temperature", "0.6")
    shown = text(*arguments, "--counterfactuals", "broken", "--out", out)
    assert "under-use" in shown
    assert "by kind of task" in shown
    conditions = [episode.info["condition"] for episode in read_trajectories(out)]
    assert {name: conditions.count(name) for name in conditions} == {"tools": 6, "none": 6, "broken": 6}
    modes = [episode.info["mode"] for episode in read_trajectories(out)]
    assert {mode: modes.count(mode) for mode in modes} == {"eval": 6, "counterfactual": 12}
    assert json.loads(text("report", out, "--json"))["lines"][0]["episodes"] == 6  # those with the tools as they are
    found = json.loads(text(*arguments, "--counterfactuals", "none", "--json"))["toolrl/PythonMath-v0"]
    assert set(found["reports"]) == {"tools", "none"}
    assert len(found["tasks"]) == 6
    with pytest.raises(ConfigError, match="an oracle does the same in any case"):
        text(*arguments, "--policy", "oracle", "--counterfactuals", "all")
    with pytest.raises(ConfigError, match="no condition 'lies'"):
        text(*arguments, "--counterfactuals", "lies")


def test_ways_to_think_are_compared_where_the_template_has_a_switch(
    tmp_path: Path, trl_template: Callable[[str], str]
) -> None:
    template = tmp_path / "qwen3.jinja"
    template.write_text(trl_template("qwen3"))
    arguments = ("eval", "toolrl/PythonMath-v0", "--tasks", "4", "--temperature", "0.6", "--max_turn_tokens", "48")
    found = json.loads(text(*arguments, "--chat_template", template, "--thinking", "off,on", "--json"))
    assert [mode["name"] for mode in found["toolrl/PythonMath-v0"]["modes"]] == ["off", "on"]
    assert "is thinking worth it?" in text(*arguments, "--chat_template", template, "--thinking", "off, on")
    with pytest.raises(ConfigError, match="the chat template has no 'enable_thinking'"):
        text(*arguments, "--thinking", "off,on")
    with pytest.raises(ConfigError, match="two questions"):
        text(*arguments, "--thinking", "off,on", "--counterfactuals", "all")


def test_a_suite_is_chosen_from_an_evaluation_and_played(tmp_path: Path) -> None:
    out, suite = tmp_path / "all.jsonl", tmp_path / "small.yaml"
    settings = json.dumps({"toolrl/PythonMath-v0": {"size": 30}})
    text(
        "eval",
        "toolrl/PythonMath-v0",
        "--tasks",
        "30",
        "--temperature",
        "0.6",
        "--env_settings",
        settings,
        "--out",
        out,
    )
    made = text("suite", out, "--tasks", "8", "--out", suite, "--env_settings", settings, "--temperature", "0.6")
    assert "8 of 30 tasks" in made
    assert "on all tasks; the suite would say" in made
    played = tmp_path / "played.jsonl"
    shown = text("eval", suite, "--out", played)
    assert "small: success" in shown
    assert "on all 30 tasks, from 8 of them" in shown
    assert len(list(read_trajectories(played))) == 8
    with pytest.raises(ConfigError, match="a suite is played by itself"):
        text("eval", suite, "toolrl/WorldQA-v0")
    with pytest.raises(ConfigError, match="exists"):
        text("suite", out, "--tasks", "8", "--out", suite)
