"""Questions about documents, and a tool that searches in them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolrl import Limits, Message, Task, TaskSet, ToolEnv, call, of_split, say
from toolrl.rewards import answer_reward, exact_match
from toolrl.search import BM25Retriever, Retriever, open_corpus
from toolrl.tools import search_tool

# A document is a line with `id`, `title` and `text`. The tool shows nothing else; `facts` are what is asked about.
DOCUMENTS = Path(__file__).parent / "data" / "documents.jsonl"
SYSTEM_PROMPT = "Search for what you need. End with <answer>...</answer>."

QUESTIONS: Mapping[str, str] = {
    "town": "What is the largest town of {title}?",
    "height": "How high is the highest hill of {title}, in metres?",
    "year": "In which year was the lighthouse of {title} built?",
    "export": "What does {title} export?",
}


# Opened once for all episodes. Thousands of documents are better kept in an index: `BM25Retriever.open(DOCUMENTS)`.
def open_documents() -> Retriever:
    """Index the documents in memory."""
    return BM25Retriever(open_corpus(DOCUMENTS))


# Documents are divided before any question is asked: what a model learns by heart from the training tasks is of no use
# in the test.
def make_tasks(split: str, seed: int) -> TaskSet:
    """Ask about each fact of the documents of a split."""
    documents = [json.loads(line) for line in DOCUMENTS.read_text("utf-8").splitlines()]
    tasks = [task for row in of_split(documents, lambda row: row["title"], split) for task in _questions(row)]
    return TaskSet(random.Random(seed).sample(tasks, len(tasks)))


def _questions(row: Mapping[str, Any]) -> Iterator[Task]:
    for kind, answer in row["facts"].items():
        prompt = QUESTIONS[kind].format(title=row["title"])
        yield Task(f"{row['id']}-{kind}", prompt, answer, {"document": row["title"]}, kind=kind, needs_tool=True)


# The solution shows that a task can be solved, and makes demonstrations. It uses the tools as a good model would.
def solve(task: Task) -> Sequence[Message]:
    """Search, then answer."""
    return [call("search", query=task.metadata["document"]), say(f"<answer>{task.answer}</answer>")]


class MyEnv(ToolEnv):
    """Questions about documents with a search tool."""

    def __init__(self, split: str = "train", *, seed: int = 0, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; they share no document.
            seed: Fixes the order of the tasks.
            render_mode: See `ToolEnv`.
        """
        super().__init__(
            tasks=make_tasks(split, seed),
            # `toolrl.tools.open_tool` reads whole documents, where a result shows only their beginning.
            tools=[search_tool(open_documents, k=2, snippet_characters=300)],
            # 1 for the right text between the tags, less a little for each call; 0 for anything else. For answers in
            # words of the model's own, see `toolrl.rewards.qa_reward` and `Judge`.
            reward=answer_reward(exact_match, call_cost=0.05),
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=5, tool_calls=5, completion_tokens=2048),
            oracle=solve,
            render_mode=render_mode,
        )
