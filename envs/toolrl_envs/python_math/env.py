"""The `toolrl/PythonMath-v0` environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, math_reward, numbers_equal
from toolrl.tools import python_tool
from toolrl_envs.common import CALL_COST, SYSTEM_PROMPT, Split, check_paraphrased, check_unused, load_tasks
from toolrl_envs.python_math.tasks import make_tasks, read_task

PARAPHRASES = Path(__file__).parent / "paraphrases.jsonl"


class PythonMathEnv(ToolEnv):
    """Arithmetic and number problems with a python tool, some of which need no tool."""

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | Path | None = None,
        test_split: str = "",
        hub_split: str = "",
        size: int | None = None,
        seed: int = 0,
        easy_share: float | None = None,
        paraphrased: bool = False,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            data: None for generated problems; a `.jsonl` or `.parquet` file, of which every fifth problem is held out
                for "test" unless "{split}" in its name stands for the split; or a hub id, with its configuration if it
                has several, such as "openai/gsm8k:main".
            test_split: The name of the test split on the hub, if not "test".
            hub_split: The only split of a data set on the hub, which is then divided like a file.
            size: Maximum number of problems: by default 2000 generated ones (fewer if there are not enough easy
                ones), or all of the data.
            seed: Fixes the generated problems; or which problems read are drawn, and their order.
            easy_share: Share of generated problems that need no tool; 0.4 by default.
            paraphrased: Fifty held-out problems, in words that the generator does not have, instead of its own.
            call_cost: Deducted from a right answer for each call.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is wrong or has no effect with `data`, or the data cannot be loaded.
            TaskError: The file is missing or broken; names the line.
            MissingExtra: `data` is set, and math-verify, which grades it, is not installed.
        """
        check_unused(data, test_split=test_split, hub_split=hub_split, easy_share=easy_share)
        reward = answer_reward(numbers_equal, call_cost=call_cost)
        if paraphrased:
            check_paraphrased(split, data=data, size=size, easy_share=easy_share)
            tasks = TaskSet.read(PARAPHRASES)
        elif data is None:
            tasks = make_tasks(split, 2000 if size is None else size, seed, 0.4 if easy_share is None else easy_share)
        else:
            hub = {"test_split": test_split, "hub_split": hub_split}
            reward = math_reward(call_cost=call_cost)
            tasks = load_tasks(data, read_task, split, size=size, seed=seed, **hub)
        super().__init__(
            tasks=tasks,
            tools=[python_tool()],
            reward=reward,
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=4, tool_calls=4, completion_tokens=384 if data is None else 4096),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Compute the answer where a tool is needed, and give it."""
    answer = say(f"<answer>{task.answer}</answer>")
    code = task.metadata.get("code")
    return [call("python", code=code), answer] if code and task.needs_tool else [answer]
