"""An environment's tools in MCP clients: the SDK's own client, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters

from toolrl import Ended, InfrastructureError, Task, ToolEnv, ToolError, per_episode
from toolrl.interop.mcp import ToolServer
from toolrl.tools.mcp.stdio import ServerProcess

MODULE = '''
from pathlib import Path
import gymnasium
from toolrl import Ended, Task, ToolEnv, per_episode

LOG = Path(__file__).with_name("log.txt")

def log(line):
    with LOG.open("a") as file:
        file.write(line + "\\n")

class Shelf(list):
    def close(self):
        log(f"closed with {self}")

def put(book: str, shelf: Shelf = per_episode(Shelf)) -> str:
    """Put a book on the shelf.

    Args:
        book: Its title.
    """
    print("a stray print")
    shelf.append(book)
    return f"{len(shelf)} books"

class Library(ToolEnv):
    def __init__(self):
        tasks = [Task("first", "Fill the shelf."), Task("second", "Fill it again.")]
        super().__init__(tasks=tasks, tools=[put], reward=lambda task, episode: 1.0, system_prompt="You keep books.")

gymnasium.register("test/Library-v0", entry_point=Library)
'''


def library_command(folder: Path) -> list[str]:
    (folder / "library.py").write_text(MODULE)
    return [sys.executable, "-m", "toolrl", "tools", "serve", "library:test/Library-v0", "--task", "second"]


def text(result: Any) -> tuple[str, bool]:
    return result.content[0].text, result.is_error


def test_an_environment_is_tried_over_stdio(tmp_path: Path) -> None:
    command = library_command(tmp_path)

    async def try_it() -> None:
        parameters = StdioServerParameters(command=command[0], args=command[1:], cwd=tmp_path)
        async with Client(parameters) as client:
            assert client.instructions == "You keep books.\n\nThe task (second):\nFill it again."
            (tool,) = (await client.list_tools()).tools
            assert (tool.name, tool.description) == ("put", "Put a book on the shelf.")
            assert tool.input_schema["properties"] == {"book": {"type": "string", "description": "Its title."}}
            assert text(await client.call_tool("put", {"book": "Emma"})) == ("1 books", False)
            assert text(await client.call_tool("put", {"book": "Ulysses"})) == ("2 books", False)
            refused = text(await client.call_tool("put", {"author": "Austen"}))
            assert refused[1]
            assert "invalid arguments for put" in refused[0]

    asyncio.run(try_it())
    assert (tmp_path / "log.txt").read_text() == "closed with ['Emma', 'Ulysses']\n"


@pytest.mark.slow
def test_an_interrupted_server_closes_what_its_episode_opened(tmp_path: Path) -> None:
    async def try_it() -> None:
        import os

        server = ServerProcess(library_command(tmp_path), dict(os.environ), str(tmp_path))
        async with Client(server.transport()) as client:
            await client.call_tool("put", {"book": "Emma"})
            children = Path(f"/proc/{server._process.pid}/task/{server._process.pid}/children").read_text()
            os.kill(int(children), signal.SIGTERM)
            while not server.failure:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(try_it(), 60))
    assert (tmp_path / "log.txt").read_text() == "closed with ['Emma']\n"


class Shelf(list[str]):
    """Where books are put; remembers which shelves were closed."""

    closed: list[list[str]]

    def close(self) -> None:
        self.closed.append([*self])


@pytest.fixture
def shelves() -> Iterator[tuple[str, list[list[str]]]]:
    """The address of a library, and the shelves of the connections that have ended."""
    Shelf.closed = []

    def put(book: str, shelf: Shelf = per_episode(Shelf)) -> str:
        """Put a book on the shelf.

        Args:
            book: Its title.
        """
        if book == "Mein Kampf":
            raise ToolError("not on this shelf")
        if book == "Atlas":
            raise InfrastructureError("the shelf broke")
        shelf.append(book)
        return ", ".join(shelf)

    def leave() -> Ended:
        """Leave the library."""
        return Ended("goodbye")

    env = ToolEnv(tasks=[Task("t", "Fill the shelf.")], tools=[put, leave], reward=lambda task, episode: 1.0)
    with ToolServer(env, env.tasks[0]) as server:
        yield server.url, Shelf.closed
    env.close()


def on_loop(try_it: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(try_it(), 60)

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_each_connection_over_http_is_an_episode(shelves: tuple[str, list[list[str]]]) -> None:
    url, closed = shelves

    async def try_it() -> None:
        async with Client(url) as one, Client(url) as other:
            assert text(await one.call_tool("put", {"book": "Emma"})) == ("Emma", False)
            assert text(await other.call_tool("put", {"book": "Ulysses"})) == ("Ulysses", False)
            both = await asyncio.gather(
                *(one.call_tool("put", {"book": book}) for book in ("Persuasion", "Lady Susan"))
            )
            assert sorted(len(text(result)[0].split(", ")) for result in both) == [2, 3]
            assert closed == []
        await until(lambda: len(closed) == 2)

    on_loop(try_it)
    assert sorted(len(shelf) for shelf in closed) == [1, 3]


def test_mistakes_faults_and_ends_are_told_apart(shelves: tuple[str, list[list[str]]]) -> None:
    async def try_it() -> None:
        async with Client(shelves[0]) as client:
            assert text(await client.call_tool("put", {"book": "Mein Kampf"})) == ("error: not on this shelf", True)
            with pytest.raises(Exception, match="the shelf broke"):
                await client.call_tool("put", {"book": "Atlas"})
            assert text(await client.call_tool("leave", {})) == ("goodbye\n(the episode has ended)", False)
            ended = text(await client.call_tool("put", {"book": "Emma"}))
            assert ended == ("the episode has ended; connect again for another", True)

    on_loop(try_it)


def test_web_pages_cannot_call_the_tools(shelves: tuple[str, list[list[str]]]) -> None:
    for headers in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"sec-fetch-site": "cross-site"}):
        with contextlib.suppress(httpx.HTTPError):
            assert httpx.post(shelves[0], headers=headers, json={}).status_code == 403
