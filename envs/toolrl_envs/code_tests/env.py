"""The `toolrl/CodeTests-v0` environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, TaskError, TaskSet, ToolEnv, call, say
from toolrl.rewards import code_reward
from toolrl.tools import python_tool
from toolrl_envs.code_tests.problem import Problem
from toolrl_envs.code_tests.sources import load_problems
from toolrl_envs.common import CALL_COST, Split, check_unused

SYSTEM_PROMPT = (
    "Solve the task in Python; hidden tests decide. You may try code with the tool first. End with the whole program "
    "in one ```python block, and no other block."
)


class CodeTestsEnv(ToolEnv):
    """Write a function or a program against hidden tests, with a python tool to try it out."""

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | Path | None = None,
        hub_split: str = "",
        size: int = 2000,
        seed: int = 0,
        verify: bool = False,
        partial: bool = False,
        call_cost: float = CALL_COST,
        test_seconds: float = 3.0,
        total_seconds: float = 15.0,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            data: A `.jsonl`, `.jsonl.gz` or `.parquet` file in the format of a public data set (see the README), or the
                id of one on the Hugging Face hub, such as "google-research-datasets/mbpp:full"; None for the small one
                that comes with the package. "{split}" in a file name stands for the split; without it, every fifth
                problem is held out for "test".
            hub_split: The only split of a data set on the hub ("test" for HumanEval), then divided like a file.
            size: Maximum number of tasks.
            seed: Fixes which tasks are drawn, and their order.
            verify: Run the reference solutions first, and skip tasks whose own solution fails.
            partial: Give partial credit for passing some hidden tests; see `toolrl.rewards.code_reward`.
            call_cost: Deducted from a right answer for each call.
            test_seconds: Time limit of one test.
            total_seconds: Time limit of all tests of an answer.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is wrong, or the data set cannot be loaded.
            TaskError: The file is missing or broken.
        """
        check_unused(data, hub_split=hub_split)
        reward = code_reward(
            partial=partial, call_cost=call_cost, test_seconds=test_seconds, total_seconds=total_seconds
        )
        problems = load_problems(data, split, size, seed, hub_split=hub_split, verify=verify)
        super().__init__(
            tasks=TaskSet(map(_task, problems)),
            tools=[python_tool()],
            reward=reward,
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=5, tool_calls=4, completion_tokens=2048 if data is None else 8192, turn_tokens=2048),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Submit the reference solution, after compiling it if the task is worth a tool call.

    Raises:
        TaskError: The task has no reference solution.
    """
    if not task.answer:
        raise TaskError(f"task {task.id!r} has no reference solution")
    final = say(f"```python\n{task.answer}\n```")
    if not task.needs_tool:
        return [final]
    trial = f"program = {task.answer!r}\ncompile(program, 'program', 'exec')\nprint(program)"
    return [call("python", code=trial), final]


def _task(p: Problem) -> Task:
    """Make a task; its answer is the reference solution, but any program that passes the tests is right."""
    metadata = {"tests": p.suite.to_dict()}
    return Task(p.id, p.prompt, p.solution, metadata, kind=p.kind, needs_tool=p.needs_tool)
