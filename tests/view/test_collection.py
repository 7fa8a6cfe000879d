"""Promises of `toolrl.load`: the index follows the file, and the collection has what the file has."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.view.episodes import EPISODES, episode
from toolrl import Award, ConfigError, Message, StopReason, TaskError, ToolCall, ToolFailure, load
from toolrl.errors import QueryError
from toolrl.view import Trajectories, TrajectoryIndex


def ids(found: Trajectories) -> str:
    return "".join(found.table["id"].to_pylist())


def test_episodes_come_back_as_they_were_written(small: Path) -> None:
    found = load(small)
    assert list(found) == EPISODES
    assert found[-1] == EPISODES[-1]
    assert found.get("b") == EPISODES[1]
    assert list(found[1:3]) == EPISODES[1:3]
    with pytest.raises(IndexError):
        found[5]
    with pytest.raises(KeyError, match="nobody"):
        found.get("nobody")


def test_a_file_can_be_loaded_like_its_folder(small: Path) -> None:
    assert list(load(small / "trajectories.jsonl")) == EPISODES


def test_facts_are_counted_from_the_line(small: Path) -> None:
    row = load(small).where("id == 'b'").to_pandas().iloc[0]
    assert (row["turns"], row["calls"], row["failed_calls"], row["calls:python"]) == (4, 3, 3, 3)
    assert (row["prompt_tokens"], row["sampled_tokens"], row["observed_tokens"], row["tokens"]) == (3, 7, 9, 16)
    assert (row["seconds"], row["generation_seconds"], row["tool_seconds"]) == (2.0, 0.75, 1.5)


def test_appended_lines_are_read_by_the_next_refresh(small: Path, write: Callable[..., Path]) -> None:
    index = TrajectoryIndex(small)
    assert not index.refresh()
    write(episode("f", "t9", 1.0, ("translate",)))
    assert index.refresh()
    assert index.table["id"].to_pylist() == list("abcdef")
    assert index.read(5).task_id == "t9"
    assert ("translate", 1) in index.table["calls_by_name"].to_pylist()[-1]


def test_an_unfinished_last_line_waits(small: Path) -> None:
    path = small / "trajectories.jsonl"
    line = json.dumps(episode("f").to_row())
    with path.open("a") as file:
        file.write(line[:50])
    index = TrajectoryIndex(small)
    assert index.table.num_rows == 5
    with path.open("a") as file:
        file.write(line[50:] + "\n")
    assert index.refresh()
    assert index.read(5) == episode("f")


@pytest.mark.parametrize("keep", [True, False])
def test_a_file_that_was_replaced_or_cut_is_read_again(write: Callable[..., Path], keep: bool) -> None:
    small = write(*EPISODES)
    index = TrajectoryIndex(small, keep=keep)
    (small / "trajectories.jsonl").unlink()
    write(*(episode(id) for id in "uvwxyz"))
    assert index.refresh()
    assert index.table["id"].to_pylist() == list("uvwxyz")
    assert TrajectoryIndex(small, keep=keep).table["id"].to_pylist() == list("uvwxyz")
    lines = (small / "trajectories.jsonl").read_bytes().splitlines(keepends=True)
    (small / "trajectories.jsonl").write_bytes(b"".join(lines[:2]))
    assert index.refresh()
    assert index.table["id"].to_pylist() == ["u", "v"]


def test_the_index_is_stored_and_a_broken_one_is_rebuilt(small: Path) -> None:
    TrajectoryIndex(small)
    kept = small / "trajectories.index.arrow"
    assert kept.is_file()
    assert [path.name for path in small.iterdir() if "partial" in path.name] == []
    before = kept.stat().st_mtime_ns
    assert list(load(small)) == EPISODES
    assert kept.stat().st_mtime_ns == before
    kept.write_bytes(b"not Arrow")
    assert list(load(small)) == EPISODES


def test_no_index_is_stored_where_none_is_wanted(small: Path) -> None:
    load(small, keep_index=False)
    assert [path.name for path in small.iterdir()] == ["trajectories.jsonl"]


def test_a_run_on_a_read_only_file_system_is_read(small: Path) -> None:
    program = "import sys, toolrl; print(len(toolrl.load(sys.argv[1])))"
    script = f"mount --bind $1 $1 && mount -o remount,bind,ro $1 && exec $2 -c '{program}' $1"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh", str(small), sys.executable]
    if subprocess.run([*command[:4], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mount namespaces")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.returncode) == ("5\n", 0), done.stderr


def test_a_run_without_read_permission_is_one_clear_error(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # root can read everything
    with pytest.raises(TaskError, match="no readable trajectories at"):
        load(small)


def test_a_broken_line_is_skipped_and_named(small: Path, write: Callable[..., Path]) -> None:
    with (small / "trajectories.jsonl").open("ab") as file:
        file.write(b'{"schema_version": 4}\n\xff\xfe\n[1]\n')
    write(episode("f"))
    with pytest.warns(UserWarning, match="3 lines cannot be read as trajectories and are skipped, the first is line 6"):
        found = load(small)
    assert ids(found) == "abcdef"
    assert found[5] == episode("f")


def test_what_users_and_awards_add_is_indexed(write: Callable[..., Path]) -> None:
    turn = dataclasses.replace(episode("g").turns[0], reply="Thanks.", awards=(Award(0.5, "polite"), Award(-0.25)))
    folder = write(
        dataclasses.replace(episode("g"), turns=(turn, episode("g").turns[0]), stop=StopReason.USER, ending="satisfied")
    )
    found = load(folder).where("stop == 'user' and ending == 'satisfied' and replies == 1 and awarded == 0.25")
    assert found[0].turns[0] == turn


def test_a_line_with_nan_is_read(small: Path) -> None:
    row = {**episode("f").to_row(), "logprobs": [float("nan")]}
    with (small / "trajectories.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    assert load(small).where("id == 'f'").table["prompt_tokens"].to_pylist() == [3]


@pytest.mark.parametrize("version", [1, 99, "x"])
def test_another_version_is_one_clear_error(tmp_path: Path, version: object) -> None:
    row = {**episode("f").to_row(), "schema_version": version}
    (tmp_path / "trajectories.jsonl").write_text(json.dumps(row) + "\n")
    for _ in range(2):
        with pytest.raises(TaskError, match=r"line 1: schema_version is .*, this version reads"):
            load(tmp_path)


ODD = {
    "another version": {"schema_version": 99},
    "an id that is a number": {"id": 7},
    "an answer that is a number": {"answer": 42},
    "an unknown stop": {"stop": "bored"},
    "an unknown failure": {
        "turns": json.loads(
            json.dumps(episode("x", tools=("python",), failure=ToolFailure.TIMEOUT).to_row()["turns"]).replace(
                "timeout", "bored"
            )
        )
    },
    "a reward that is text": {"reward": "1"},
    "a reward that is not finite": {"reward": float("inf")},
    "a part that is text": {"parts": '{"a": "b"}'},
    "parts that are not an object": {"parts": "[1]"},
    "parts that are not JSON": {"parts": "{"},
    "info that is not an object": {"info": "[]"},
    "a prompt that is text": {"prompt": "q"},
    "counts beyond any column": {"attempts": 10**30},
    "missing tokens": {"logprobs": []},
    "tokens that are not a list": {"mask": None},
    "info nested too deeply to read": {"info": "[" * 100_000},
}


@pytest.mark.parametrize("arguments", [{"x": float("nan")}, {"x": "\ud800"}, {"\udfff": float("inf")}])
def test_arguments_that_are_not_valid_json_elsewhere_are_read(
    small: Path, write: Callable[..., Path], arguments: dict[str, Any]
) -> None:
    odd = episode("f", tools=("python",))
    call = ToolCall("python", arguments, "call_1_0")
    turn = dataclasses.replace(odd.turns[0], message=Message("assistant", "", (call,)), results=())
    write(dataclasses.replace(odd, turns=(turn, *odd.turns[1:])))
    found = load(small).where("id == 'f'")
    assert repr(found[0].turns[0].message.tool_calls[0].arguments) == repr(arguments)


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_line_does_not_hide_the_others(small: Path, write: Callable[..., Path], odd: str) -> None:
    row = {**episode("x").to_row(), **ODD[odd]}
    with (small / "trajectories.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    write(episode("f"))
    with pytest.warns(UserWarning, match="1 lines cannot be read as trajectories and are skipped, the first is line 6"):
        found = load(small)
    assert ids(found) == "abcdef"
    assert [trajectory.id for trajectory in found] == list("abcdef"), "every trajectory in the index can be read"
    assert len(found.calls()) == 5


@pytest.mark.parametrize("field", ["step", "group", "kind", "needs_tool"])
def test_facts_of_another_type_are_null(small: Path, write: Callable[..., Path], field: str) -> None:
    write(episode("f", info={field: 2**70}), episode("g", info={field: [1]}))
    assert load(small).where("id == 'f' or id == 'g'").table[field].to_pylist() == [None, None]


def test_names_that_a_model_invents_add_no_columns(small: Path, write: Callable[..., Path]) -> None:
    columns = load(small).table.column_names
    write(*(episode(f"e{number}", tools=(f"tool_{number}",)) for number in range(300)))
    found = load(small)
    assert found.table.column_names == columns
    assert len([name for name in found.to_pandas() if name.startswith("calls:")]) == 50
    assert "calls:python" in found.to_pandas()
    assert found.where("calls('tool_299') == 1").table["id"].to_pylist() == ["e299"]


def test_a_missing_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no readable trajectories at"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="needs a run"):
        load()


def test_pass_rates_are_of_a_task_in_its_run_and_mode(small: Path) -> None:
    frame = load(small).to_pandas().set_index("id")["pass_rate"]
    assert frame["a"] == frame["b"] == 0.5
    assert frame["c"] == frame["d"] == 1.0  # c is unscored
    assert frame["e"] == 0.0


def test_advantages_are_those_that_trl_computes(write: Callable[..., Path]) -> None:
    rewards = [0.0, 1.0, 0.3, 1.0]
    found = load(
        write(*(episode(f"{place}", "t", reward) for place, reward in enumerate(rewards)), episode("n", "t", None))
    )
    values = torch.tensor(rewards)
    expected = (values - values.mean()) / (values.std() + 1e-4)
    assert found.table["advantage"].to_pylist() == pytest.approx([*expected.tolist(), 0.0], abs=1e-6)


def test_sorting_puts_missing_values_last(small: Path) -> None:
    found = load(small)
    assert ids(found.sort("reward")).endswith("dac")
    assert ids(found.sort("reward", descending=True)) == "adbec"
    with pytest.raises(QueryError, match="cannot sort by 'nothing'"):
        found.sort("nothing")


def test_a_sample_depends_on_the_seed_only(small: Path) -> None:
    found = load(small)
    assert ids(found.sample(3, seed=1)) == ids(found.sample(3, seed=1))
    assert len(found.sample(3)) == 3
    assert ids(found.sample(99)) == "abcde"


def test_tables_of_turns_and_calls(small: Path) -> None:
    found = load(small)
    turns, calls = found.turns(), found.calls()
    assert turns.groupby("id", sort=False).size().to_dict() == {"a": 2, "b": 4, "c": 1, "d": 2, "e": 1}
    assert turns.iloc[0]["thinking"] == "thought 1"
    assert turns.iloc[0]["mean_logprob"] == -1.0
    assert calls["tool"].tolist() == ["python"] * 4 + ["search"]
    assert calls["failure"].tolist() == ["", "timeout", "timeout", "timeout", ""]
    assert calls.iloc[1]["arguments"] == {"x": 1}
    assert list(found.where("id == 'e'").calls().columns) == ["id", "run", "env", "task", "turn", "tool"]


def test_groups_are_the_tasks_of_a_run(small: Path) -> None:
    groups = load(small).groups().set_index("task")
    assert groups["episodes"].to_dict() == {"t1": 2, "t2": 2, "t3": 1}
    assert groups["no_variance"].to_dict() == {"t1": False, "t2": True, "t3": True}


def test_two_runs_are_distinguished_and_compared(small: Path, write: Callable[..., Path]) -> None:
    other = write(episode("x", "t1", 1.0), episode("y", "t3", 1.0), episode("z", "new", 1.0), name="other")
    both = load(small, other)
    assert set(both.table["run"].to_pylist()) == {"small", "other"}
    assert len(both.where("run == 'other'")) == 3
    compared = load(small).compare(load(other))
    assert compared.tasks["task"].tolist() == ["t3", "t1"]
    assert compared.tasks["difference"].tolist() == [1.0, 0.5]
    (row,) = compared.differences
    assert (row.a, row.b, row.better, row.worse, row.difference) == ("small", "other", 2, 0, 0.75)
    with pytest.raises(ConfigError, match="no task was played in both"):
        load(small).compare(load(other).where("task == 'new'"))


def test_any_field_fact_or_expression_is_compared_and_makes_parts(write: Callable[..., Path]) -> None:
    a = load(write(episode("a", "t1", 0.0, info={"level": 3}), episode("b", "t2", 1.0, info={"level": 5})))
    (row, *levels) = a.compare(a, value="2 * reward", by=("level",), names=("x", "y")).differences
    assert (row.mean_a, row.difference, row.tasks) == (1.0, 0.0, 2)
    assert [(level.part, level.mean_a) for level in levels] == [("3", 0.0), ("5", 2.0)]
    assert a.column("level").to_pylist() == [3.0, 5.0]
    assert a.column("reward > 0").to_pylist() == [False, True]
    with pytest.raises(QueryError, match=r"no field or recorded fact 'colour'; the facts are .*level"):
        a.column("colour")
    with pytest.raises(QueryError, match="'stop' is not a number"):
        a.compare(a, value="stop")
    with pytest.raises(QueryError, match="'7' is the same for all episodes"):
        a.column("7")


def test_runs_with_the_same_name_are_distinguished(write: Callable[..., Path]) -> None:
    first, second = write(episode("a"), name="one/run"), write(episode("b"), name="two/run")
    assert load(first, second).table["run"].to_pylist() == ["one/run", "two/run"]


def test_the_repr_is_a_summary(small: Path) -> None:
    assert repr(load(small)) == "<Trajectories: 5 episodes of small; success 0.50, 1 unscored>"
