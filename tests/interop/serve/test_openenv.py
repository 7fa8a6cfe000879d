"""Environments by OpenEnv's protocol; `make test-agents` tries its own client and its `validate`."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from socket import SHUT_RDWR
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.interop.serve.conftest import Connect, Start
from tests.interop.serve.environments import closed
from toolrl.interop.serve import ServeLimits

LIBRARY = "test/Library-v0"


def calling(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": name, "arguments": arguments}


def test_an_episode_over_one_connection(start: Start, dial: Connect) -> None:
    socket = dial(start(LIBRARY).url)
    listed = socket.observe("step", {"type": "list_tools"})["observation"]["tools"]
    assert [tool["name"] for tool in listed] == ["put", "stop", "answer"]
    first = socket.observe("reset", {"split": "test", "index": 1, "unknown": 1})
    assert (first["done"], first["reward"], first["observation"]["prompt"]) == (False, None, "Which number is test 1?")
    assert "tools" not in first["observation"]
    turn = socket.observe("step", calling("put", book="Emma"))
    assert turn["observation"] == {"tool_name": "put", "result": "1 books", "metadata": {}}
    assert (turn["reward"], turn["done"]) == (0.1, False)
    last = socket.observe("step", {"type": "message", "content": "secret-test-1"})
    assert (last["done"], last["metadata"]["score"]["value"]) == (True, 1.0)
    assert turn["reward"] + last["reward"] == pytest.approx(1.0)
    state = socket.ask("state")["data"]
    assert (state["step_count"], state["done"], state["reward"], state["task_id"]) == (2, True, 1.0, "test-1")
    assert socket.ask("step", calling("put", book="b"))["data"]["code"] == "EXECUTION_ERROR"
    assert socket.observe("reset", {"seed": 3})["observation"] == socket.observe("reset", {"seed": 3})["observation"]


def test_the_answer_as_a_tool(start: Start, dial: Connect) -> None:
    server = start()
    library = dial(f"{server.url}/openenv/test-Library-v0")
    library.observe("reset", {"task_id": "train-2"})
    last = library.observe("step", calling("answer", text="secret-train-2"))
    assert (last["observation"]["tool_name"], last["done"], last["reward"]) == ("answer", True, 1.0)
    shop = dial(f"{server.url}/openenv/shop.py-Shop")
    shop.observe("reset", {})
    assert shop.observe("step", calling("say", text="a hat"))["observation"]["result"] == "no (1)"
    assert shop.observe("step", calling("say", text="please"))["reward"] == 1.0


def test_mistakes_are_observations_and_faults_are_errors(start: Start, dial: Connect) -> None:
    socket = dial(start(LIBRARY).url)
    assert socket.ask("step", calling("put", book="a"))["data"]["message"].startswith("no episode has begun")
    socket.observe("reset", {})
    errors = [
        socket.observe("step", calling(*call, **arguments))["observation"]["error"]["error_type"]
        for call, arguments in ((("put",), {"book": "nothing"}), (("put",), {"title": 1}), (("burn",), {}))
    ]
    assert errors == ["execution_error", "invalid_args", "tool_not_found"]
    fault = socket.ask("step", calling("put", book="fire"))
    assert (fault["type"], fault["data"]["code"]) == ("error", "EXECUTION_ERROR")
    assert "the library burns" in fault["data"]["message"]
    assert socket.ask("state")["data"]["done"]
    socket.observe("reset", {})
    assert "secret" not in json.dumps(socket.ask("step", calling("put", book="bug")))
    assert socket.observe("reset", {})["observation"]["prompt"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ("[]", "VALIDATION_ERROR"),
        ('{"type": "step", "data": []}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"type": "jump"}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"type": "call_tool", "tool_name": "put", "more": 1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"index": 99}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"index": "a"}}', "VALIDATION_ERROR"),
        ('{"type": "dance"}', "UNKNOWN_TYPE"),
    ],
)
def test_nonsense_is_an_error_and_the_connection_goes_on(start: Start, dial: Connect, message: str, code: str) -> None:
    socket = dial(start(LIBRARY).url)
    answer = socket.raw(message)
    assert (answer["type"], answer["data"]["code"]) == ("error", code)
    assert socket.observe("reset", {})["observation"]["prompt"]


def test_sixteen_connections_at_once(start: Start, dial: Connect) -> None:
    url = start(LIBRARY).url

    def play(number: int) -> list[str]:
        socket = dial(url)
        socket.observe("reset", {"seed": number})
        return [socket.observe("step", calling("put", book="a"))["observation"]["result"] for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(play, range(16))) == [["1 books", "2 books", "3 books"]] * 16


def test_a_client_that_goes_away_leaves_nothing(start: Start, dial: Connect) -> None:
    url = start(LIBRARY, limits=ServeLimits(sessions=1)).url
    socket = dial(url)
    socket.observe("reset", {})
    socket.observe("step", calling("put", book="gone"))
    full = dial(url).raw('{"type": "state"}')
    assert full["data"]["code"] == "CAPACITY_REACHED"
    socket.connection.socket.shutdown(SHUT_RDWR)  # no goodbye
    deadline = time.monotonic() + 30
    while ["gone"] not in closed:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert dial(url).observe("reset", {})["observation"]["prompt"]


def test_idle_sessions_close_and_the_connection_begins_anew(start: Start, dial: Connect) -> None:
    socket = dial(start(LIBRARY, limits=ServeLimits(idle_seconds=0.4)).url)
    socket.observe("reset", {})
    socket.observe("step", calling("put", book="idle"))
    time.sleep(1.2)
    assert ["idle"] in closed
    assert socket.ask("step", calling("put", book="b"))["type"] == "error"


def test_tools_over_mcp_and_a_connection_share_a_session(start: Start, dial: Connect) -> None:
    url = start(LIBRARY).url

    def rpc(method: str, **params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = httpx.post(
            f"{url}/mcp", json={"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        ).json()
        return answer

    assert [tool["name"] for tool in rpc("tools/list")["result"]["tools"]] == ["put", "stop", "answer"]
    id = rpc("openenv/session/create")["result"]["session_id"]
    assert rpc("tools/call", name="put", arguments={"book": "a"}, session_id=id)["error"]["code"] == -32600
    socket = dial(url, f"/ws?session_id={id}")
    socket.observe("reset", {})
    assert rpc("tools/call", name="put", arguments={"book": "a"}, session_id=id)["result"]["data"] == "1 books"
    assert rpc("openenv/session/close", session_id=id)["result"]["closing"]
    assert dial(url, f"/ws?session_id={id}").raw("{}")["data"]["code"] == "SESSION_ERROR"
    assert rpc("tools/call", name="put", arguments={}, session_id="no")["error"]["code"] == -32602
    assert rpc("resources/list")["error"]["code"] == -32601
    assert httpx.post(f"{url}/mcp", json={}).json()["error"]["code"] == -32600
    assert httpx.post(f"{url}/mcp", content=b"{").json()["error"]["code"] == -32700
    answered = socket.ask("mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "stop"}})
    assert answered["data"]["result"]["data"] == "stopped"
    assert socket.ask("state")["data"]["done"]


def test_steps_by_http_name_their_session(start: Start) -> None:
    url = start(LIBRARY).url
    first = httpx.post(f"{url}/reset", json={"index": 0}).json()
    body = {"action": calling("put", book="a"), "session_id": first["metadata"]["session_id"]}
    assert httpx.post(f"{url}/step", json=body).json()["observation"]["result"] == "1 books"
    state = httpx.get(f"{url}/state", params={"session_id": body["session_id"]}).json()
    assert state["step_count"] == 1
    assert httpx.post(f"{url}/step", json={"action": calling("put", book="a")}).status_code == 409
    assert httpx.post(f"{url}/step", json={"action": {}}).status_code == 422
    assert httpx.post(f"{url}/reset", json={"index": 77}).status_code == 422


def test_tasks(start: Start) -> None:
    url = start(LIBRARY).url
    [name] = httpx.get(f"{url}/list_environments").json()
    assert [split["name"] for split in httpx.get(f"{url}/{name}/splits").json()] == ["train", "test"]
    assert httpx.post(f"{url}/{name}/num_tasks", json={"split": "train"}).json() == {"num_tasks": 3}
    listed = httpx.post(f"{url}/{name}/task_range", json={"split": "train", "start": 1, "stop": 9})
    assert [task["id"] for task in listed.json()["tasks"]] == ["train-1", "train-2"]
    assert "secret" not in listed.text
    assert httpx.post(f"{url}/{name}/task", json={"split": "train", "index": 3}).status_code == 400
    assert httpx.post(f"{url}/other/tasks", json={"split": "train"}).status_code == 404


def test_a_connection_without_the_key_or_from_another_site_is_refused(start: Start, dial: Connect) -> None:
    keyed, open_ = start(LIBRARY, api_key="k").url, start(LIBRARY).url
    with pytest.raises(InvalidStatus, match="401"):
        dial(keyed)
    with pytest.raises(InvalidStatus, match="403"):
        dial(open_, Origin="http://evil.example")
    assert dial(keyed, Authorization="Bearer k").observe("reset", {})["observation"]["prompt"]


def test_a_session_of_another_environment_is_not_found(start: Start, dial: Connect) -> None:
    server = start()
    library, shop = (f"{server.url}/openenv/{name}" for name in ("test-Library-v0", "shop.py-Shop"))
    id = httpx.post(f"{library}/reset", json={}).json()["metadata"]["session_id"]
    assert httpx.get(f"{library}/state", params={"session_id": id}).status_code == 200
    assert httpx.get(f"{shop}/state", params={"session_id": id}).status_code == 404
    body = {"action": {"type": "message", "content": "please"}, "session_id": id}
    assert httpx.post(f"{shop}/step", json=body).status_code == 404
    assert dial(shop, f"/ws?session_id={id}").raw("{}")["data"]["code"] == "SESSION_ERROR"
