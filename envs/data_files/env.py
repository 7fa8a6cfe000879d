"""The `toolrl/DataFiles-v0` environment."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward
from toolrl.sandbox import LocalSandbox, SandboxLimits
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, Split, check_split, same_answer
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
        data: str | None = None,
        size: int = 2000,
        seed: int = 0,
        rows: int = 60,
        parquet: bool = False,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; for a hub data set, the name of its split.
            data: None for generated files and questions; a `.jsonl` or `.parquet` file, or a hub id, whose rows have
                `prompt`, `answer` and `files`, texts by path.
            size: Number of generated tasks.
            seed: Fixes the generated tasks.
            rows: Of each generated file, 10 to 10,000.
            parquet: Ask about Parquet files too. The code can then import what the trainer can (pandas, pyarrow).
            call_cost: Taken off a right answer for each call, down to half.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of its range.
            MissingExtra: pyarrow, which Parquet files take, is not installed.
        """
        check_split(split)
        sandbox = functools.partial(LocalSandbox, packages=True) if parquet else LocalSandbox
        super().__init__(
            tasks=TaskSet.read(data, from_row, split=split) if data else generated(split, size, seed, rows, parquet),
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
