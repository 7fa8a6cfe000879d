"""`from_openenv`: the environment."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError, InfrastructureError, MissingExtra, ToolDefinitionError, ToolError
from toolrl.interop.openenv.connection import Connection, Server
from toolrl.interop.openenv.tasks import as_text, prompt_of, tasks_of
from toolrl.rewards.grader import Reward
from toolrl.tools.definition import Tool
from toolrl.tools.json_arguments import json_arguments
from toolrl.tools.resources import Resource, per_episode
from toolrl.tools.signatures import check_name
from toolrl.types import Ended, Episode, Limits, Score, Task

STATE_NAME = "openenv"
WORDS = ("answer", "say")  # tools that take what the model says
_MISTAKES = ("invalid_args", "tool_not_found", "execution_error", "timeout")
_TURNS, _COMPLETION_TOKENS = 32, 8192


def from_openenv(
    url: str,
    *,
    tasks: int | None = None,
    reset: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    only: Collection[str] | None = None,
    tool: str = "act",
    words: str = "",
    describe: Callable[[Mapping[str, Any]], str] | None = None,
    instructions: str | None = None,
    reward: Reward | None = None,
    limits: Limits | None = None,
    timeout_seconds: float = 60.0,
    max_output_characters: int = 4000,
    split: str | None = None,
    **settings: Any,
) -> ToolEnv:
    """Make an environment of what an OpenEnv server serves.

    Args:
        url: The server's address, as its own clients take it.
        tasks: The most tasks. They are the server's own where it lists them, by default all; else seeds for its
            `reset`, by default 100.
        reset: Further arguments of `reset`.
        headers: HTTP headers; `${NAME}` stands for a variable of this process.
        only: The names of the tools to take; by default all.
        tool: Name of the one tool of a server that lists none.
        words: Field of that tool's action that takes what the model says without a call, such as "answer": what is
            said then plays, and is audited. If the action has no other field, there is no tool.
        describe: Writes an observation as text; by default its one text, or all that it holds.
        instructions: The system prompt; by default the one that the server sends, if it does.
        reward: See `ToolEnv`; by default the sum of the server's rewards. An episode without any has no score.
        limits: By default 32 turns. Awards are not bounded.
        timeout_seconds: How long the server may take to answer.
        max_output_characters: Longer observations are cut in the middle.
        split: "train" or "test": the server's own split, else about a fifth is held out.
        settings: Further settings of `ToolEnv`.

    Raises:
        ConfigError: The server refuses us, lists no such tool, has no such field, or begins alike no two episodes of a
            seed.
        TaskError: There are no tasks.
        ToolDefinitionError: A tool of the server's cannot be shown to a model.
        InfrastructureError: The server is unreachable, or does not speak the protocol.
        MissingExtra: The package websockets is not installed.
    """
    if importlib.util.find_spec("websockets") is None:
        raise MissingExtra("websockets", "serve")
    if urlsplit(url).scheme not in ("http", "https", "ws", "wss"):
        raise ConfigError(f"an OpenEnv server has an address such as http://host:8000, got {url!r}")
    http = url.replace("ws", "http", 1) if url.startswith("ws") else url
    server = Server(http, dict(headers or {}), timeout_seconds)
    shown = describe or as_text
    offered = _tools_of(server)
    spoken = next((one["name"] for one in offered if _takes_words(one)), "")
    served, system = tasks_of(server, dict(reset or {}), tasks, split, shown)

    def opened(task: Task) -> Connection:
        connection = Connection(server, task.metadata["reset"])
        prompt = prompt_of(connection.first.observation, shown)
        if prompt != task.prompt:
            connection.close()
            raise ConfigError(
                f"the server at {url} begins task {task.id!r} with {prompt!r:.80} this time, and with "
                f"{task.prompt!r:.80} before: its reset must depend on nothing but its arguments, since the episodes "
                "of a group share their prompt"
            )
        return connection

    resource: Any = per_episode(opened)
    wanted = [one for one in offered if one["name"] != spoken and (only is None or one["name"] in only)]
    if missing := set(only or ()) - {one["name"] for one in wanted}:
        raise ConfigError(f"only={sorted(missing)}: the server has the tools {[one['name'] for one in offered]}")
    make = partial(_tool, resource=resource, shown=shown, seconds=timeout_seconds, most=max_output_characters)
    about, action = ("", {}) if offered else _action_of(server)
    fields = list(action.get("properties", ()))
    if words and words not in fields:
        raise ConfigError(f"words={words!r}: the server's actions have the fields {fields}")
    if offered:
        tools = [make(one["name"], one["description"], one["schema"], one["name"]) for one in wanted]
    else:
        tools = [make(tool, about, action, "")] * (fields != [words])

    def hear(message: str, openenv: Connection = resource) -> str | Ended:
        called = {"type": "call_tool", "tool_name": spoken, "arguments": {"text": message}}
        try:
            observed = openenv.act({words: message} if words else called)
        except ToolError as error:  # unlike a call, words cannot fail: they are answered
            return f"error: {error}"
        text = shown(observed.observation)
        return Ended(text, "done", message) if observed.done else text

    return ToolEnv(
        tasks=served,
        tools=tools,
        user=hear if words or spoken else None,
        reward=reward or _returns,
        limits=replace(
            limits or Limits(turns=_TURNS, tool_calls=_TURNS, completion_tokens=_COMPLETION_TOKENS), awards=1e9
        ),
        **{"system_prompt": system if instructions is None else instructions, **settings},
    )


def _tools_of(server: Server) -> list[dict[str, Any]]:
    """The tools that a server lists, by MCP; empty if it has none."""
    answer = server.post("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}})
    listed = (answer or {}).get("result") or {}
    return [
        {
            "name": str(one.get("name")),
            "description": str(one.get("description") or ""),
            "schema": one.get("inputSchema") or one.get("input_schema") or {"type": "object", "properties": {}},
        }
        for one in listed.get("tools", ())
    ]


def _takes_words(tool: Mapping[str, Any]) -> bool:
    """Whether a tool is where a turn in words goes."""
    properties = tool["schema"].get("properties", {})
    return tool["name"] in WORDS and list(properties) == ["text"] and properties["text"].get("type") == "string"


def _action_of(server: Server) -> tuple[str, dict[str, Any]]:
    """What an action is, and its fields as a JSON schema, for a server that lists no tools."""
    schema = dict(((server.get("/schema") or {}).get("action")) or {})
    properties = dict(schema.get("properties") or {})
    if not properties:
        raise ConfigError(f"the server at {server.url} lists no tools, and says nothing of its actions at /schema")
    properties.pop("metadata", None)
    about = str(schema.get("description") or (server.get("/metadata") or {}).get("description") or "Act.")
    return about.strip().partition("\n\n")[0], {"type": "object", **schema, "properties": properties}


def _tool(
    name: str, about: str, schema: Mapping[str, Any], called: str,
    *, resource: Any, shown: Callable[[Mapping[str, Any]], str], seconds: float, most: int,
) -> Tool:  # fmt: skip
    def call(arguments: dict[str, Any], openenv: Connection) -> str | Ended:
        action = {"type": "call_tool", "tool_name": called, "arguments": arguments} if called else arguments
        observed = openenv.act(action)
        text = shown(observed.observation)
        _check_error(observed.observation.get("error"), text, observed.done)
        return Ended(text, "done") if observed.done else text

    try:
        check_name(name, "choose others with only=[...]")
        arguments_model = json_arguments(name, dict(schema))
    except ToolDefinitionError as error:
        raise ToolDefinitionError(f"the OpenEnv server: {error}") from None
    resources: dict[str, Resource] = {STATE_NAME: resource}
    return Tool(name, about, call, arguments_model, resources, seconds + 5.0, most)


def _check_error(error: Any, text: str, is_over: bool) -> None:
    """Raise what a tool's result says went wrong; a mistake that ended the episode is its end.

    Raises:
        ToolError: The model's mistake.
        InfrastructureError: Not the model's.
    """
    if not isinstance(error, Mapping):
        return
    kind = error.get("error_type")
    if kind in _MISTAKES:
        if is_over:
            return
        raise ToolError(text, output=text, timed_out=kind == "timeout")
    raise InfrastructureError(f"a tool of the server failed ({kind}): {error.get('message')}")


def _returns(task: Task, episode: Episode) -> Score:
    """The sum of the server's rewards; of a server of toolrl's, its own score."""
    connection: Connection | None = episode.state.get(STATE_NAME)
    if connection is None:  # nothing was ever done
        return Score(0.0, {"correct": 0.0})
    if connection.score is not None:
        value, parts = connection.score.get("value"), connection.score.get("parts")
        return Score(value, dict(parts or {}), reason=str(connection.score.get("reason") or ""))
    if not connection.rewards:
        return Score(None, reason="the server gave no reward")
    return Score(sum(connection.rewards), reason="done" if connection.done else f"not done: {episode.stop}")
