"""Environments behind an OpenEnv server: toolrl's own, and small ones that do what others do, and worse.

`make test-agents` plays openenv's own servers.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tests.interop.serve.environments import LIBRARY_ANSWERS, library, make
from toolrl import ConfigError, InfrastructureError, Message, TaskError, ToolEnv, call, say
from toolrl.audit import audit_environment, check_environment
from toolrl.interop import from_openenv
from toolrl.interop.serve import EnvironmentServer
from toolrl.support.serving import Server
from toolrl.types import ToolCall

Foreign = Callable[..., str]


@pytest.fixture
def served() -> Iterator[EnvironmentServer]:
    environments = {
        (name, split): make(name, split) for name in ("test/Library-v0", "shop.py:Shop") for split in ("train", "test")
    }
    with EnvironmentServer(
        ["test/Library-v0", "shop.py:Shop"], lambda name, split: environments[name, split]
    ) as server:
        yield server


@pytest.fixture
def foreign() -> Iterator[Foreign]:
    """Starts a server with one typed action: count up to the seed's number, as others' servers are."""
    started: list[Server] = []

    def begin(**faults: Any) -> str:
        async def schema(request: Request) -> JSONResponse:
            properties = {"add": {"type": "integer"}, "metadata": {"type": "object"}}
            return JSONResponse(
                {"action": {"description": "Add a number.", "properties": properties, "required": ["add"]}}
            )

        async def socket(ws: WebSocket) -> None:
            await ws.accept()
            if faults.get("full"):
                await ws.send_json({"type": "error", "data": {"code": "CAPACITY_REACHED", "message": "full"}})
                faults["full"] -= 1
                await ws.close()
                return
            goal = total = 0
            async for text in ws.iter_text():
                message = json.loads(text)
                data = message.get("data", {})
                if message["type"] == "reset":
                    goal, total = data.get("seed", 0) + 2, 0
                    faults["resets"] = faults.get("resets", 0) + 1
                    hint = f" ({faults['resets']})" if faults.get("random") else ""
                    await ws.send_json(
                        {"type": "observation", "data": {"observation": {"text": f"Count to {goal}.{hint}"}}}
                    )
                elif message["type"] == "step":
                    if faults.get("crash"):
                        await ws.send_json({"type": "error", "data": {"code": "EXECUTION_ERROR", "message": "boom"}})
                        continue
                    if faults.get("drop"):
                        await ws.close()
                        return
                    if faults.get("hang"):
                        await asyncio.sleep(4)
                    if faults.get("nonsense"):
                        await ws.send_text("[]")
                        continue
                    if faults.get("text") and not data["add"].isdigit():
                        refused = {"code": "VALIDATION_ERROR", "message": "not a number"}
                        await ws.send_json({"type": "error", "data": refused})
                        continue
                    total += int(data["add"])
                    reward = None if faults.get("silent") else float(total == goal)
                    observation = {"total": total, "note": ""}
                    await ws.send_json(
                        {
                            "type": "observation",
                            "data": {"observation": observation, "reward": reward, "done": total >= goal},
                        }
                    )

        routes = [Route("/schema", schema), WebSocketRoute("/ws", socket)]
        server = Server(Starlette(routes=routes), host="127.0.0.1", port=0, name="foreign", websockets=True)
        server.start()
        started.append(server)
        return server.url

    yield begin
    for server in started:
        server.close()


def played(env: ToolEnv, task: int, *turns: Any) -> tuple[float, dict[str, Any]]:
    """The rewards' sum, and the last step's info."""
    env.reset(options={"task": task})
    rewards, info, over = [], {}, False
    for turn in turns:
        assert not over
        _, reward, terminated, truncated, info = env.step(turn)
        rewards.append(reward)
        over = terminated or truncated
    assert over
    return sum(rewards), info


def test_a_served_environment_is_as_it_is_at_home(served: EnvironmentServer) -> None:
    here = library("train")
    there = from_openenv(f"{served.url}/openenv/test-Library-v0", split="train")
    assert [(task.id, task.prompt) for task in there.tasks] == [(task.id, task.prompt) for task in here.tasks]
    assert (there.toolbox.schemas, there.system_prompt) == (here.toolbox.schemas, here.system_prompt)
    for turns in ([call("put", book="Emma"), say(LIBRARY_ANSWERS[1])], [say("wrong")], [call("stop")]):
        (mine, about), (theirs, other) = played(here, 1, *turns), played(there, 1, *turns)
        assert mine == pytest.approx(theirs)
        assert about["score"]["parts"] == other["score"]["parts"]
    held_out = from_openenv(f"{served.url}/openenv/test-Library-v0", split="test")
    assert not {task.id for task in held_out.tasks} & {task.id for task in there.tasks}


def test_somebody_who_replies_there_replies_here(served: EnvironmentServer) -> None:
    env = from_openenv(f"{served.url}/openenv/shop.py-Shop")
    env.reset(options={"task": 0})
    assert env.step(say("a hat"))[0] == "no (1)"
    text, reward, terminated, _, info = env.step(say("please"))
    assert (text, reward, terminated, info["ending"]) == ("sold", 1.0, True, "done")


def test_mistakes_and_faults_are_told_apart(served: EnvironmentServer) -> None:
    env = from_openenv(f"{served.url}/openenv/test-Library-v0")
    env.reset(options={"task": 0})
    text, *_, info = env.step(call("put", book="nothing"))
    assert (text, info["failures"]) == ("error: there is no such book", ["raised"])
    with pytest.raises(InfrastructureError, match="the library burns"):
        env.step(call("put", book="fire"))


def test_calls_after_the_end_are_mistakes_and_no_way_out_of_a_score(served: EnvironmentServer) -> None:
    env = from_openenv(f"{served.url}/openenv/test-Library-v0")  # of six turns; here it has more
    *_, info = played(env, 0, *[call("put", book="nothing")] * 6)
    assert info["score"]["parts"] == {"correct": 0.0}
    _, info = played(env, 0, Message("assistant", "", tuple(ToolCall("put", {"book": "nothing"}) for _ in range(20))))
    assert info["score"]["parts"] == {"correct": 0.0}


def test_a_typed_action_is_a_tool(foreign: Foreign) -> None:
    env = from_openenv(foreign(), tasks=4, tool="add_up")
    assert [task.prompt for task in env.tasks] == [f"Count to {n}." for n in range(2, 6)]
    [schema] = env.toolbox.schemas
    assert (schema["function"]["name"], schema["function"]["description"]) == ("add_up", "Add a number.")
    assert list(schema["function"]["parameters"]["properties"]) == ["add"]
    assert played(env, 0, call("add_up", add=1), call("add_up", add=1))[0] == 1.0
    assert played(env, 0, call("add_up", add=5))[0] == 0.0
    assert played(env, 0, say("2"))[0] == 0.0  # it never acted
    env.reset(options={"task": 1})
    assert env.step(call("add_up", add=1))[0] == "total: 1"
    assert "invalid_arguments" in env.step(call("add_up", add="x"))[-1]["failures"]


def test_what_is_said_can_be_a_field_of_the_action(foreign: Foreign) -> None:
    url = foreign(text=True)
    env = from_openenv(url, tasks=1, words="add")
    assert env.toolbox.schemas == []
    assert played(env, 0, say("1"), say("1"))[0] == 1.0
    env.reset(options={"task": 0})
    assert env.step(say("two"))[0] == "error: the environment refuses this action: not a number"
    assert env.step(say("1"))[0] == "total: 1"
    with pytest.raises(ConfigError, match="have the fields \\['add'\\]"):
        from_openenv(url, tasks=1, words="answer")


def test_a_server_that_gives_no_reward_leaves_episodes_unscored(foreign: Foreign) -> None:
    _, info = played(from_openenv(foreign(silent=True), tasks=1), 0, call("act", add=2))
    assert (info["score"]["value"], info["score"]["reason"]) == (None, "the server gave no reward")


@pytest.mark.parametrize(
    ("fault", "part"),
    [
        ("crash", "failed \\(EXECUTION_ERROR\\): boom"),
        ("drop", "broke"),
        ("hang", "has not answered for 1 s"),
        ("nonsense", "does not speak"),
    ],
)
def test_what_a_server_does_wrong_is_a_fault(foreign: Foreign, fault: str, part: str) -> None:
    env = from_openenv(foreign(**{fault: True}), tasks=1, timeout_seconds=1)
    env.reset(options={"task": 0})
    with pytest.raises(InfrastructureError, match=part):
        env.step(call("act", add=1))


def test_a_full_server_is_asked_again(foreign: Foreign) -> None:
    assert len(from_openenv(foreign(full=2), tasks=1).tasks) == 1


def test_what_cannot_be_an_environment(foreign: Foreign, served: EnvironmentServer) -> None:
    with pytest.raises(ConfigError, match="ignores the seed"):
        from_openenv(foreign(random=True), tasks=2)
    with pytest.raises(ConfigError, match="has an address such as"):
        from_openenv("localhost:8000")
    with pytest.raises(InfrastructureError, match="unreachable"):
        from_openenv("http://127.0.0.1:1")
    with pytest.raises(ConfigError, match="the server has the tools"):
        from_openenv(f"{served.url}/openenv/test-Library-v0", only=["fly"])
    with pytest.raises(TaskError, match="not 'dev'"):
        from_openenv(f"{served.url}/openenv/test-Library-v0", split="dev")


def test_an_environment_is_checked_and_audited_over_the_wire(served: EnvironmentServer) -> None:
    name = f"openenv:{served.url}/openenv/test-Library-v0"
    assert check_environment(name, tasks=3).passed
    assert audit_environment(name, tasks=2).passed
