"""Promises about trajectories: tokens keep their provenance, rows are typed, other readers open the file."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from toolrl import (
    Message,
    Sample,
    Score,
    StopReason,
    ToolCall,
    ToolFailure,
    ToolResult,
    Trajectory,
    TrajectoryWriter,
    read_trajectories,
)
from toolrl.trajectory import Turn

CALL = ToolCall("python", {"code": "1+1"}, "call_1_0", raw="<tool_call>...</tool_call>")
BROKEN = ToolCall("", id="call_1_1", error="not JSON", raw="<tool_call>{")


def make_trajectory(id: str = "a", **fields: Any) -> Trajectory:
    """Two turns: two calls and their observation, then an answer."""
    results = (
        ToolResult(CALL, "2", None, 0.125, 0),
        ToolResult(BROKEN, "error: not JSON", ToolFailure.MALFORMED, 0.0, 7),
    )
    turns = (
        Turn(
            Sample([5, 6, 7], [-0.5, -0.25, -1.0], "stop", 3),
            Message("assistant", "so", (CALL, BROKEN), thinking="Let me see."),
            results,
            (8, 9),
            0.5,
            0.25,
        ),
        Turn(Sample([10], [-2.0], "stop", 3), Message("assistant", "<answer>2</answer>")),
    )
    settings: dict[str, Any] = {
        "id": id,
        "env_id": "toolrl/PythonMath-v0",
        "task_id": "t",
        "prompt": (Message("system", "s"), Message("user", "naïve 漢?")),
        "prompt_ids": [1, 2, 3, 4],
        "turns": turns,
        "score": Score(0.9, {"correct": 1.0, "economy": 0.9}, "2", "right"),
        "stop": StopReason.ANSWER,
        "seconds": 1.5,
        "info": {"step": 1, "group": "g"},
    }
    return Trajectory(**{**settings, **fields})


UNSCORED: dict[str, Any] = {
    "turns": (),
    "score": Score(None, reason="SandboxFault: gone"),
    "stop": StopReason.FAULT,
    "error": "SandboxFault: gone",
    "attempts": 3,
    "info": {},
}
# The variety of rows in a real file.
VARIANTS: dict[str, dict[str, Any]] = {
    "scored": {},
    "fault": UNSCORED,
    "other environment": {
        "env_id": "toolrl/DocsSearch-v0",
        "score": Score(1, {"style": 1}, None, ""),  # whole numbers
        "info": {"split": "test", "nested": {"lr": 1e-5}},
    },
    "cut before the calls ran": {
        "turns": (Turn(Sample([5, 6], [-1.0, -1.0], "length"), Message("assistant", "", (CALL, BROKEN))),),
        "stop": StopReason.TOKENS,
    },
    "cut between the calls": {
        "turns": (
            Turn(Sample([5], [-1.0]), Message("assistant", "", (CALL, BROKEN)), (ToolResult(CALL, "", None),), (8,)),
        ),
        "stop": StopReason.TURNS,
    },
}


# ---- tokens


def test_ids_mask_and_logprobs_have_one_length_and_the_mask_marks_sampled_tokens() -> None:
    trajectory = make_trajectory()
    assert trajectory.completion_ids == [5, 6, 7, 8, 9, 10]
    assert trajectory.mask == [1, 1, 1, 0, 0, 1]
    assert trajectory.logprobs == [-0.5, -0.25, -1.0, 0.0, 0.0, -2.0]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=6))
def test_ids_mask_and_logprobs_agree_for_any_turns(lengths: list[tuple[int, int]]) -> None:
    turns = tuple(
        Turn(Sample([1] * sampled, [-1.0] * sampled), Message("assistant", ""), (), (2,) * observed)
        for sampled, observed in lengths
    )
    trajectory = make_trajectory(turns=turns)
    assert len(trajectory.completion_ids) == len(trajectory.mask) == len(trajectory.logprobs)
    assert [token == 1 for token in trajectory.completion_ids] == [bit == 1 for bit in trajectory.mask]
    assert sum(trajectory.logprobs) == -sum(trajectory.mask)


def test_the_conversation_is_assembled_from_the_turns() -> None:
    messages = make_trajectory().messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "tool", "tool", "assistant"]
    assert (messages[3].content, messages[3].name, messages[3].tool_call_id) == ("2", "python", "call_1_0")
    assert [result.failure for result in make_trajectory().tool_results] == [None, ToolFailure.MALFORMED]


# ---- rows


def through_json(trajectory: Trajectory) -> Trajectory:
    return Trajectory.from_row(json.loads(json.dumps(trajectory.to_row())))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_restores_the_trajectory(variant: str) -> None:
    trajectory = make_trajectory(**VARIANTS[variant])
    assert through_json(trajectory) == trajectory


texts = st.text(max_size=12)
milliseconds = st.integers(0, 10**6).map(lambda number: number / 1000)
json_objects = st.dictionaries(
    texts, st.none() | st.booleans() | st.integers() | texts | st.lists(texts, max_size=2), max_size=3
)


@st.composite
def turns_of_an_episode(draw: st.DrawFn, number: int) -> Turn:
    calls = tuple(
        ToolCall(
            draw(texts), draw(json_objects), f"call_{number}_{index}", draw(st.none() | texts.filter(bool)), draw(texts)
        )
        for index in range(draw(st.integers(0, 3)))
    )
    answered = calls[: draw(st.integers(0, len(calls)))]
    failures = st.none() | st.sampled_from(ToolFailure)
    results = tuple(
        ToolResult(c, draw(texts), draw(failures), draw(milliseconds), draw(st.integers(0, 9))) for c in answered
    )
    ids = draw(st.lists(st.integers(0, 2**17), max_size=4))
    logprobs = [draw(st.floats(-50, 0)) for _ in ids]
    sample = Sample(ids, logprobs, draw(st.sampled_from(["stop", "length"])), draw(st.integers(0, 99)))
    observed = tuple(draw(st.lists(st.integers(0, 2**17), max_size=4)))
    return Turn(
        sample, Message("assistant", draw(texts), calls), results, observed, draw(milliseconds), draw(milliseconds)
    )


@st.composite
def trajectories(draw: st.DrawFn) -> Trajectory:
    value = draw(st.none() | st.floats(-2, 2))
    parts = draw(st.dictionaries(texts, st.floats(-2, 2), max_size=3))
    return make_trajectory(
        turns=tuple(draw(turns_of_an_episode(number)) for number in range(draw(st.integers(0, 3)))),
        score=Score(value, parts, draw(st.none() | texts), draw(texts)),
        stop=draw(st.sampled_from(StopReason)),
        error=draw(texts),
        attempts=draw(st.integers(1, 9)),
        seconds=draw(milliseconds),
        info=draw(json_objects),
        usage=draw(st.dictionaries(texts, st.floats(0, 9), max_size=3)),
    )


@given(trajectory=trajectories())
def test_any_row_restores_its_trajectory(trajectory: Trajectory) -> None:
    assert through_json(trajectory) == trajectory


@given(trajectory=trajectories())
def test_every_row_has_the_same_fields_of_the_same_types(trajectory: Trajectory) -> None:
    def shape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: shape(item) for name, item in value.items()}
        return [shape(item) for item in value[:1]] if isinstance(value, list) else type(value)

    reference, row = make_trajectory().to_row(), trajectory.to_row()
    assert row.keys() == reference.keys()
    for name in row.keys() - {
        "reward",
        "success",
        "turns",
        "completion_ids",
        "mask",
        "logprobs",
    }:
        assert shape(row[name]) == shape(reference[name]), name
    for turn in row["turns"]:
        assert turn.keys() == reference["turns"][0].keys()
        assert type(turn["tool_calls"]) is str
    for name in ("parts", "usage"):
        assert all(type(value) is float for value in json.loads(row[name]).values())
    assert row["reward"] is None or type(row["reward"]) is float


def test_a_row_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="schema_version is 99, this version reads"):
        Trajectory.from_row({**make_trajectory().to_row(), "schema_version": 99})


def test_rows_without_branches_are_read() -> None:
    row = make_trajectory().to_row()
    del row["branches"]
    assert Trajectory.from_row({**row, "schema_version": 5}) == make_trajectory()


@pytest.mark.parametrize("name", ["double", ""])
def test_what_tools_returned_to_a_program_is_kept_and_counts(name: str) -> None:
    played = ToolResult(ToolCall(name, {"number": 4}, "a"), "8", None if name else ToolFailure.UNKNOWN_TOOL, 0.25)
    for results in ((), (played,), (played, played)):
        trajectory = make_trajectory(results=results)
        assert Trajectory.from_row(json.loads(json.dumps(trajectory.to_row()))) == trajectory
        assert trajectory.tool_results == [*results]
    assert make_trajectory().tool_results == [result for turn in make_trajectory().turns for result in turn.results]


def test_branches_are_kept() -> None:
    branch = make_trajectory(prompt_ids=[1, 2, 3])
    trajectory = make_trajectory(branches=(branch,))
    assert Trajectory.from_row(json.loads(json.dumps(trajectory.to_row()))) == trajectory


# ---- files


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "trajectories.jsonl"


def write(path: Path, *written: Trajectory) -> None:
    with TrajectoryWriter(path) as writer:
        for trajectory in written:
            writer.write(trajectory)


def test_what_is_written_is_read_back_in_order_and_runs_append(path: Path) -> None:
    first, second, third = (make_trajectory(id, **fields) for id, fields in zip("abc", VARIANTS.values(), strict=False))
    write(path, first, second)
    write(path, third)
    assert list(read_trajectories(path)) == [first, second, third]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trajectory=trajectories())
def test_any_trajectory_is_one_line(path: Path, trajectory: Trajectory) -> None:
    path.unlink(missing_ok=True)
    write(path, trajectory)
    assert path.read_bytes().count(b"\n") == 1
    assert list(read_trajectories(path)) == [trajectory]


def test_text_that_utf8_cannot_encode_does_not_break_the_file(path: Path) -> None:
    call = ToolCall("\ud800", {"\udfff": "a\ud800"}, "call_1_0", raw="\\ud800")
    turn = Turn(Sample([1], [0.0]), Message("assistant", "\ud800", (call,)), (ToolResult(call, "b"),))
    write(path, make_trajectory(turns=(turn,)))
    json.loads(path.read_bytes().decode("utf-8"))
    (read,) = read_trajectories(path)
    assert read.tool_results[0].call.arguments == call.arguments
    assert read.turns[0].message.content == "?"
    assert_opens_with_datasets(path, 1)


# ---- other readers


def assert_opens_with_datasets(path: Path, count: int) -> Any:
    os.environ["HF_DATASETS_OFFLINE"] = "1"
    import datasets

    rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    assert len(rows) == count
    return rows


@pytest.mark.parametrize("first", VARIANTS)
def test_the_file_opens_with_datasets_whatever_comes_first(path: Path, first: str) -> None:
    order = [first, *(name for name in VARIANTS if name != first)] * 2
    write(path, *(make_trajectory(str(number), **VARIANTS[name]) for number, name in enumerate(order)))
    rows = assert_opens_with_datasets(path, len(order))
    assert [row["env_id"] for row in rows] == [trajectory.env_id for trajectory in read_trajectories(path)]
    assert [Trajectory.from_row(row) for row in rows] == list(read_trajectories(path))


def test_the_file_opens_with_datasets_where_calls_and_answers_come_late(path: Path) -> None:
    bare = make_trajectory("bare", turns=(make_trajectory().turns[-1],), score=Score(0.0, reason="x" * 100_000))
    write(path, *(dataclasses.replace(bare, id=f"bare-{number}") for number in range(110)), make_trajectory("late"))
    assert path.stat().st_size > 10 << 20, "datasets infers types from the first ten megabytes"
    rows = assert_opens_with_datasets(path, 111)
    assert Trajectory.from_row(rows[110]) == make_trajectory("late")


def test_the_file_opens_with_pandas(path: Path) -> None:
    import pandas

    write(path, *(make_trajectory(str(number), **fields) for number, fields in enumerate(VARIANTS.values())))
    frame = pandas.read_json(path, lines=True)
    assert frame["reward"].isna().tolist() == [False, True, False, False, False]
    assert frame.groupby("env_id")["reward"].mean()["toolrl/DocsSearch-v0"] == 1.0
    assert json.loads(frame["turns"][0][0]["tool_calls"])[0]["output"] == "2"


def test_a_trajectory_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_trajectory().id = "b"  # type: ignore[misc]
