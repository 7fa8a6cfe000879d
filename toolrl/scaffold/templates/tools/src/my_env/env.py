"""A shop whose prices have to be looked up."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, ToolError, call, per_episode, say
from toolrl.rewards import answer_reward, numbers_equal

ITEMS = ("apple", "banana", "carrot", "lemon", "lime", "melon", "onion", "orange", "pear", "pepper", "plum", "turnip")
SYSTEM_PROMPT = "Look prices up. End with <answer>...</answer>."


# What a tool needs besides its arguments is opened for each episode. The model never sees a task's metadata: here each
# task has prices of its own, so that they cannot be learnt by heart.
def price_list(task: Task) -> Mapping[str, int]:
    """The prices of a task."""
    return dict(task.metadata["prices"])


# A tool is a function. The model is shown its name, its docstring and its arguments. Mistakes of the model raise
# ToolError, whose text it can learn from; any other exception is a bug and stops the run.
def price(item: str, prices: Mapping[str, int] = per_episode(price_list)) -> int:
    """Look up what an item costs, in cents.

    Args:
        item: Its name, in the singular.
    """
    if item not in prices:
        raise ToolError(f"no item is called {item!r}")
    return prices[item]


# A task is a prompt and the right answer. Draw everything from `rng`, so that the same seed gives the same tasks.
def make_task(rng: random.Random, index: int) -> Task:
    """Make a shopping question about one to three items."""
    prices = {item: rng.randrange(5, 100) for item in ITEMS}
    basket = {item: rng.randrange(2, 10) for item in rng.sample(ITEMS, rng.randint(1, 3))}
    listed = " and ".join(f"{count} {item}s" for item, count in basket.items())
    total = sum(count * prices[item] for item, count in basket.items())
    metadata = {"prices": prices, "basket": list(basket)}
    prompt = f"What do {listed} cost, in cents?"
    return Task(f"basket-{index}", prompt, total, metadata, kind=f"{len(basket)}_items", needs_tool=True)


# The solution shows that a task can be solved, and makes demonstrations. It uses the tools as a good model would.
def solve(task: Task) -> Sequence[Message]:
    """Look each price up, then answer."""
    return [*(call("price", item=item) for item in task.metadata["basket"]), say(f"<answer>{task.answer}</answer>")]


class MyEnv(ToolEnv):
    """Shopping questions with a tool for prices."""

    def __init__(self, split: str = "train", *, size: int = 1000, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; about a fifth of the prompts is held out.
            size: Number of tasks of both splits together.
            seed: Fixes the tasks.
            render_mode: See `ToolEnv`.
        """
        super().__init__(
            tasks=TaskSet.generate(make_task, size, seed).of_split(split),
            tools=[price],
            # 1 for the right number between the tags, less a little for each call; 0 for anything else.
            reward=answer_reward(numbers_equal, call_cost=0.05),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=6, tool_calls=6, completion_tokens=1024),
            oracle=solve,
            render_mode=render_mode,
        )
