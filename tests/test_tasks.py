"""Promises about task sets: what they read, what they reject and how, and how they split."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolrl import Task, TaskError, TaskSet


def tasks(count: int) -> TaskSet:
    return TaskSet(Task(f"t{index}", f"question {index}", index) for index in range(count))


def ids(task_set: TaskSet) -> list[str]:
    return [task.id for task in task_set]


def write_lines(path: Path, *lines: str | bytes) -> Path:
    path.write_bytes(b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines))
    return path


def row(**fields: Any) -> str:
    return json.dumps({"prompt": "1+1?", "answer": "2", **fields})


# ---- from files


def test_a_jsonl_file_gives_a_task_per_row_with_other_fields_as_metadata(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "tasks.jsonl", row(id="a", level=3), "", '{"prompt": "naïve 漢?", "answer": [1, null]}'
    )
    first, second = TaskSet.read(path)
    assert first == Task("a", "1+1?", "2", {"level": 3})
    assert (second.id, second.prompt, second.answer) == ("1", "naïve 漢?", [1, None])


def test_a_parquet_file_gives_the_same_tasks_as_its_rows_in_jsonl(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [
        {"id": "a", "prompt": "p", "answer": "x", "level": 1},
        {"id": "b", "prompt": "q", "answer": "y", "level": 2},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "tasks.parquet")
    write_lines(tmp_path / "tasks.jsonl", *map(json.dumps, rows))
    assert list(TaskSet.read(tmp_path / "tasks.parquet")) == list(TaskSet.read(tmp_path / "tasks.jsonl"))


def test_a_function_may_read_the_rows(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "tasks.jsonl", '{"q": "p", "a": 1}', '{"q": "r", "a": 2}')
    read = TaskSet.read(path, lambda row, index: Task(f"row-{index}", row["q"], row["a"]))
    assert list(read) == [Task("row-0", "p", 1), Task("row-1", "r", 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "half', "not valid JSON"),
        ("[1, 2]", "expected a JSON object, got list"),
        (b'{"prompt": "\xff"}', "not valid JSON"),
        ('{"question": "1+1?", "answer": "2"}', "field 'prompt' is missing; it has: question, answer"),
        ('{"prompt": "1+1?"}', "field 'answer' is missing"),
        ('{"prompt": null, "answer": "2"}', "the prompt must be text, got None"),
    ],
)
def test_a_broken_line_is_named_with_what_is_wrong(tmp_path: Path, line: str | bytes, message: str) -> None:
    path = write_lines(tmp_path / "tasks.jsonl", row(), line)
    with pytest.raises(TaskError, match=rf"{re.escape(str(path))}, line 2: .*{re.escape(message)}"):
        TaskSet.read(path)


def test_an_error_of_the_function_that_reads_rows_names_the_line(tmp_path: Path) -> None:
    def refuse(row: dict[str, Any], index: int) -> Task:
        raise TaskError("no answer in it")

    path = write_lines(tmp_path / "tasks.jsonl", row())
    with pytest.raises(TaskError, match=r"tasks\.jsonl, line 1: no answer in it"):
        TaskSet.read(path, refuse)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"no data file at .*absent\.jsonl"):
        TaskSet.read(tmp_path / "absent.jsonl")
    with pytest.raises(TaskError, match=r"tasks\.csv.*expected a file named .*\.jsonl.*, got '\.csv'"):
        TaskSet.read(write_lines(tmp_path / "tasks.csv", "a,b"))
    with pytest.raises(TaskError, match=r"tasks\.parquet: not a Parquet file"):
        TaskSet.read(write_lines(tmp_path / "tasks.parquet", "nothing of the kind"))


# ---- as sequences


def test_two_tasks_with_the_same_id_are_refused() -> None:
    with pytest.raises(TaskError, match="two tasks have the id 'b'"):
        TaskSet([Task("a", "p"), Task("b", "p"), Task("b", "q")])


def test_a_set_without_tasks_is_refused() -> None:
    with pytest.raises(TaskError, match="at least one task"):
        TaskSet([])


def test_a_task_is_found_by_its_id() -> None:
    assert tasks(3).by_id("t1").answer == 1
    with pytest.raises(TaskError, match="no task has the id 'x'; the first is 't0'"):
        tasks(3).by_id("x")


def test_a_slice_is_a_task_set() -> None:
    part = tasks(5)[1:3]
    assert isinstance(part, TaskSet)
    assert ids(part) == ["t1", "t2"]
    assert ids(tasks(5).take(2)) == ["t0", "t1"]
    assert ids(tasks(2).take(9)) == ["t0", "t1"]


def test_a_seed_fixes_the_order() -> None:
    assert ids(tasks(30).shuffled(1)) == ids(tasks(30).shuffled(1))
    assert ids(tasks(30).shuffled(1)) != ids(tasks(30).shuffled(2))
    assert sorted(ids(tasks(30).shuffled(1))) == sorted(ids(tasks(30)))


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5, 0.9])
def test_a_split_divides_without_overlap_and_the_same_way_every_time(fraction: float) -> None:
    train, test = tasks(50).split(fraction, seed=3)
    again = tasks(50).split(fraction, seed=3)
    assert len(test) == round(50 * fraction)
    assert not set(ids(train)) & set(ids(test))
    assert set(ids(train)) | set(ids(test)) == set(ids(tasks(50)))
    assert (ids(train), ids(test)) == (ids(again[0]), ids(again[1]))
    assert ids(tasks(50).split(fraction, seed=4)[1]) != ids(test)


@pytest.mark.parametrize("fraction", [0.0, 0.001, 1.0])
def test_a_split_that_leaves_one_side_empty_is_refused(fraction: float) -> None:
    with pytest.raises(TaskError, match="leaves one side of 10 tasks empty"):
        tasks(10).split(fraction)


def test_a_generated_task_depends_on_the_seed_and_its_index_only() -> None:
    def make(rng: Any, index: int) -> Task:
        return Task(str(index), f"{rng.random()}")

    short, long = TaskSet.generate(make, 3, seed=1), TaskSet.generate(make, 9, seed=1)
    assert list(long[:3]) == list(short)
    assert len({task.prompt for task in long}) == 9
    assert TaskSet.generate(make, 3, seed=2)[0] != short[0]


# ---- from rows and frames


def test_rows_are_tasks_whatever_holds_them() -> None:
    import datasets
    import pandas
    import pyarrow

    rows = [dict(zip(("id", "prompt", "answer", "level"), row, strict=True)) for row in ("apx1", "bqy2")]
    rows = [{**row, "level": int(row["level"])} for row in rows]
    expected = [Task("a", "p", "x", {"level": 1}), Task("b", "q", "y", {"level": 2})]
    holders: list[Any] = [rows, iter(rows), tuple(rows), (row for row in rows), expected]
    holders += [datasets.Dataset.from_list(rows), pandas.DataFrame(rows), pyarrow.Table.from_pylist(rows)]
    holders += [datasets.Dataset.from_list(rows).to_iterable_dataset()]
    for holder in holders:
        assert list(TaskSet(holder)) == expected


def test_a_row_without_an_id_has_its_place_and_a_prompt_may_be_one_user_message() -> None:
    message = [{"role": "user", "content": "p"}]
    assert list(TaskSet([{"prompt": message, "answer": 1, "id": None}])) == [Task("0", "p", 1)]
    with pytest.raises(TaskError, match="task 0: the prompt must be text"):
        TaskSet([{"prompt": [{"role": "system", "content": "s"}, *message], "answer": 1}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("tasks.jsonl", r"got 'tasks.jsonl'; TaskSet.read\(...\) reads a file"),
        ({"train": [], "test": []}, "got a mapping of 'train', 'test'; choose one"),
        (Task("t", "p"), "got a single Task"),
        (None, "got a single NoneType"),
        ([("p", "a")], "task 0 must be a Task, or a row with prompt and answer, got tuple"),
        ([{"prompt": "p"}], "task 0: field 'answer' is missing; it has: prompt"),
        ([{"prompt": "p", "answer": 1}, "q"], "task 1 must be a Task, .* got str: 'q'"),
        ([], "at least one task"),
    ],
)
def test_what_is_not_a_set_of_tasks_is_named(given: Any, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        TaskSet(given)


def test_a_function_that_reads_rows_must_return_a_task(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "tasks.jsonl", row())
    with pytest.raises(TaskError, match="line 1: to_task must return a Task, got dict"):
        TaskSet.read(path, lambda row, index: row)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_task_cannot_be_taken(count: int) -> None:
    with pytest.raises(TaskError, match="at least one task must be taken"):
        tasks(3).take(count)


def test_typed_fields_are_read_from_a_row_and_other_columns_are_metadata() -> None:
    row = {"prompt": "p", "answer": "a", "kind": "sum", "needs_tool": False, "difficulty": 2, "level": "hard"}
    (task,) = TaskSet([row])
    assert (task.kind, task.needs_tool, task.difficulty, task.metadata) == ("sum", False, 2, {"level": "hard"})


def test_a_column_with_a_typed_fields_name_and_values_of_another_type_is_metadata() -> None:
    (task,) = TaskSet([{"prompt": "p", "answer": "a", "kind": ["x"], "difficulty": True, "thinking_tokens": None}])
    assert (task.kind, task.difficulty, task.thinking_tokens) == ("", None, None)
    assert task.metadata == {"kind": ["x"], "difficulty": True}


@pytest.mark.parametrize(
    ("name", "value"),
    [("kind", 3), ("needs_tool", "yes"), ("difficulty", [1]), ("difficulty", True), ("template_options", "x")],
)
def test_a_typed_field_refuses_another_type_and_names_the_task(name: str, value: object) -> None:
    with pytest.raises(TaskError, match=rf"{name} must be .*task 't'"):
        Task("t", "p", **{name: value})  # type: ignore[arg-type]
