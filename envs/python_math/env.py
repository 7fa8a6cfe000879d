"""The `toolrl/PythonMath-v0` environment."""

from __future__ import annotations

from collections.abc import Sequence

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, math_reward, numbers_equal
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, SYSTEM_PROMPT, Split, check_split
from toolrl_envs.python_math.tasks import from_row, generated


class PythonMathEnv(ToolEnv):
    """Arithmetic and number problems with a python tool; a share of them needs no tool."""

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | None = None,
        size: int = 2000,
        seed: int = 0,
        easy_share: float = 0.4,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; for a hub data set, the name of its split.
            data: None for generated problems; a `.jsonl` or `.parquet` file; or a hub id such as
                "openai/gsm8k" (with `:main` behind it for a configuration).
            size: Number of generated problems; there are fewer if the easy ones are used up.
            seed: Fixes the generated problems.
            easy_share: Share of generated problems that need no tool.
            call_cost: Taken off a right answer for each call.
            render_mode: See `ToolEnv`.

        Raises:
            MissingExtra: `data` is given and math-verify, which grades it, is not installed.
        """
        check_split(split)
        super().__init__(
            tasks=TaskSet.read(data, from_row, split=split) if data else generated(split, size, seed, easy_share),
            tools=[python_tool()],
            reward=math_reward(call_cost=call_cost) if data else answer_reward(numbers_equal, call_cost=call_cost),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=4, tool_calls=4, completion_tokens=384 if data is None else 4096),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Compute what needs computing, and answer."""
    answer = say(f"<answer>{task.answer}</answer>")
    code = task.metadata.get("code")
    return [call("python", code=code), answer] if code and task.metadata["needs_tool"] else [answer]
