"""The `toolrl/Database-v0` environment."""

from __future__ import annotations

from collections.abc import Sequence

from toolrl import Limits, Message, Task, ToolEnv, call, say
from toolrl.rewards import StoreState, state_reward
from toolrl_envs.common import CALL_COST, Split, same_answer
from toolrl_envs.database.company import changed, company
from toolrl_envs.database.tasks import make_tasks
from toolrl_envs.database.tools import TOOLS, open_for

_SYSTEM_PROMPT = (
    "You work with a company's database, through tools. Do what is asked and change nothing else. Rules: only paid "
    "orders can be shipped; only placed or paid orders can be cancelled; a customer on hold gets no new order; no "
    "warehouse gives more than it has. Where a rule forbids what is asked, change nothing at all. "
    "End with <answer>...</answer>."
)


class DatabaseEnv(ToolEnv):
    """A small company's SQLite database behind typed tools, graded by its final state and the answer."""

    def __init__(
        self,
        split: Split = "train",
        *,
        difficulty: int = 4,
        kinds: Sequence[str] = (),
        size: int = 2000,
        seed: int = 0,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; the splits are about different companies and share no task.
            difficulty: Maximum number of calls that a task needs, 1 to 4.
            kinds: Kinds of tasks by name, such as "order_total" and "cancel"; if empty, all that `difficulty` allows.
            size: Number of tasks.
            seed: Fixes the companies and the tasks.
            call_cost: Deducted from a right episode for each call, down to half.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range.
        """
        super().__init__(
            tasks=make_tasks(split, difficulty, size, seed, kinds),
            tools=TOOLS,
            reward=state_reward(goal, open_for, equal=same_answer, call_cost=call_cost),
            system_prompt=_SYSTEM_PROMPT,
            limits=Limits(turns=8, tool_calls=8, completion_tokens=4096),
            oracle=solve,
            render_mode=render_mode,
        )


def goal(task: Task) -> StoreState:
    """The state in which the task should leave the store."""
    return changed(company(task.metadata["company"]), task.metadata["changes"])


def solve(task: Task) -> Sequence[Message]:
    """Make the calls of the task, and answer."""
    calls = [call(name, **arguments) for name, arguments in task.metadata["calls"]]
    return [*calls, say(f"<answer>{task.answer}</answer>")]
