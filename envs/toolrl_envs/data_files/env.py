"""The `toolrl/DataFiles-v0` environment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, ToolEnv, call, say
from toolrl.rewards import answer_reward
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, Split, check_unused, load_tasks, same_answer
from toolrl_envs.data_files.tasks import files_of, make_tasks, read_task

_SYSTEM_PROMPT = "The files are in python's working directory. End with <answer>...</answer>."
# pyarrow alone needs more address space than all of the standard library.
_PACKAGE_LIMITS = SandboxLimits(seconds=20.0, memory_mb=4096)


class DataFilesEnv(ToolEnv):
    """Questions about CSV, JSON and optionally Parquet files, which the python tool can read."""

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | Path | None = None,
        test_split: str = "",
        hub_split: str = "",
        size: int | None = None,
        seed: int = 0,
        rows: int | None = None,
        parquet: bool = False,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            data: None for generated files and questions; or a `.jsonl` or `.parquet` file, or a hub id, whose rows have
                `prompt`, `answer` and `files`, an object of texts by path. "{split}" in a file name stands for the
                split; without it, every fifth question is held out for "test".
            test_split: The name of the test split on the hub, if not "test".
            hub_split: The only split of a data set on the hub, which is then divided like a file.
            size: Number of generated tasks, 2000 by default; or maximum number of tasks read.
            seed: Fixes the generated tasks; or which tasks read are drawn, and their order.
            rows: Number of rows in each generated file, 10 to 10,000; 60 by default.
            parquet: Include Parquet files. The code can then import all packages of the trainer (pandas, pyarrow).
            call_cost: Deducted from a right answer for each call, down to half.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range or has no effect with `data`, or the data cannot be loaded.
            TaskError: The file is missing or broken; names the line.
            MissingExtra: pyarrow, needed for Parquet files, is not installed.
        """
        check_unused(data, test_split=test_split, hub_split=hub_split, rows=rows)
        if data is None:
            tasks = make_tasks(split, 2000 if size is None else size, seed, 60 if rows is None else rows, parquet)
        else:
            hub = {"test_split": test_split, "hub_split": hub_split}
            tasks = load_tasks(data, read_task, split, size=size, seed=seed, **hub)
        sandbox = functools.partial(LocalSandbox, packages=True) if parquet else LocalSandbox
        super().__init__(
            tasks=tasks,
            tools=[python_tool(files=files_of, sandbox=sandbox, limits=_PACKAGE_LIMITS if parquet else None)],
            reward=answer_reward(same_answer, call_cost=call_cost),
            system_prompt=_SYSTEM_PROMPT,
            limits=Limits(turns=6, tool_calls=6, completion_tokens=4096),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Compute the answer with the task's code, and give it."""
    answer = say(f"<answer>{task.answer}</answer>")
    code = task.metadata.get("code")
    return [call("python", code=code), answer] if code else [answer]
