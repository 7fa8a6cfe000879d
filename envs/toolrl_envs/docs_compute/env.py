"""The `toolrl/DocsCompute-v0` environment."""

from __future__ import annotations

import random
from collections.abc import Sequence

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, numbers_equal
from toolrl.tools import python_tool, search_tool
from toolrl_envs.common import CALL_COST, PYTHON_DOCS, SYSTEM_PROMPT, Split, check_split, opener, task_id
from toolrl_envs.docs_search import facts as documentation

OPERATIONS = {"times": "*", "plus": "+", "minus": "-"}

WORDINGS: dict[documentation.FactKind, tuple[str, ...]] = {
    "constant": ("What is {subject} {operation} {number}?", "Compute {subject} {operation} {number}."),
    "default": (
        "What is the default of {detail} in {subject} {operation} {number}?",
        "Compute the default of {detail} in {subject} {operation} {number}.",
    ),
}


class DocsComputeEnv(ToolEnv):
    """Find a number in the standard library's documentation, then compute with it."""

    def __init__(
        self,
        split: Split = "train",
        *,
        size: int = 2000,
        seed: int = 0,
        call_cost: float = CALL_COST,
        retriever: str = PYTHON_DOCS,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; the splits are about different objects.
            size: Maximum number of tasks.
            seed: Fixes which tasks are drawn, and their order.
            call_cost: Deducted from a right answer for each call.
            retriever: Name of the retriever, as for `toolrl.search.open_retriever`; may be a server.
            render_mode: See `ToolEnv`.
        """
        check_split(split, size)
        search = search_tool(
            opener(retriever), k=documentation.RESULTS, snippet_characters=documentation.SNIPPET_CHARACTERS
        )
        super().__init__(
            tasks=make_tasks(split, size, seed),
            tools=[python_tool(), search],
            reward=answer_reward(numbers_equal, call_cost=call_cost),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=5, tool_calls=5, completion_tokens=640),
            oracle=solve,
            render_mode=render_mode,
        )


def make_tasks(split: Split, size: int, seed: int) -> TaskSet:
    """Draw a fact and an operation with a number of four or five digits, so that guessing does not pay."""
    rng = random.Random(f"{split}/{seed}")
    pools = {
        "constant": documentation.facts("constant", split),
        "default": tuple(fact for fact in documentation.facts("default", split) if fact.value.isdigit()),
    }
    tasks: dict[str, Task] = {}
    for _ in range(20 * size):
        if len(tasks) == size:
            break
        kind: documentation.FactKind = "default" if pools["default"] and rng.random() < 0.2 else "constant"
        fact = rng.choice(pools[kind])
        word = rng.choice(list(OPERATIONS))
        number = rng.randint(1000, 99_999)
        task = _task(fact, rng.choice(WORDINGS[kind]), word, number)
        tasks[task.id] = task
    return TaskSet(tasks.values())


def solve(task: Task) -> Sequence[Message]:
    """Search, compute, answer."""
    return [
        call("search", query=task.metadata["query"]),
        call("python", code=task.metadata["code"]),
        say(f"<answer>{task.answer}</answer>"),
    ]


def _task(fact: documentation.Fact, wording: str, word: str, number: int) -> Task:
    prompt = wording.format(subject=fact.subject, detail=fact.detail, operation=word, number=number)
    code = f"{fact.value}{OPERATIONS[word]}{number}"
    answer = {"times": int.__mul__, "plus": int.__add__, "minus": int.__sub__}[word](int(fact.value), number)
    metadata = {"query": fact.query, "code": code, "subject": fact.subject}
    return Task(task_id(fact.kind, prompt), prompt, str(answer), metadata, kind=fact.kind, needs_tool=True)
