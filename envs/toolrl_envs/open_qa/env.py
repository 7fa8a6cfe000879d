"""The `toolrl/OpenQA-v0` environment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from toolrl import ConfigError, Limits, Message, Task, TaskSet, ToolEnv, call, say
from toolrl.audit import AuditOptions
from toolrl.rewards import Metric, qa_reward
from toolrl.search import BM25Retriever, Retriever
from toolrl.tools import search_tool
from toolrl_envs.common import CALL_COST, SYSTEM_PROMPT, Split, check_unused, opener
from toolrl_envs.open_qa.formats import Question
from toolrl_envs.open_qa.sources import corpus_of, load_questions

RESULTS = 3
SNIPPET_CHARACTERS = 600


class OpenQAEnv(ToolEnv):
    """Open questions from a data set, with a search tool over its passages or another corpus."""

    audit_options = AuditOptions(
        excused={"other-sign": "SQuAD's metric, kept for comparable results, drops punctuation, including minus signs"}
    )

    def __init__(
        self,
        split: Split = "train",
        *,
        data: str | Path | None = None,
        test_split: str = "",
        hub_split: str = "",
        retriever: str | Callable[[], Retriever] = "",
        metric: Metric = "em",
        size: int = 2000,
        seed: int = 0,
        results: int = RESULTS,
        snippet_characters: int = SNIPPET_CHARACTERS,
        call_cost: float = CALL_COST,
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            data: A `.json`, `.jsonl` or `.parquet` file, or the id of a data set on the Hugging Face hub, such as
                "hotpotqa/hotpot_qa:distractor"; None for the small one that comes with the package. "{split}" in a
                file name stands for the split; without it, every fifth question is held out for "test".
            test_split: The name of the test split on the hub; "validation" by default.
            hub_split: The only split of a data set on the hub, which is then divided like a file.
            retriever: What to search: a name (see `toolrl.search.open_retriever`), or a function that opens a
                retriever, called once per run; by default BM25 over the passages of the questions.
            metric: "em" or "f1"; see `toolrl.rewards.qa_reward`.
            size: Maximum number of tasks.
            seed: Fixes which tasks are drawn, and their order.
            results: Number of documents that a search shows.
            snippet_characters: Number of characters shown of each.
            call_cost: Deducted from an exact answer for each call.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is wrong, the data set cannot be loaded, or it has no passages and `retriever`
                is not given.
            TaskError: The file is missing or broken; names the line and the field.
        """
        check_unused(data, test_split=test_split, hub_split=hub_split)
        reward = qa_reward(metric, call_cost=call_cost)
        questions = load_questions(data, split, size, seed, test_split=test_split, hub_split=hub_split)
        if isinstance(retriever, str):
            retriever = opener(retriever) if retriever else _open_passages(questions, data)
        super().__init__(
            tasks=TaskSet(map(_task, questions)),
            tools=[search_tool(retriever, k=results, snippet_characters=snippet_characters)],
            reward=reward,
            system_prompt=SYSTEM_PROMPT,
            limits=Limits(turns=8, tool_calls=6, completion_tokens=6000),
            oracle=solve,
            render_mode=render_mode,
        )


def solve(task: Task) -> Sequence[Message]:
    """Search for each supporting page by title, or for the question if none is marked; then answer."""
    answer = task.answer if isinstance(task.answer, str) else task.answer[0]
    return [*(call("search", query=query) for query in task.metadata["queries"]), say(f"<answer>{answer}</answer>")]


def _open_passages(questions: list[Question], data: str | Path | None) -> Callable[[], Retriever]:
    documents = corpus_of(questions)
    if not documents:
        raise ConfigError(
            f"the questions of data={str(data)!r} come without passages to search; set retriever=, such as "
            "'bm25:passages.jsonl'"
        )
    return functools.partial(BM25Retriever, documents)


def _task(question: Question) -> Task:
    """Make a task; its answer is a text, or a list of texts if several are right."""
    queries = _with_the_answer_last(question) or [question.prompt]
    metadata: dict[str, Any] = {"hops": len(question.supporting), "queries": queries}
    if question.supporting:
        metadata["subject"] = queries[0]
    answer = question.answers[0] if len(question.answers) == 1 else list(question.answers)
    return Task(question.id, question.prompt, answer, metadata, kind=question.kind, needs_tool=True)


def _with_the_answer_last(question: Question) -> list[str]:
    """The supporting titles in order, except that the page with the answer comes last."""
    titles = list(question.supporting)
    for passage in question.passages:
        if passage.title in titles and question.answers[0].lower() in passage.text.lower():
            titles.remove(passage.title)
            return [*titles, passage.title]
    return titles
