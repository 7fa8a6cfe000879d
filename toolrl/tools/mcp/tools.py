"""`mcp_tools`: the tools of an MCP server as tools of an environment."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from toolrl.errors import ConfigError, MissingExtra, ToolDefinitionError
from toolrl.support.event_loop import run_sync
from toolrl.support.secret_values import expand
from toolrl.support.waiting import in_thread
from toolrl.tools.definition import Tool
from toolrl.tools.resources import per_episode, per_run
from toolrl.tools.results import as_text
from toolrl.tools.signatures import check_name
from toolrl.types import Task

if TYPE_CHECKING:
    from mcp.types import Tool as ServerTool

    from toolrl.tools.mcp.connection import McpConnection

MAX_TOOLS = 128  # as chat APIs allow
MAX_DESCRIPTION_CHARACTERS = 10_000


def mcp_tools(
    *,
    command: Sequence[str] = (),
    url: str = "",
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    headers: Mapping[str, str] | None = None,
    name: str = "",
    only: Collection[str] | None = None,
    prefix: str = "",
    lifetime: Literal["episode", "run"] = "episode",
    prepare: Callable[[McpConnection, Task], object] | None = None,
    timeout_seconds: float = 30.0,
    max_output_characters: int = 4000,
) -> list[Tool]:
    """Take over the tools of an MCP server, with their names, descriptions and schemas.

    The server is asked for its tools now, once. If it later describes one of them differently, that is an
    infrastructure fault: the model was told something else.

    What a tool reports as its error, arguments that it refuses, and a call that takes too long are observations. A
    server that cannot be reached, ends, does not answer, or violates the protocol is an infrastructure fault; the next
    attempt at the episode gets a new one.

    Args:
        command: Program and arguments of a server that talks over stdin and stdout. It ends with its connection, and
            everything it started with it, also if this process is killed.
        url: Address of a server that talks streamable HTTP, instead of a command.
        env: Environment variables of the command. Besides these it gets HOME, LOGNAME, PATH, SHELL, TERM and USER, and
            nothing else of this process's. `${NAME}` stands for a variable of this process. In these, in `command` and
            in `cwd`, `{folder}` stands for an empty folder of the connection's own.
        cwd: Working directory of the command; by default that of this process.
        headers: HTTP headers, such as `{"Authorization": "Bearer ${NAME}"}`.
        name: What to call the server in errors, and where rewards find its connection: `episode.state[name]`. By
            default the program's name or the host's.
        only: The names of the tools to take, by default all. Rewards and `prepare` can call the others.
        prefix: Put before the tools' names, where two servers have the same.
        lifetime: "episode" connects, and starts the command, for each episode: servers tend to have state, and an
            episode must not see another's. "run" shares one among all episodes; it is faster, and must be stateless.
        prepare: Called with the connection and the task at the first call of an episode, before it; for example, to
            fill the server with the task's data. Not with "run".
        timeout_seconds: Time limit of a call.
        max_output_characters: Longer results are cut in the middle.

    Raises:
        ConfigError: A setting is invalid, the program does not exist, or the server has no such tool.
        ToolDefinitionError: A tool cannot be shown to a model: chat APIs would refuse its name, or its schema or its
            description is broken or too long. The message names the server and the tool.
        InfrastructureError: The server cannot be reached or does not answer.
        MissingExtra: The package mcp is not installed.
    """
    if bool(command) == bool(url) or isinstance(command, str):
        raise ConfigError(f"mcp_tools takes command=[...] or url=, got command={command!r:.80} and url={url!r:.80}")
    if ((env or cwd) and url) or (headers and command):
        raise ConfigError("mcp_tools: env and cwd go with command=, headers with url=")
    if lifetime not in ("episode", "run") or (prepare and lifetime == "run"):
        raise ConfigError(f"lifetime must be 'episode' or 'run' (which prepare= does not go with), got {lifetime!r}")
    if importlib.util.find_spec("mcp") is None:
        raise MissingExtra("mcp", "mcp")
    from toolrl.tools.mcp.connection import McpConnection, first_look
    from toolrl.tools.mcp.settings import ServerSettings

    variables, fields = dict(env or {}), dict(headers or {})
    expand([variables, fields, url])  # a variable that is not set is found now, and secrets are hidden from now on
    if command and shutil.which(command[0], path=variables.get("PATH", os.environ.get("PATH"))) is None:
        raise ConfigError(f"the MCP server's program {command[0]!r} was not found; install it or give its path")
    if cwd is not None and "{folder}" not in str(cwd) and not Path(cwd).is_dir():
        raise ConfigError(f"cwd={str(cwd)!r} is not a folder")
    settings = ServerSettings(
        name or (Path(command[0]).name if command else urlsplit(url).hostname or url),
        tuple(map(str, command)),
        url,
        variables,
        str(cwd) if cwd is not None else None,
        fields,
    )
    if settings.name == "arguments":
        raise ConfigError("name='arguments' is taken; give the server another name")
    known = run_sync(first_look(settings, functools.partial(_selected, settings.name, only)))

    async def connect(task: Task) -> McpConnection:
        connection = McpConnection(settings, known, timeout_seconds, is_shared=False)
        await connection.open()
        if prepare is not None:
            try:
                await in_thread(lambda: prepare(connection, task))
            except BaseException:
                await connection.aclose()
                raise
        return connection

    async def share() -> McpConnection:
        return McpConnection(settings, known, timeout_seconds, is_shared=True)

    resource: Any = per_run(share) if lifetime == "run" else per_episode(connect)
    return [
        _tool(server_tool, settings.name, prefix, resource, timeout_seconds, max_output_characters)
        for server_tool in known.tools
    ]


def _selected(server: str, only: Collection[str] | None, tools: list[ServerTool]) -> list[ServerTool]:
    missing = set(only or ()) - {tool.name for tool in tools}
    if missing or isinstance(only, str):
        names = ", ".join(repr(tool.name)[:80] for tool in tools[:MAX_TOOLS])
        raise ConfigError(f"only={only!r:.200}: MCP server {server!r} has the tools {names}")
    selected = [tool for tool in tools if only is None or tool.name in only]
    if not 0 < len(selected) <= MAX_TOOLS:
        raise ConfigError(
            f"MCP server {server!r} has {len(selected)} tools, and an environment takes 1 to {MAX_TOOLS} of a server; "
            "choose with only=[...]"
        )
    return selected


def _tool(
    server_tool: ServerTool,
    server: str,
    prefix: str,
    resource: Any,
    timeout_seconds: float,
    max_output_characters: int,
) -> Tool:
    from toolrl.tools.json_arguments import json_arguments

    called = server_tool.name

    async def call(arguments: dict[str, Any], **connection: McpConnection) -> str:
        return await connection[server].call_tool(called, arguments, timeout_seconds)

    shown, remedy = prefix + called, "choose others with only=[...]"
    try:
        check_name(shown, remedy)
        description = as_text(server_tool.description or "")
        if len(description) > MAX_DESCRIPTION_CHARACTERS:
            raise ToolDefinitionError(
                f"tool {shown!r}: its description has {len(description):,} characters, and may have "
                f"{MAX_DESCRIPTION_CHARACTERS:,}; {remedy}"
            )
        arguments_model = json_arguments(shown, server_tool.input_schema)
    except ToolDefinitionError as error:
        raise ToolDefinitionError(f"MCP server {server!r}: {error}") from None
    # The connection keeps the time, since it must look whether the server is still alive.
    return Tool(
        shown,
        description,
        call,
        arguments_model,
        {server: resource},
        timeout_seconds,
        max_output_characters,
        keeps_time=True,
    )
