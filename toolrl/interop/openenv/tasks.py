"""The tasks of an OpenEnv server: those that it lists, or seeds for its `reset`; and observations as text."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from toolrl.errors import ConfigError, TaskError
from toolrl.interop.openenv.connection import Connection, Server
from toolrl.tasks import of_split
from toolrl.types import Task

_SEEDS = 100  # where a server lists no tasks


def as_text(observation: Mapping[str, Any]) -> str:
    """An observation as text: a tool's result, its one text, or all that it holds."""
    error = observation.get("error")
    if isinstance(error, Mapping) and error.get("message"):
        return str(error["message"])
    held = {
        name: value
        for name, value in observation.items()
        if name not in ("metadata", "tool_name", "done", "reward") and value not in (None, "", [], {})
    }
    if set(held) == {"result"}:
        return _plain(held["result"])
    texts = [value for value in held.values() if isinstance(value, str)]
    if len(held) == 1 and texts:
        return texts[0]
    return "\n".join(f"{name}: {_plain(value)}" for name, value in held.items())


def _plain(value: Any) -> str:
    """A value as text: of a result in MCP's form its texts."""
    if isinstance(value, Mapping) and isinstance(blocks := value.get("content"), list):
        texts = [block.get("text") for block in blocks if isinstance(block, Mapping) and block.get("type") == "text"]
        if texts and all(isinstance(text, str) for text in texts):
            return "\n".join(filter(None, texts))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def prompt_of(observation: Mapping[str, Any], shown: Callable[[Mapping[str, Any]], str]) -> str:
    """The task as `reset` tells it."""
    prompt = observation.get("prompt")
    return prompt if isinstance(prompt, str) and prompt else shown(observation)


def _system_of(observation: Mapping[str, Any]) -> str:
    messages = observation.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else {}
    is_system = isinstance(first, Mapping) and first.get("role") == "system"
    return str(first.get("content") or "") if is_system else ""


def tasks_of(
    server: Server,
    reset: dict[str, Any],
    most: int | None,
    split: str | None,
    shown: Callable[[Mapping[str, Any]], str],
) -> tuple[list[Task], str]:
    """The server's tasks, or seeds; and the system prompt that it sends."""
    listed = _listed_tasks(server, most, split or "train")
    if listed is not None:
        arguments = [{**reset, "split": split or "train", "index": index} for index in range(len(listed))]
    else:
        arguments = [{**reset, "seed": seed} for seed in range(most or _SEEDS)]
    found, system = [], ""
    for index, given in enumerate(arguments):
        about = listed[index] if listed is not None else {}
        prompt = about.get("prompt")
        if index == 0 or not isinstance(prompt, str):
            connection = Connection(server, given)
            connection.close()
            prompt = prompt_of(connection.first.observation, shown)
            system = system or _system_of(connection.first.observation)
        if not prompt.strip():
            raise ConfigError(
                f"reset of the server at {server.url} says nothing: {connection.first.observation!r:.200}; "
                "pass describe=, which writes the task from what it returns"
            )
        id = str(about.get("id") or about.get("task_id") or f"{split or 'seed'}-{index}")
        found.append(Task(id, prompt, metadata={"reset": given}))
        if listed is None and index == 0:
            _check_repeats(server, given, prompt, shown)
    if not found:
        raise TaskError(f"the server at {server.url} has no tasks of the split {split or 'train'!r}")
    if listed is None and split is not None:
        alike = len({task.prompt for task in found}) == 1
        found = list(of_split(found, lambda task: task.id if alike else task.prompt, split))
    return found, system


def _check_repeats(
    server: Server, given: Mapping[str, Any], prompt: str, shown: Callable[[Mapping[str, Any]], str]
) -> None:
    again = Connection(server, given)
    again.close()
    if (other := prompt_of(again.first.observation, shown)) != prompt:
        raise ConfigError(
            f"the server at {server.url} ignores the seed: reset({given}) began with {prompt!r:.80}, then with "
            f"{other!r:.80}. The episodes of a group must begin alike; pass reset= with arguments that fix its choices"
        )


def _listed_tasks(server: Server, most: int | None, split: str) -> list[dict[str, Any]] | None:
    """The first tasks of a split; None if the server lists none."""
    for name in server.get("/list_environments") or ():
        splits = server.get(f"/{name}/splits")
        if not splits:
            continue
        if split not in [one.get("name") for one in splits]:
            raise TaskError(f"the server at {server.url} has the splits {splits!r:.200}, not {split!r}")
        total = int((server.post(f"/{name}/num_tasks", {"split": split}) or {}).get("num_tasks", 0))
        wanted = {"split": split, "start": 0, "stop": total if most is None else min(most, total)}
        tasks = (server.post(f"/{name}/task_range", wanted) or {}).get("tasks") or []
        return [task if isinstance(task, dict) else {} for task in tasks]
    return None
