"""The `toolrl/InstructionFollowing-v0` environment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolrl import Limits, Message, Task, ToolEnv, is_file_name, say
from toolrl.rewards.instructions import Mode, count_words, ifeval_task, instructions_of, instructions_reward
from toolrl_envs.common import CALL_COST, Split, check_unused, load_tasks
from toolrl_envs.instruction_following.requests import make_tasks
from toolrl_envs.instruction_following.topics import sentences_about
from toolrl_envs.instruction_following.writer import write

PROMPT = "Follow every instruction in the request. Your final message, as a whole, is the response."


class InstructionFollowingEnv(ToolEnv):
    """Requests with instructions that a program can check. The final message as a whole is the response."""

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | Path | None = None,
        mode: Mode = "strict",
        partial: bool = False,
        kinds: Sequence[str] | None = None,
        size: int = 2000,
        seed: int = 0,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            data: A `.json`, `.jsonl` or `.parquet` file in IFEval's format, or the id of such a data set on the
                Hugging Face hub, such as "google/IFEval"; None generates requests. "{split}" in a file name stands for
                the split; without it, and on the hub, every fifth request is held out for "test".
            mode: "strict" or "loose"; see `toolrl.rewards.instructions_reward`.
            partial: Give partial credit: the share of instructions followed.
            kinds: Ids of the kinds of instructions in generated requests; by default the 20 that need no language
                detector and that few texts follow by chance.
            size: Maximum number of tasks.
            seed: Fixes which tasks are drawn, and their order.
            call_cost: Deducted from a right response for each call.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is wrong, or the split is empty.
            TaskError: The file is missing or broken; names the line.
            MissingExtra: An instruction is about the language, and langdetect is not installed.
        """
        check_unused(data, kinds=kinds)
        if data is None:
            tasks = make_tasks(split, size, seed, kinds)
        else:
            hub_split = "" if is_file_name(data) else "train"  # IFEval has no other
            tasks = load_tasks(data, ifeval_task, split, size=size, seed=seed, hub_split=hub_split)
        super().__init__(
            tasks=tasks,
            tools=[word_count],
            reward=instructions_reward(mode, partial=partial, call_cost=call_cost),
            system_prompt=PROMPT,
            limits=Limits(turns=4, tool_calls=3, completion_tokens=2048, turn_tokens=1536),
            oracle=solve,
            render_mode=render_mode,
        )


def word_count(text: str) -> int:
    """Count the words of a text, as the instructions about numbers of words do.

    Args:
        text: The text.
    """
    return count_words(text)


def solve(task: Task) -> Sequence[Message]:
    """Write a text that follows the instructions, about the topic of a generated request. No call is needed."""
    return [say(write(instructions_of(task), sentences_about(task.metadata.get("subject"))))]
