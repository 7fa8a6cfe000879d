"""Small episodes, and a run of five."""

from __future__ import annotations

from typing import Any

from toolrl import Message, Sample, Score, StopReason, ToolCall, ToolFailure, ToolResult, Trajectory
from toolrl.trajectory import Turn


def episode(
    id: str,
    task: str = "t",
    reward: float | None = 1.0,
    tools: tuple[str, ...] = (),
    failure: ToolFailure | None = None,
    stop: StopReason = StopReason.ANSWER,
    **fields: Any,
) -> Trajectory:
    """One episode: a turn for each call, then an answer."""
    turns = []
    for number, name in enumerate(tools, 1):
        call = ToolCall(name, {"x": number}, f"call_{number}_0")
        message = Message("assistant", "", (call,), thinking=f"thought {number}")
        result = ToolResult(call, f"output {number}", failure, 0.5)
        turns.append(Turn(Sample([5, 6], [-0.5, -1.5]), message, (result,), (7, 8, 9), 0.25, 0.5))
    turns.append(Turn(Sample([3], [-0.25]), Message("assistant", "<answer>42</answer>")))
    info = {"mode": "train", "step": 1, "session": "s", "group": f"1/0/{task}", "needs_tool": True, "kind": "sum"}
    parts = {} if reward is None else {"correct": float(reward > 0)}
    settings: dict[str, Any] = {
        "env_id": "toolrl/PythonMath-v0",
        "task_id": task,
        "prompt": (Message("system", "s"), Message("user", f"What is {task}?")),
        "prompt_ids": [1, 2, 3],
        "score": Score(reward, parts, "42", "right" if reward else "wrong"),
        "seconds": 2.0,
        "info": {**info, **fields.pop("info", {})},
        "usage": {"cache_hits": 2.0} if tools else {},
    }
    return Trajectory(id=id, turns=tuple(turns), stop=stop, **{**settings, **fields})


EPISODES = [
    episode("a", "t1", 1.0, ("python",)),
    episode("b", "t1", 0.0, ("python", "python", "python"), ToolFailure.TIMEOUT, StopReason.TURNS),
    episode("c", "t2", None, (), None, StopReason.FAULT, error="SandboxFault: gone"),
    episode("d", "t2", 0.5, ("search",), info={"step": 2, "model": "big"}),
    episode("e", "t3", 0.0, (), info={"mode": "eval", "group": None, "needs_tool": False}),
]
