"""Runs to view: an ordinary one, and a hostile one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.view.episodes import EPISODES
from toolrl import (
    Award,
    Ended,
    Message,
    Sample,
    Score,
    StopReason,
    ToolCall,
    ToolFailure,
    ToolResult,
    Trajectory,
    TrajectoryWriter,
)
from toolrl.trajectory import Turn

# Each calls `owned` in a browser that takes it for markup or a link.
SCRIPTS = (
    "<script>owned(1)</script>",
    "<img src=x onerror=owned(2)>",
    "<svg onload=owned(3)><animate onbegin=owned(4) attributeName=x dur=1s>",
    "</pre></details></article></template></iframe><script>owned(5)</script>",
    "\"' onmouseover=owned(6) autofocus onfocus=owned(7) x='",
    "<a href='javascript:owned(8)'>click</a> javascript:owned(9)",
    "{{ 7 * 7 }} {% raw %} ${owned(10)} `${owned(11)}`",
    "<iframe srcdoc='<script>parent.owned(12)</script>'></iframe>",
    "<style>* { display: none !important }</style><link rel=stylesheet href=//evil.example/x.css>",
    "<meta http-equiv=refresh content='0;url=//evil.example'><base href=//evil.example/>",
    "<form action=//evil.example><button autofocus>send</button></form>]]><!--",
)
INVISIBLE = (
    "nul\x00 bell\x07 back\x08 return\r escape\x1b[31mred\x1b[0m "
    "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 \x9b31m"
)
BIDI = "\u202e/etc/passwd\u2066\u200f\u2028\ufeff\u200b\U000e0041"
HARMFUL = "\n".join([*SCRIPTS, INVISIBLE, BIDI])


@pytest.fixture(scope="session")
def play() -> Callable[..., Trajectory]:
    """Makes a trajectory: a Python call, its output, an answer."""

    def make(id: str = "train/s/1/0", **fields: Any) -> Trajectory:
        output, code = fields.pop("output", "4"), fields.pop("code", "print(2 + 2)")
        said, thinking = fields.pop("said", "<answer>4</answer>"), fields.pop("thinking", "Two and two.")
        reward, question = fields.pop("reward", 1.0), fields.pop("question", "What is 2 + 2?")
        call = ToolCall("python", {"code": code}, "call_1_0", raw=f'<tool_call>{{"name": "python"}}{code}</tool_call>')
        failure = fields.pop("failure", None)
        parts = {} if reward is None else {"correct": float(reward > 0), "economy": 0.9}
        turns = (
            Turn(
                Sample([5, 6, 7, 8], [-0.001, -0.5, -2.0, -6.0]),
                Message("assistant", "", (call,), thinking=thinking),
                (ToolResult(call, output, failure, 0.25, 0),),
                (11, 12),
                1.5,
                0.25,
            ),
            Turn(Sample([9, 2], [-0.1, -0.2]), Message("assistant", said), generation_seconds=0.5),
        )
        defaults: dict[str, Any] = {
            "env_id": "toolrl/PythonMath-v0",
            "task_id": "sum-1",
            "prompt": (Message("system", "Use a tool."), Message("user", question)),
            "prompt_ids": [1, 3, 4],
            "turns": turns,
            "score": Score(reward, parts, "4", "right" if reward else "expected '4'"),
            "stop": StopReason.ANSWER,
            "seconds": 2.5,
            "info": {"mode": "train", "step": 1, "session": "s", "group": "1/0/0", "needs_tool": False},
        }
        return Trajectory(id, **(defaults | fields))

    return make


@pytest.fixture(scope="session")
def harmful(play: Callable[..., Trajectory]) -> Trajectory:
    """A trajectory whose every text is hostile, with a lone surrogate among them."""
    broken = ToolCall("", id=HARMFUL, error=HARMFUL, raw=HARMFUL)
    long = ToolCall(HARMFUL, {HARMFUL: HARMFUL, "code": HARMFUL, "list": [HARMFUL]}, "call_2", raw=HARMFUL)
    turn = Turn(
        Sample([5], [-1.0]),
        Message("assistant", HARMFUL, (broken, long), thinking=HARMFUL),
        (
            ToolResult(broken, HARMFUL, ToolFailure.MALFORMED),
            ToolResult(long, HARMFUL, None, 0.1, 3, Ended(HARMFUL, HARMFUL, HARMFUL)),
        ),
        (6,),
        0.1,
        0.1,
        HARMFUL,
        (Award(0.5, HARMFUL),),
    )
    return play(
        HARMFUL,
        env_id=HARMFUL,
        task_id=HARMFUL,
        prompt=(Message("system", HARMFUL), Message("user", HARMFUL)),
        turns=(turn,),
        score=Score(0.0, {HARMFUL: -0.5}, HARMFUL, HARMFUL),
        error=HARMFUL,
        info={"mode": HARMFUL, "step": 2, HARMFUL: HARMFUL},
        usage={HARMFUL: 2.0},
        ending=HARMFUL,
    )


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Writes trajectories and metrics as a run's folder."""

    def write(name: str, trajectories: list[Trajectory], steps: int = 5) -> Path:
        folder = tmp_path / name
        with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
            for trajectory in trajectories:
                writer.write(trajectory)
        append_metrics(folder, range(1, steps + 1))
        return folder

    return write


@pytest.fixture
def run(write_run: Callable[..., Path], play: Callable[..., Trajectory]) -> Path:
    """120 episodes of 15 tasks in groups of eight, half of them right, one unscored; with metrics."""
    trajectories = []
    for number in range(120):
        step, member = divmod(number, 8)
        info = {"mode": "train", "step": step, "session": "s", "group": f"{step}/0/0", "needs_tool": True}
        reward = None if number == 4 else float(member % 2)
        trajectories.append(
            play(
                f"train/s/{step}/{member}",
                task_id=f"sum-{step}",
                question=f"What is {step} + 2?",
                output=str(step + 2),
                said=f"<answer>{step + 2 * (member % 2)}</answer>",
                reward=reward,
                info=info,
            )
        )
    return write_run("first", trajectories)


def append_metrics(folder: Path, steps: range) -> None:
    """Append rows like those of training."""
    with (folder / "metrics.jsonl").open("a") as file:
        for step in steps:
            row = {"step": step, "loss": 1 / step, "PythonMath/success": min(1.0, step / 10)}
            file.write(json.dumps({**row, "PythonMath/unscored_share": 0.0, "PythonMath/reward": 0.5}) + "\n")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Appends trajectories to a run's folder."""

    def append(*trajectories: Trajectory, name: str = "small") -> Path:
        with TrajectoryWriter(tmp_path / name / "trajectories.jsonl") as writer:
            for trajectory in trajectories:
                writer.write(trajectory)
        return tmp_path / name

    return append


@pytest.fixture
def small(write: Callable[..., Path]) -> Path:
    """A run of five short episodes; see `episodes.py`."""
    return write(*EPISODES)
