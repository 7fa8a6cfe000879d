"""Promises about demonstrations: successful episodes only, the best of each task first, no held-out task by default."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolrl import ConfigError, Message, Sample, Score, StopReason, ToolCall, ToolResult, Trajectory
from toolrl.training.demonstrations import as_demonstration, is_held_out, select_demonstrations, write_demonstrations
from toolrl.trajectory import Turn


def played(
    task: str = "t", reward: float | None = 1.0, calls: int = 0, answer: str = "4", success: bool = True, **fields: Any
) -> Trajectory:
    """An episode with some calls and an answer."""
    turns = []
    for index in range(calls):
        call = ToolCall("f", {"x": index}, f"c{index}")
        message = Message("assistant", "", (call,))
        turns.append(Turn(Sample([1, 2], [0.0, 0.0]), message, (ToolResult(call, "out"),), (3,)))
    turns.append(Turn(Sample([4], [0.0]), Message("assistant", answer)))
    score = Score(reward, {"correct": float(success)} if reward is not None else {})
    prompt = (Message("user", f"do {task}"),)
    trajectory = Trajectory(
        f"{task}/{calls}/{answer}", "env", task, prompt, [7, 8], tuple(turns), score, StopReason.ANSWER
    )
    return replace(trajectory, **fields)


def test_a_task_keeps_its_best_reward_and_then_its_fewest_calls() -> None:
    episodes = [
        played(reward=0.9, calls=0),
        played(reward=1.0, calls=3),
        played(reward=1.0, calls=1),
        played("u", reward=0.5, calls=2),
    ]
    chosen = select_demonstrations(episodes).chosen
    assert [(t.task_id, t.score.value, len(t.tool_results)) for t in chosen] == [("t", 1.0, 1), ("u", 0.5, 2)]
    both = select_demonstrations(episodes, per_task=2).chosen
    assert [(t.score.value, len(t.tool_results)) for t in both if t.task_id == "t"] == [(1.0, 1), (1.0, 3)]


def test_equal_conversations_count_once() -> None:
    again = replace(played(calls=1), id="another")
    selection = select_demonstrations([played(calls=1), again, played(calls=2)], per_task=3)
    assert [len(t.tool_results) for t in selection.chosen] == [1, 2]
    assert dict(selection.left_out) == {"are surplus for their task": 1}


def test_equal_task_ids_of_two_environments_are_two_tasks() -> None:
    assert len(select_demonstrations([played(), replace(played(), env_id="other")]).chosen) == 2


def test_unsuccessful_episodes_are_left_out_and_counted() -> None:
    broken = ToolCall("f", id="c", error="not JSON", raw="{")
    malformed = replace(
        played(), turns=(Turn(Sample([1], [0.0]), Message("assistant", "", (broken,))), *played().turns)
    )
    selection = select_demonstrations(
        [
            played(success=False),
            played(reward=None),
            played(stop=StopReason.TOKENS),
            malformed,
            played(info={"mode": "eval", "split": "test"}),
            played("kept"),
        ]
    )
    assert [t.task_id for t in selection.chosen] == ["kept"]
    assert selection.summary() == (
        "1 demonstrations; left out: 2 did not succeed, 1 were cut by a limit, 1 have a malformed call, "
        "1 are from held-out tasks"
    )


def test_a_lowest_reward_can_be_set() -> None:
    assert [
        t.score.value for t in select_demonstrations([played("a", 0.6), played("b", 0.8)], min_reward=0.7).chosen
    ] == [0.8]


@pytest.mark.parametrize(
    ("info", "held_out"),
    [
        ({}, False),
        ({"mode": "train"}, False),
        ({"mode": "demonstrations", "split": "train"}, False),
        ({"mode": "eval", "split": "train"}, False),
        ({"mode": "eval", "split": "test"}, True),
        ({"mode": "eval"}, True),
        ({"mode": "before"}, True),
        ({"mode": "after"}, True),
    ],
)
def test_held_out_tasks_are_recognised_and_left_out_by_default(info: dict[str, str], held_out: bool) -> None:
    trajectory = played(info=info)
    assert is_held_out(trajectory) is held_out
    assert len(select_demonstrations([trajectory]).chosen) == (0 if held_out else 1)
    assert len(select_demonstrations([trajectory], held_out=True).chosen) == 1


def test_a_row_is_a_conversation_with_its_tools_and_its_tokens(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    path = tmp_path / "deep" / "demonstrations.jsonl"
    write_demonstrations(path, [played(calls=1, answer="\ud800")], {"env": tools})
    (row,) = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert row["messages"][1]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 0}}
    assert row["tools"] == tools
    assert (row["prompt_ids"], row["completion_ids"], row["mask"]) == ([7, 8], [1, 2, 3, 4], [1, 1, 0, 1])
    assert (row["env_id"], row["task_id"], row["reward"], row["tool_calls"]) == ("env", "t", 1.0, 1)
    assert [entry.name for entry in path.parent.iterdir()] == ["demonstrations.jsonl"]
    assert "input_ids" not in as_demonstration(played(), tools)  # TRL would treat the row as tokenised


def test_zero_demonstrations_per_task_are_refused() -> None:
    with pytest.raises(ConfigError, match="per_task must be at least 1, got 0"):
        select_demonstrations([], per_task=0)
