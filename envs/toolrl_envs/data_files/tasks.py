"""Tasks of `data_files`: generated, or read from a file or a hub data set that has the files in a column."""

from __future__ import annotations

import functools
import random
from collections.abc import Mapping
from typing import Any

from toolrl import ConfigError, Task, TaskError, TaskSet
from toolrl_envs.common import Split, check_split, task_id
from toolrl_envs.data_files.problems import KINDS, PACKAGE_KINDS, Problem

MAX_ROWS = 10_000
_DRAWS = 200


def make_tasks(split: Split, size: int, seed: int, rows: int, parquet: bool) -> TaskSet:
    """Draw tasks, cycling through the kinds; no task is in both splits.

    Raises:
        ConfigError: `rows` or `size` is out of range.
        TaskError: Too few distinct tasks exist.
    """
    check_split(split, size)
    if not 10 <= rows <= MAX_ROWS:
        raise ConfigError(f"rows must be from 10 to {MAX_ROWS}, got {rows!r}")
    kinds = [*KINDS, *(PACKAGE_KINDS if parquet else ())]
    prompts: set[str] = set()
    tasks = []
    for index in range(size):
        tasks.append(_draw(kinds[index % len(kinds)], f"{split}/{seed}/{index}", rows, prompts))
        prompts.add(tasks[-1].prompt)
    return TaskSet(tasks)


def _draw(kind: str, name: str, rows: int, taken: set[str]) -> Task:
    for attempt in range(_DRAWS):
        source = f"{name}/{attempt}"
        problem = problem_of(kind, source, rows)
        # Zero is what one would guess.
        if problem.answer != 0 and problem.prompt not in taken:
            metadata = {"source": source, "rows": rows, "code": problem.code}
            id = task_id(kind, problem.prompt)
            return Task(id, problem.prompt, str(problem.answer), metadata, kind=kind, needs_tool=True)
    raise TaskError(f"found no more distinct tasks of kind {kind!r}; lower size=")


@functools.lru_cache(maxsize=64)
def problem_of(kind: str, source: str, rows: int) -> Problem:
    """Rebuild the problem of a generated task."""
    draw = {**KINDS, **PACKAGE_KINDS}[kind]
    return draw(random.Random(f"data_files/{source}"), rows, source.startswith("test/"))


def files_of(task: Task) -> Mapping[str, bytes]:
    """The files of a task by path: read with it, or rebuilt from its problem."""
    if "files" in task.metadata:
        return {path: text.encode() for path, text in task.metadata["files"].items()}
    return problem_of(task.kind, task.metadata["source"], task.metadata["rows"]).files


def read_task(row: dict[str, Any], key: str) -> Task:
    """Read a row with `prompt` (or `question`), `answer` and `files`, an object of texts by path.

    Raises:
        KeyError: A field is missing.
        TaskError: A field has the wrong type.
    """
    files = row["files"]
    if not isinstance(files, dict):
        raise TaskError(f"files must be an object of texts by path, got {files!r:.80}")
    # A hub data set has a column for each path of any row, which is null in the others.
    files = {path: text for path, text in files.items() if text is not None}
    if not all(isinstance(text, str) for text in files.values()):
        raise TaskError("files must be an object of texts by path; a value in it is not a text")
    prompt = row["prompt"] if row.get("prompt") is not None else row["question"]
    if row["answer"] is None:
        raise TaskError("the answer is null")
    metadata = {"files": files}
    if row.get("code"):
        metadata["code"] = row["code"]
    id = key if row.get("id") is None else str(row["id"])
    return Task(id, prompt, str(row["answer"]), metadata, kind="read", needs_tool=True)
