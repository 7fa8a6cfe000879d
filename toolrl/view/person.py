"""A person as the policy: sees what a model sees, and types words or tool calls.

A line is a turn: words for the user or as the answer, or calls as `/call price fruit=apple`. Values are read by the
tool's schema; text with spaces is quoted, and `\"\"\"` begins and ends text of several lines.
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from toolrl.chat.dialects import HermesDialect
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.policy import ChatReply
from toolrl.trajectory import Trajectory
from toolrl.types import Message, SamplingParams, ToolCall
from toolrl.view.terminal import shown

CALL, RAW = "/call", "/raw"
COMMANDS = {
    CALL: "call a tool: /call TOOL NAME=VALUE ...; several calls follow each other on the line",
    RAW: "the turn exactly as a model would write it, with its marks: /raw TEXT",
    "/tools": "the tools, with their parameters",
    "/messages": "the conversation from the start",
    "/tokens": "the conversation as tokens",
    "/oracle": "what solves the task",
    "/help": "these lines",
    "/quit": "end without an answer",
}
BLOCK = '"""'
T = TypeVar("T")
Schemas = Sequence[Mapping[str, Any]]


class Quit(Exception):
    """The person has had enough."""


class PersonPolicy:
    """Asks a person for each turn. A `ChatPolicy`."""

    def __init__(
        self,
        console: Console,
        read: Callable[[str], str],
        *,
        tokens: Callable[[Sequence[Message], Schemas], Text] | None = None,
        oracle: Callable[[], Sequence[Message]] | None = None,
    ):
        """Ask through a terminal.

        Args:
            console: Where the conversation is printed.
            read: Gives a line for a prompt, like `input`; raises EOFError at the end.
            tokens: Shows a conversation as tokens, for `/tokens`.
            oracle: The solution, for `/oracle`.
        """
        self._console, self._read, self._tokens, self._oracle = console, read, tokens, oracle
        self._seen = 0
        self._asked: SimpleQueue[tuple[Sequence[Message], Schemas, Future[Message]] | None] = SimpleQueue()

    async def reply(self, messages: Sequence[Message], tools: Schemas, sampling: SamplingParams) -> ChatReply:
        """Wait for the turn, which `serve` asks for.

        Raises:
            Quit: There is none.
        """
        turn: Future[Message] = Future()
        self._asked.put((list(messages), tools, turn))
        return ChatReply(await asyncio.wrap_future(turn))

    def serve(self, play: Callable[[], T]) -> T:
        """Play on another thread and ask for turns on this one, where Ctrl-C arrives; return what `play` returns.

        Raises:
            Quit: The person has had enough.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="toolrl-play") as threads:
            played = threads.submit(play)
            played.add_done_callback(lambda _: self._asked.put(None))
            while (asked := self._asked.get()) is not None:
                messages, tools, turn = asked
                try:
                    turn.set_result(self._turn(messages, tools))
                except BaseException as error:
                    turn.set_exception(Quit())
                    if not isinstance(error, Quit):
                        raise
            return played.result()

    def close(self) -> None:
        """Nothing to release."""

    def _turn(self, messages: Sequence[Message], tools: Schemas) -> Message:
        self._show(messages[self._seen :])
        self._seen = len(messages) + 1  # the turn itself was typed
        while True:
            line = self._line().strip()
            command = line.split(maxsplit=1)[0] if line else ""
            try:
                if command == CALL:
                    return Message("assistant", "", read_calls(line, tools))
                if command == RAW:
                    return HermesDialect().parse(line[len(RAW) :].strip(), tools)
                if not command.startswith("/"):
                    if line:
                        return Message("assistant", line)
                    continue
                self._answer(command, messages, tools)
            except ConfigError as error:
                self._print(str(error), "red")

    def _answer(self, command: str, messages: Sequence[Message], tools: Schemas) -> None:
        """Do what a command asks for that is not a turn."""
        if command == "/quit":
            raise Quit
        if command == "/tools":
            for line in described(tools) or ["there are no tools"]:
                self._print(line, "cyan")
        elif command == "/messages":
            self._show(messages)
        elif command == "/tokens" and self._tokens is not None:
            self._console.print(self._tokens(messages, tools), soft_wrap=True)
        elif command == "/oracle" and self._oracle is not None:
            for message in self._oracle():
                for call in message.tool_calls:
                    self._print(written_call(call), "cyan")
                if message.content:
                    self._print(message.content, "")
        elif command == "/help":
            for name, meaning in COMMANDS.items():
                self._print(f"{name}: {meaning}", "dim")
            self._print(f"Anything else is said to the user, or is the answer. {BLOCK} begins and ends lines.", "dim")
        else:
            raise ConfigError(f"{command!r} is not known here; there are {', '.join(COMMANDS)}")

    def _line(self) -> str:
        """A line; more of them while a block is open."""
        try:
            line = self._read("> ")
            while line.count(BLOCK) % 2:
                line += "\n" + self._read(". ")
        except EOFError:
            raise Quit from None
        return line

    def _show(self, messages: Sequence[Message]) -> None:
        for message in messages:
            who = f"{message.role} {message.name}" if message.name else message.role
            self._console.print(Text(f"{who}: ", style="bold"), Text(shown(message.content)), sep="", soft_wrap=True)
            for call in message.tool_calls:
                self._print(f"  {written_call(call)}", "cyan")

    def _print(self, text: str, style: str) -> None:
        self._console.print(Text(shown(text), style=style), soft_wrap=True)


def read_calls(line: str, tools: Schemas) -> tuple[ToolCall, ...]:
    """The calls of a line such as `/call price fruit=apple /call price fruit=pear`.

    Raises:
        ConfigError: It cannot be read.
    """
    words = _words(line)
    calls: list[tuple[str, dict[str, Any]]] = []
    for place, word in enumerate(words):
        if word == CALL:
            calls.append(("", {}))
        elif words[place - 1] == CALL:
            calls[-1] = (word, {})
        else:
            name, equals, value = word.partition("=")
            if not equals:
                raise ConfigError(f"write arguments as NAME=VALUE, got {word!r}; text with spaces is quoted")
            calls[-1][1][name] = _value(value, parameters_of(tools, calls[-1][0]).get(name, {}))
    if any(not name for name, _ in calls):
        raise ConfigError(f"which tool? There are {', '.join(names_of(tools)) or 'none'}")
    return tuple(ToolCall(name, arguments) for name, arguments in calls)


def _words(line: str) -> list[str]:
    """Split as a shell does; what stands between two `\"\"\"` stays as it is."""
    parts = line.split(BLOCK)
    if len(parts) % 2 == 0:
        raise ConfigError(f"a block that {BLOCK} begins must end with {BLOCK}")
    blocks = {f"\ue000{place}\ue000": text.strip("\n") for place, text in enumerate(parts[1::2])}
    outside = parts[::2]
    joined = outside[0] + "".join(mark + text for mark, text in zip(blocks, outside[1:], strict=True))
    try:
        words = shlex.split(joined)
    except ValueError as error:
        raise ConfigError(f"{error}: close the quotes") from None
    for mark, text in blocks.items():
        words = [word.replace(mark, text) for word in words]
    return words


def _value(text: str, schema: Mapping[str, Any]) -> Any:
    """Text where the schema wants text, else JSON."""
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # the tool says what it expected


def names_of(tools: Schemas) -> list[str]:
    """Names of the tools."""
    return [str(tool["function"]["name"]) for tool in tools]


def parameters_of(tools: Schemas, name: str) -> dict[str, Any]:
    """The JSON schemas of a tool's parameters, by name; empty for an unknown tool."""
    for tool in tools:
        if tool["function"]["name"] == name:
            return dict(tool["function"].get("parameters", {}).get("properties", {}))
    return {}


def described(tools: Schemas) -> list[str]:
    """A line for each tool, and one for each of its parameters."""
    lines = []
    for tool in tools:
        function = tool["function"]
        lines.append(f"{function['name']}: {function.get('description', '')}")
        required = function.get("parameters", {}).get("required", ())
        for name, schema in parameters_of(tools, function["name"]).items():
            kind = schema.get("type", "any value")
            optional = "" if name in required else ", may be left out"
            lines.append(f"  {name} ({kind}{optional}): {schema.get('description', '')}")
    return lines


def written_call(call: ToolCall) -> str:
    """A call as it is typed."""
    parts = [CALL, call.name]
    for name, value in call.arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts.append(f"{name}={BLOCK}{text}{BLOCK}" if "\n" in text else f"{name}={shlex.quote(text)}")
    return " ".join(parts)


def completions(text: str, line: str, tools: Schemas) -> list[str]:
    """What may stand where `text` is being typed at the end of a line: commands, tools, names of arguments."""
    before = line[: len(line) - len(text)].split()
    if not before:
        return [f"{command} " for command in COMMANDS if command.startswith(text)]
    if before[-1] == CALL:
        return [f"{name} " for name in names_of(tools) if name.startswith(text)]
    if CALL in before:
        called = before[len(before) - before[::-1].index(CALL)]
        return [f"{name}=" for name in parameters_of(tools, called) if name.startswith(text)]
    return []


def as_test(env_id: str, settings: Mapping[str, Any], trajectory: Trajectory) -> str:
    """A test in Python: the same turns earn the same score."""
    turns = []
    for turn in trajectory.turns:
        message = turn.message
        calls = [f"ToolCall({call.name!r}, {dict(call.arguments)!r})" for call in message.tool_calls]
        turns.append(f'    Message("assistant", {message.content!r}, ({", ".join(calls)}{"," if calls else ""})),')
    name = "".join(letter if letter.isalnum() else "_" for letter in trajectory.task_id).lower()
    return "\n".join(
        [
            "from toolrl import Message, RolloutEngine, RolloutRequest, ToolCall, make",
            "from toolrl.policy import ScriptedChatPolicy",
            "",
            "TURNS = [",
            *turns,
            "]",
            "",
            "",
            f"def test_{name}() -> None:",
            f"    env = make({env_id!r}, **{dict(settings)!r})",
            f"    request = RolloutRequest(env, env.tasks.by_id({trajectory.task_id!r}))",
            "    (played,) = RolloutEngine(ScriptedChatPolicy(TURNS), None).run([request])",
            "    env.close()",
            f"    assert played.score.value == {trajectory.score.value!r}",
            "",
        ]
    )


def task_of(env: ToolEnv, task_id: str) -> Any:
    """A task by its id, or the first one."""
    return env.tasks.by_id(task_id) if task_id else env.tasks[0]
