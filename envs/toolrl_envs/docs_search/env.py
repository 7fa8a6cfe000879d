"""The `toolrl/DocsSearch-v0` environment."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.rewards import answer_reward, exact_match
from toolrl.tools import search_tool
from toolrl_envs.common import (
    CALL_COST,
    PYTHON_DOCS,
    SYSTEM_PROMPT,
    Split,
    check_paraphrased,
    check_split,
    opener,
    task_id,
)
from toolrl_envs.docs_search.facts import RESULTS, SNIPPET_CHARACTERS, Fact, FactKind, facts

PARAPHRASES = Path(__file__).parent / "paraphrases.jsonl"
WORDINGS: dict[FactKind, tuple[str, ...]] = {
    "module": ("Which module defines {subject}?", "In which module is {subject}?"),
    "parameter": ("What is the first parameter of {subject}?", "Name the first parameter of {subject}."),
    "default": ("What is the default of {detail} in {subject}?", "Which default has {detail} in {subject}?"),
    "returns": ("What does {subject} return?", "Which value does {subject} return?"),
    "constant": ("What is the value of {subject}?", "Which value has {subject}?"),
}


class DocsSearchEnv(ToolEnv):
    """Questions about the standard library, with a search tool over its documentation."""

    def __init__(
        self,
        split: Split = "train",
        *,
        size: int | None = None,
        seed: int = 0,
        paraphrased: bool = False,
        call_cost: float = CALL_COST,
        retriever: str = PYTHON_DOCS,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test"; the splits are about different objects.
            size: Maximum number of tasks; 2000 by default.
            seed: Fixes which tasks are drawn, and their order.
            paraphrased: Up to fifty held-out questions, in words that the generator does not have, instead of its own.
            call_cost: Deducted from a right answer for each call.
            retriever: Name of the retriever, as for `toolrl.search.open_retriever`; may be a server.
            render_mode: See `ToolEnv`.
        """
        check_split(split, size)
        if paraphrased:
            check_paraphrased(split, size=size)
            tasks = paraphrases()
        else:
            tasks = make_tasks(split, 2000 if size is None else size, seed)
        super().__init__(
            tasks=tasks,
            tools=[search_tool(opener(retriever), k=RESULTS, snippet_characters=SNIPPET_CHARACTERS)],
            reward=answer_reward(same_text, call_cost=call_cost),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=4, tool_calls=4, completion_tokens=640),
            oracle=solve,
            render_mode=render_mode,
        )


def make_tasks(split: Split, size: int, seed: int) -> TaskSet:
    """Draw questions, cycling through the kinds, until `size` is reached or no facts are left."""
    rng = random.Random(f"{split}/{seed}")
    pools = {kind: rng.sample(facts(kind, split), len(facts(kind, split))) for kind in WORDINGS}
    tasks: list[Task] = []
    while len(tasks) < size and any(pools.values()):
        for kind, pool in pools.items():
            if pool and len(tasks) < size:
                tasks.append(_task(pool.pop(), rng.choice(WORDINGS[kind])))
    rng.shuffle(tasks)
    return TaskSet(tasks)


def paraphrases() -> TaskSet:
    """Those of the fifty questions that are about this version of Python."""
    known = {(fact.subject, fact.value) for kind in WORDINGS for fact in facts(kind, "test")}
    return TaskSet([task for task in TaskSet.read(PARAPHRASES) if (task.metadata["subject"], task.answer) in known])


def solve(task: Task) -> Sequence[Message]:
    """Search, then answer."""
    return [call("search", query=task.metadata["query"]), say(f"<answer>{task.answer}</answer>")]


def same_text(answer: str, expected: Any) -> bool:
    """Whether both are equal, ignoring case, white space, quotes and a leading article."""
    return exact_match(_without_article(answer), _without_article(str(expected)))


def _without_article(text: str) -> str:
    first, _, rest = text.strip().partition(" ")
    return rest if rest and first.lower() in ("the", "a", "an") else text


def _task(fact: Fact, wording: str) -> Task:
    prompt = wording.format(subject=fact.subject, detail=fact.detail)
    metadata = {"query": fact.query, "subject": fact.subject}
    id = task_id(fact.kind, f"{fact.kind}/{fact.subject}/{fact.detail}")
    return Task(id, prompt, fact.value, metadata, kind=fact.kind, needs_tool=True)
