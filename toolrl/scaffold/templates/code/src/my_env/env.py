"""Number problems, and Python in a sandbox to solve them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, numbers_equal
from toolrl.tools import python_tool

SYSTEM_PROMPT = "Use Python to compute. End with <answer>...</answer>."

# A problem: its question, and the program that computes the answer.
Problem = tuple[str, str]


def digit_sum(rng: random.Random) -> Problem:
    """A question about the digits of a large number."""
    base, exponent = rng.randrange(3, 100), rng.randrange(20, 60)
    question = f"What is the sum of the digits of {base} to the power of {exponent}?"
    return question, f"sum(int(digit) for digit in str({base}**{exponent}))"


def multiples(rng: random.Random) -> Problem:
    """A question about the numbers in a range."""
    first, divisor = rng.randrange(100, 1000), rng.randrange(7, 30)
    last = first + rng.randrange(200, 900)
    question = f"How many numbers from {first} to {last} are multiples of {divisor} and do not contain the digit 7?"
    return question, f"sum(n % {divisor} == 0 and '7' not in str(n) for n in range({first}, {last} + 1))"


def remainder(rng: random.Random) -> Problem:
    """A question about a power that is too large to write down."""
    base, exponent, divisor = rng.randrange(11, 100), rng.randrange(100, 1000), rng.randrange(101, 1000)
    return f"What remains of {base} to the power of {exponent} after division by {divisor}?", (
        f"pow({base}, {exponent}, {divisor})"
    )


# Reports are broken down by the kind of a task.
KINDS: Mapping[str, Callable[[random.Random], Problem]] = {
    "digit_sum": digit_sum,
    "multiples": multiples,
    "remainder": remainder,
}


# A task is a prompt and the right answer. Draw everything from `rng`, so that the same seed gives the same tasks.
def make_task(rng: random.Random, index: int) -> Task:
    """Make a problem of one of the kinds."""
    kind = rng.choice(list(KINDS))
    question, code = KINDS[kind](rng)
    # This program is the author's own: what a model writes only ever runs in the sandbox.
    answer = eval(code)
    return Task(f"{kind}-{index}", question, answer, {"code": code}, kind=kind, needs_tool=True)


# The solution shows that a task can be solved, and makes demonstrations. It uses the tools as a good model would.
def solve(task: Task) -> Sequence[Message]:
    """Compute the answer, then give it."""
    return [call("python", code=task.metadata["code"]), say(f"<answer>{task.answer}</answer>")]


class MyEnv(ToolEnv):
    """Number problems with a python tool."""

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
            # `files=` puts data into the sandbox; a sandbox with `packages=True` has NumPy and the like.
            tools=[python_tool()],
            # 1 for the right number between the tags, less a little for each call; 0 for anything else. To grade
            # programs instead of numbers, see `toolrl.rewards.code_reward`.
            reward=answer_reward(numbers_equal, call_cost=0.05),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=5, tool_calls=5, completion_tokens=2048),
            oracle=solve,
            render_mode=render_mode,
        )
