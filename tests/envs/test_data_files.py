"""Promises about DataFiles-v0: the files are in place, and the answers follow from them alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import toolrl
from toolrl import ConfigError, Task, TaskError, ToolEnv, call
from toolrl.chat import HermesDialect
from toolrl_envs.data_files.problems import KINDS, PACKAGE_KINDS
from toolrl_envs.data_files.tasks import files_of


@pytest.fixture(scope="module")
def env() -> Iterator[ToolEnv]:
    env = toolrl.make("toolrl/DataFiles-v0", size=120)
    yield env
    env.close()


def run(env: ToolEnv, task: Task, *codes: str) -> list[str]:
    """The output of the python tool for each program, in one episode."""
    env.reset(options={"task": task})
    return [env.step(HermesDialect().format(call("python", code=code)))[0] for code in codes]


def test_each_episode_begins_with_the_files_of_its_task_and_no_others(env: ToolEnv) -> None:
    for task in env.tasks[:6]:
        for _ in range(2):  # what one episode does to them is gone in the next
            listing, *_ = run(
                env, task, "import os; print(*sorted(os.listdir()))", "for f in os.listdir(): os.remove(f)"
            )
            assert listing.split() == sorted(files_of(task))
        assert all(name in task.prompt for name in files_of(task))


@pytest.mark.parametrize("rows", [10, 60, 1000])
def test_a_program_that_reads_the_files_gets_the_answer_computed_before(rows: int) -> None:
    env = toolrl.make("toolrl/DataFiles-v0", size=12, rows=rows, seed=rows)
    for task in env.tasks:
        assert run(env, task, task.metadata["code"]) == [task.answer], task
    env.close()


def test_the_answer_changes_with_the_files(env: ToolEnv) -> None:
    """Otherwise it could be memorised or guessed."""
    by_kind = {kind: [task.answer for task in env.tasks if task.kind == kind] for kind in KINDS}
    for kind, answers in by_kind.items():
        assert len(answers) == 20
        assert Counter(answers).most_common(1)[0][1] <= 4, kind
        assert "0" not in answers


def test_broken_lines_occur_and_matter(env: ToolEnv) -> None:
    tasks = [task for task in env.tasks if task.kind == "malformed"]
    careless = (
        "import csv\nt = 0\nfor row in csv.DictReader(open({!r})):\n    try: t += int(row['quantity'])\n"
        "    except ValueError: pass\nprint(t)"
    )
    assert any(run(env, task, careless.format(*files_of(task))) != [task.answer] for task in tasks)


def test_the_answer_is_not_in_the_question(env: ToolEnv) -> None:
    for task in env.tasks:
        assert task.answer not in re.findall(r"\w+", task.prompt)


def test_files_are_rebuilt_from_the_task_alone(env: ToolEnv) -> None:
    task = env.tasks[0]
    again = Task(task.id, "", metadata=json.loads(json.dumps(dict(task.metadata))), kind=task.kind)
    assert files_of(again) == files_of(task)


def test_parquet_files_occur_only_on_request(env: ToolEnv) -> None:
    assert {task.kind for task in env.tasks} == set(KINDS)
    with_packages = toolrl.make("toolrl/DataFiles-v0", size=7, parquet=True)
    (task,) = [task for task in with_packages.tasks if task.kind in PACKAGE_KINDS]
    assert run(with_packages, task, task.metadata["code"]) == [task.answer]
    with_packages.close()


@pytest.mark.parametrize("settings", [{"rows": 9}, {"rows": 10_001}, {"size": 0}, {"split": "dev"}])
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        toolrl.make("toolrl/DataFiles-v0", **settings)


# ---- reading data


def write(path: Path, *rows: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_tasks_are_read_with_their_files(tmp_path: Path) -> None:
    files = {"data/a.csv": "x,y\n1,2\n", "ü.txt": "ü"}
    row = {"question": "Sum of x and y?", "answer": 3, "files": files, "id": "own", "code": "print(1 + 2)"}
    other = {"prompt": "What?", "answer": "b", "files": {"b.txt": "b", "a.csv": None}}
    write(tmp_path / "train.jsonl", row, other)
    env = toolrl.make("toolrl/DataFiles-v0", data=tmp_path / "{split}.jsonl")
    task = env.tasks.by_id("own")
    assert run(env, task, "print(open('data/a.csv').read().split()[1], open('ü.txt', encoding='utf-8').read())") == [
        "1,2 ü"
    ]
    for action in map(HermesDialect().format, env.oracle(task)):
        info = env.step(action)[4]
    assert info["score"]["parts"]["correct"] == 1.0
    assert run(env, env.tasks.by_id("train-1"), "import os; os.listdir()") == ["['b.txt']"]
    env.close()


@pytest.mark.parametrize("files", ["a.csv", ["a.csv"], {"a.csv": 1}, {"a.csv": {"x": "y"}}])
def test_files_other_than_texts_by_path_are_refused_with_their_line(tmp_path: Path, files: Any) -> None:
    path = write(tmp_path / "d.jsonl", {"prompt": "p", "answer": "a", "files": files})
    with pytest.raises(TaskError, match="line 1: files must be an object of texts by path"):
        toolrl.make("toolrl/DataFiles-v0", data=path)


def test_a_row_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="'files' is missing"):
        toolrl.make("toolrl/DataFiles-v0", data=write(tmp_path / "d.jsonl", {"prompt": "p", "answer": "a"}))
