"""Rows come from files and from sets on the hub, each with its place; broken ones are named."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from toolrl import ConfigError, TaskError, read_rows

ROWS = [{"q": "one"}, {"q": "two"}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["list.json", "lines.json", "lines.jsonl"])
def test_a_json_file_is_a_list_or_has_a_row_per_line(tmp_path: Path, name: str, encoding: str) -> None:
    whole = json.dumps(ROWS) if name == "list.json" else "\n\n".join(map(json.dumps, ROWS))
    (tmp_path / name).write_text(whole, encoding)
    places, rows = zip(*read_rows(tmp_path / name), strict=True)
    assert list(rows) == ROWS
    assert places[1] == f"{tmp_path / name}, {'entry 2' if name == 'list.json' else 'line 3'}"


def test_a_set_in_the_hubs_format_is_read_by_split(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).to_parquet(tmp_path / "set" / "train.parquet")
    assert list(read_rows(tmp_path / "set")) == [(f"{tmp_path / 'set'}[train], row {n + 1}", ROWS[n]) for n in (0, 1)]
    with pytest.raises(ConfigError, match=r"cannot load the data set '.*set', split 'dev'"):
        next(read_rows(tmp_path / "set", split="dev"))
    with pytest.raises(ConfigError, match=r"cannot load the data set '.*set:other'"):
        next(read_rows(f"{tmp_path / 'set'}:other"))


def test_columns_that_datasets_writes_as_json_in_parquet_are_decoded(tmp_path: Path) -> None:
    rows = [
        {"answer": 1, "calls": [{"name": "a", "arguments": {"x": 1}}], "same": [{"k": "1"}]},
        {"answer": [1], "calls": [{"name": "b", "arguments": "text"}, "odd"], "same": None},
        {"answer": None, "calls": [], "same": [{"k": None}]},
    ]
    features = datasets.Features(
        {
            "answer": datasets.Json(),
            "calls": [datasets.Json()],
            "same": [{"k": datasets.Value("string")}],
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "odd.parquet")
    assert [row for _, row in read_rows(tmp_path / "odd.parquet")] == rows


def test_one_object_over_lines_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(ROWS[0], indent=2))
    assert [row for _, row in read_rows(tmp_path / "one.json")] == ROWS[:1]


def test_the_place_of_an_invalid_row_is_named(tmp_path: Path) -> None:
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    with pytest.raises(TaskError, match=r"deep\.jsonl, line 1: not valid JSON"):
        list(read_rows(tmp_path / "deep.jsonl"))
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(TaskError, match=r"bad\.json, entry 1: expected a JSON object, got int"):
        list(read_rows(tmp_path / "bad.json"))
    with pytest.raises(TaskError, match="no data file at"):
        list(read_rows(tmp_path / "absent.jsonl"))
