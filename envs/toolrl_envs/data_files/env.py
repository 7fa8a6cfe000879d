"""The `toolrl/DataFiles-v0` environment."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, ToolEnv, call, say
from toolrl.rewards import answer_reward
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, Split, check_unused, read_tasks, same_answer
from toolrl_envs.data_files.tasks import files_of, from_row, generated

_SYSTEM_PROMPT = "The files are in python's working directory. End with <answer>...</answer>."
# pyarrow alone takes more address space than the standard library needs for everything.
_PACKAGE_LIMITS = SandboxLimits(seconds=20.0, memory_mb=4096)


class DataFilesEnv(ToolEnv):
    """Questions about CSV and JSON files, and Parquet if asked for, with a python tool that has them."""

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
            data: None for generated files and questions; a `.jsonl` or `.parquet` file, or a hub id, whose rows have
                `prompt`, `answer` and `files`, texts by path. "{split}" in a file's name stands for the split;
                without it every fifth question is held out for "test".
            test_split: What "test" is called on the hub, if otherwise.
            hub_split: The only split of a set on the hub, which is divided as a file is.
            size: So many generated tasks, 2000 by default; or at most so many of those read.
            seed: Fixes the generated tasks, or the choice and order of those read.
            rows: Of each generated file, 10 to 10,000; 60 by default.
            parquet: Ask about Parquet files too. The code can then import what the trainer can (pandas, pyarrow).
            call_cost: Taken off a right answer for each call, down to half.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of its range, does nothing beside `data`, or the data cannot be loaded.
            TaskError: The file is missing or broken; names the line.
            MissingExtra: pyarrow, which Parquet files take, is not installed.
        """
        check_unused(data, test_split=test_split, hub_split=hub_split, rows=rows)
        if data is None:
            tasks = generated(split, 2000 if size is None else size, seed, 60 if rows is None else rows, parquet)
        else:
            hub = {"test_split": test_split, "hub_split": hub_split}
            tasks = read_tasks(data, from_row, split, size=size, seed=seed, **hub)
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
    """Compute it, and answer."""
    answer = say(f"<answer>{task.answer}</answer>")
    code = task.metadata.get("code")
    return [call("python", code=code), answer] if code else [answer]
