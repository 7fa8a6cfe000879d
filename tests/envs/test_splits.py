"""Promises about splits: no task is in two of them, and every setting has an effect."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from toolrl import ConfigError, TaskError, ToolEnv, make
from toolrl_envs import ENTRY_POINTS

pytest.importorskip("math_verify", reason="read data is graded by the extra `math`")

SEEDS = range(4)
# Environments that read files, with functions that make a row for each.
ROWS: dict[str, Any] = {
    "toolrl/PythonMath-v0": lambda n: {"question": f"What is {n} and one?", "answer": f"It is\n#### {n + 1}"},
    "toolrl/DataFiles-v0": lambda n: {"prompt": f"How long is file {n}?", "answer": "1", "files": {"a.txt": str(n)}},
    "toolrl/OpenQA-v0": lambda n: {"question": f"Who is number {n}?", "answer": "Ann", "context": [["t", ["Ann."]]]},
    "toolrl/InstructionFollowing-v0": lambda n: {
        "prompt": f"Write {n} words without a comma.",
        "instruction_id_list": ["punctuation:no_comma"],
        "kwargs": [{}],
    },
    "toolrl/CodeTests-v0": lambda n: {
        "task_id": n,
        "text": f"Write a function that adds {n}.",
        "code": f"def f(x):\n    return x + {n}",
        "test_list": [f"assert f(1) == {n + 1}", f"assert f(2) == {n + 2}"],
    },
}


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def prompts(env: ToolEnv) -> set[str]:
    return {" ".join(task.prompt.casefold().split()) for task in env.tasks}


def ids(env: ToolEnv) -> set[str]:
    return {task.id for task in env.tasks}


@pytest.mark.parametrize("env_id", ROWS)
def test_no_task_of_a_file_is_in_two_splits_whatever_the_rows_and_their_order(env_id: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        rng = random.Random(seed)
        count = rng.choice((30, 60, 200))
        rows = [ROWS[env_id](n) for n in range(count)]
        expected = len(rows)
        if env_id not in ("toolrl/OpenQA-v0", "toolrl/CodeTests-v0"):  # these derive the id from the row
            rows += rng.choices(rows, k=10)  # the same question again
            expected += 10
        rng.shuffle(rows)
        data = write(tmp_path / f"{seed}.jsonl", rows)
        train, test = (make(env_id, data=str(data), split=split, seed=seed) for split in ("train", "test"))
        assert not prompts(train) & prompts(test)
        assert not ids(train) & ids(test)
        assert len(prompts(train) | prompts(test)) == count
        assert len(train.tasks) + len(test.tasks) == expected
        # A row keeps its side when the file grows, whatever is drawn.
        write(data, [*rows, *(ROWS[env_id](n) for n in range(count, count + 50))])
        again = make(env_id, data=str(data), split="test", seed=seed + 1)
        assert prompts(test) <= prompts(again)


@pytest.mark.parametrize("env_id", ROWS)
def test_size_and_seed_choose_from_a_file(env_id: str, tmp_path: Path) -> None:
    data = str(write(tmp_path / "all.jsonl", map(ROWS[env_id], range(60))))
    few = make(env_id, data=data, size=5, seed=1)
    assert len(few.tasks) == 5
    assert prompts(few) == prompts(make(env_id, data=data, size=5, seed=1))
    assert prompts(few) != prompts(make(env_id, data=data, size=5, seed=2))
    assert len(make(env_id, data=data, size=10_000).tasks) == len(make(env_id, data=data).tasks) < 60
    assert [task.id for task in make(env_id, data=data, size=9, seed=1).tasks][:5] == [task.id for task in few.tasks]


@pytest.mark.parametrize("env_id", ROWS)
def test_a_file_per_split_is_used_completely_and_shares_no_id_with_the_other(env_id: str, tmp_path: Path) -> None:
    write(tmp_path / "my-train.jsonl", map(ROWS[env_id], range(12)))
    write(tmp_path / "my-test.jsonl", map(ROWS[env_id], range(100, 107)))
    train, test = (make(env_id, data=str(tmp_path / "my-{split}.jsonl"), split=split) for split in ("train", "test"))
    assert (len(train.tasks), len(test.tasks)) == (12, 7)
    assert not ids(train) & ids(test)


@pytest.mark.parametrize("env_id", sorted(ENTRY_POINTS))
@pytest.mark.parametrize("size", [0, -1, 2.5, "10", True])
def test_an_invalid_size_is_refused(env_id: str, size: Any) -> None:
    with pytest.raises(ConfigError, match=r"size must be a whole number of at least 1|reasoning-gym"):
        make(env_id, size=size)


@pytest.mark.parametrize(
    ("env_id", "settings", "message"),
    [
        ("toolrl/PythonMath-v0", {"easy_share": 0.5}, "easy_share=0.5 applies to generated tasks"),
        ("toolrl/DataFiles-v0", {"rows": 100}, "rows=100 applies to generated tasks"),
        ("toolrl/InstructionFollowing-v0", {"kinds": ["a"]}, "kinds=.* applies to generated tasks"),
        ("toolrl/OpenQA-v0", {"test_split": "dev"}, "test_split='dev' applies to data sets on the hub"),
        ("toolrl/PythonMath-v0", {"test_split": "dev"}, "test_split='dev' applies to data sets on the hub"),
        ("toolrl/DataFiles-v0", {"hub_split": "train"}, "hub_split='train' applies to data sets on the hub"),
        ("toolrl/PythonMath-v0", {"split": "validation"}, "split must be 'train' or 'test', got 'validation'"),
    ],
)
def test_settings_without_effect_on_a_file_are_refused(
    env_id: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    data = write(tmp_path / "all.jsonl", map(ROWS[env_id], range(9)))
    with pytest.raises(ConfigError, match=message):
        make(env_id, data=str(data), **settings)


@pytest.mark.parametrize("setting", ["test_split", "hub_split"])
@pytest.mark.parametrize("env_id", ["toolrl/PythonMath-v0", "toolrl/DataFiles-v0", "toolrl/OpenQA-v0"])
def test_settings_for_the_hub_are_refused_without_data(env_id: str, setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}='dev' applies to data sets"):
        make(env_id, **{setting: "dev"})


@pytest.fixture
def hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    make_row = ROWS["toolrl/PythonMath-v0"]
    for split, first in (("train", 0), ("test", 1000), ("validation", 2000)):
        write(folder / f"{split}.jsonl", map(make_row, range(first, first + 20)))
    return folder


def test_a_hub_data_set_has_its_own_splits_with_distinct_ids(hub_set: Path) -> None:
    env_id, data = "toolrl/PythonMath-v0", str(hub_set)
    train, test = make(env_id, data=data), make(env_id, data=data, split="test")
    other = make(env_id, data=data, split="test", test_split="validation", size=3)
    assert (len(train.tasks), len(test.tasks), len(other.tasks)) == (20, 20, 3)
    assert not ids(train) & ids(test)
    assert not prompts(train) & prompts(test)
    assert all(int(task.prompt.split()[2]) >= 2000 for task in other.tasks)


def test_a_hub_data_set_with_one_split_is_divided(hub_set: Path) -> None:
    settings = {"data": str(hub_set), "hub_split": "validation"}
    train, test = (make("toolrl/PythonMath-v0", split=split, **settings) for split in ("train", "test"))
    assert not prompts(train) & prompts(test)
    assert len(train.tasks) + len(test.tasks) == 20


def test_a_test_split_that_is_the_train_split_is_refused(hub_set: Path) -> None:
    with pytest.raises(ConfigError, match="use hub_split='train' to divide it"):
        make("toolrl/PythonMath-v0", data=str(hub_set), split="test", test_split="train")
    with pytest.raises(ConfigError, match="so test_split='test' has no effect"):
        make("toolrl/PythonMath-v0", data=str(hub_set), test_split="test", hub_split="train")


def test_different_rows_with_the_same_id_are_refused_in_both_splits(tmp_path: Path) -> None:
    rows = [{"id": "same", "question": f"How many are {n}?", "answer": "1"} for n in range(30)]
    for split in ("train", "test"):
        with pytest.raises(TaskError, match="line 2: another row has the id 'same' too"):
            make("toolrl/PythonMath-v0", data=str(write(tmp_path / "all.jsonl", rows)), split=split)


def test_a_null_field_counts_as_missing(tmp_path: Path) -> None:
    row = {"id": None, "prompt": None, "problem": "2?", "answer": None, "solution": r"\boxed{2}"}
    write(tmp_path / "train.jsonl", [row])
    (task,) = make("toolrl/PythonMath-v0", data=str(tmp_path / "{split}.jsonl")).tasks
    assert (task.id, task.prompt, task.answer) == ("train-0", "2?", "2")


@pytest.mark.parametrize(
    ("env_id", "settings"),
    [
        ("toolrl/PythonMath-v0", {"size": 4000}),
        ("toolrl/PythonMath-v0", {"size": 300, "easy_share": 1.0}),
        ("toolrl/DocsSearch-v0", {}),
        ("toolrl/DocsCompute-v0", {"size": 1000}),
        ("toolrl/WorldQA-v0", {"size": 400, "documents": 300, "hops": [1, 2, 3]}),
        ("toolrl/OpenQA-v0", {}),
        ("toolrl/CodeTests-v0", {}),
        ("toolrl/InstructionFollowing-v0", {"size": 300}),
        ("toolrl/Database-v0", {"size": 300}),
        ("toolrl/DataFiles-v0", {"size": 300}),
    ],
)
def test_no_generated_task_is_in_both_splits_whatever_their_seeds(env_id: str, settings: dict[str, Any]) -> None:
    train: set[str] = set()
    test: set[str] = set()
    for seed in (0, 1, 7):
        for split, seen in (("train", train), ("test", test)):
            seen |= {task.prompt for task in make(env_id, split=split, seed=seed, **settings).tasks}
    assert train
    assert test
    assert not train & test
