"""Environments by plain HTTP."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.interop.serve.conftest import Start
from tests.interop.serve.environments import closed, library
from toolrl import ToolEnv
from toolrl.errors import ConfigError, TaskError, UserError
from toolrl.interop.serve import EnvironmentServer, ServeLimits

LIBRARY = "test/Library-v0"
HTTP = httpx.Client(timeout=30)


def opened(url: str, **body: Any) -> dict[str, Any]:
    answer = HTTP.post(f"{url}/v1/sessions", json={"environment": LIBRARY, **body})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def step(url: str, session: str, **message: Any) -> dict[str, Any]:
    answer = HTTP.post(f"{url}/v1/sessions/{session}/step", json={"message": message})
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def calling(name: str, **arguments: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"content": "", "tool_calls": [{"id": "a", "type": "function", "function": function}]}


def test_an_episode_from_its_task_to_its_verdict(start: Start) -> None:
    url = start().url
    known = HTTP.get(f"{url}/v1/environments").json()["environments"]
    assert [(one["name"], one["splits"]) for one in known] == [
        (LIBRARY, {"train": 3, "test": 3}), ("shop.py:Shop", {"train": 2, "test": 2}),
    ]  # fmt: skip
    first = opened(url, task="train-1")
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert [tool["function"]["name"] for tool in first["tools"]] == ["put", "stop"]
    turn = step(url, first["session"], **calling("put", book="Emma"))
    assert (turn["messages"][0]["content"], turn["reward"], turn["done"]) == ("1 books", 0.1, False)
    assert turn["messages"][0]["role"] == "tool"
    last = step(url, first["session"], content="secret-train-1")
    assert (last["done"], last["stop"], last["score"]["value"]) == (True, "answer", 1.0)
    assert turn["reward"] + last["reward"] == pytest.approx(1.0)
    assert HTTP.post(f"{url}/v1/sessions/{first['session']}/verify").json()["score"]["value"] == 1.0
    assert HTTP.post(f"{url}/v1/sessions/{first['session']}/step", json={"text": "x"}).status_code == 409
    assert closed[-1] == ["Emma"]
    assert HTTP.delete(f"{url}/v1/sessions/{first['session']}").json() == {"closed": True}


def test_nothing_that_leaves_the_server_holds_an_answer(start: Start) -> None:
    url = start().url
    said = [HTTP.get(f"{url}/v1/tasks?environment={LIBRARY}").text, HTTP.get(f"{url}/v1/environments").text]
    session = opened(url, index=0)
    said += [json.dumps(session), HTTP.get(f"{url}/v1/sessions/{session['session']}").text]
    said.append(json.dumps(step(url, session["session"], content="wrong")))
    assert [text for text in said if "secret" in text] == []
    assert '"total": 3' in said[0]


def test_tasks_by_place_and_by_seed(start: Start) -> None:
    url = start().url
    assert opened(url, index=2, split="test")["task"]["id"] == "test-2"
    assert opened(url, seed=5)["task"] == opened(url, seed=5)["task"]
    listed = HTTP.get(f"{url}/v1/tasks", params={"environment": LIBRARY, "start": 1, "stop": 2}).json()
    assert listed["tasks"] == [
        {"id": "train-1", "prompt": "Which number is train 1?", "kind": "count", "difficulty": None, "needs_tool": None}
    ]


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"environment": "no/Such-v0"}, 404, "no environment"),
        ({"split": "dev"}, 404, "no split"),
        ({"task": "x"}, 404, "x"),
        ({"index": 3}, 404, "no task has the index 3; there are 3"),
        ({"index": -1}, 400, "index"),
        ({"index": "1"}, 400, "index"),
        ({"environment": ""}, 400, "name an environment"),
    ],
)
def test_a_session_that_cannot_begin(start: Start, body: dict[str, Any], status: int, part: str) -> None:
    server = start()
    answer = HTTP.post(f"{server.url}/v1/sessions", json={"environment": LIBRARY, **body})
    assert (answer.status_code, part in answer.json()["message"]) == (status, True)


@pytest.mark.parametrize("error", [TaskError("no such file"), ConfigError("no such level")])
@pytest.mark.parametrize("missing", ["train", "test"])
def test_an_environment_with_one_split_is_made_once(error: UserError, missing: str) -> None:
    made = []

    class Shelves(ToolEnv):
        """Shelves.

        There are many.
        """

    def make(name: str, split: str) -> ToolEnv:
        made.append(split)
        if split == missing:
            raise error
        return Shelves(tasks=library(split).tasks, tools=[], reward=lambda task, episode: 1.0)

    with EnvironmentServer([LIBRARY], make) as server:
        (known,) = HTTP.get(f"{server.url}/v1/environments").json()["environments"]
        split = {"train": "test", "test": "train"}[missing]
        assert (known["splits"], known["about"]) == ({split: 3}, "Shelves.")
        assert HTTP.get(f"{server.url}/metadata").json()["description"] == "Shelves."
        assert HTTP.get(f"{server.url}/v1/tasks?split={missing}").status_code == 404
        refused = HTTP.post(f"{server.url}/v1/sessions", json={"split": missing})
        assert (refused.status_code, str(error) in refused.json()["message"]) == (404, True)
        assert step(server.url, opened(server.url, split=split)["session"], content="x")["done"]
    assert sorted(made) == ["test", "train"]


def test_a_session_before_its_first_episode(start: Start) -> None:
    url = start(LIBRARY).url
    call = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}
    session = f"{url}/v1/sessions/{HTTP.post(f'{url}/mcp', json=call).json()['result']['session_id']}"
    state = HTTP.get(session).json()
    assert (state["task"], state["split"], state["turns"], state["done"]) == ("", "", 0, True)
    for path in ("step", "verify"):
        refused = HTTP.post(f"{session}/{path}", json={"text": "x"})
        assert (refused.status_code, "no episode has begun" in refused.json()["message"]) == (409, True)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "a message or a text"),
        ({"message": {}, "text": "a"}, "a message or a text"),
        ({"message": {"role": "user", "content": "a"}}, "the assistant's"),
        ({"message": {"content": 3}}, "message"),
        ([], "the body"),
    ],
)
def test_a_step_that_is_none(start: Start, body: Any, part: str) -> None:
    url = start().url
    session = opened(url)["session"]
    answer = HTTP.post(f"{url}/v1/sessions/{session}/step", json=body)
    assert (answer.status_code, part in answer.json()["message"]) == (400, True)
    assert not HTTP.get(f"{url}/v1/sessions/{session}").json()["done"]


def test_mistakes_count_and_faults_do_not(start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    url = start().url
    session = opened(url)["session"]
    assert step(url, session, **calling("put", book="nothing"))["failures"] == ["raised"]
    assert step(url, session, **calling("burn"))["failures"] == ["unknown_tool"]
    assert step(url, session, **calling("put", title="a"))["failures"] == ["invalid_arguments"]
    fault = step(url, session, **calling("put", book="fire"))
    assert (fault["done"], fault["stop"], fault["score"]["value"]) == (True, "fault", None)
    assert "the library burns" in fault["score"]["reason"]
    assert HTTP.post(f"{url}/v1/sessions/{session}/verify").json()["score"]["value"] is None
    session = opened(url)["session"]
    answer = HTTP.post(f"{url}/v1/sessions/{session}/step", json={"message": calling("put", book="bug")})
    assert (answer.status_code, "secret" in answer.text) == (500, False)
    said, deadline = "", time.monotonic() + 20  # the answer comes before the report
    while "KeyError" not in said:
        assert time.monotonic() < deadline
        said += capfd.readouterr().err
        time.sleep(0.05)


def test_words_are_replied_to_or_end_the_episode(start: Start) -> None:
    url = start().url
    shop = opened(url, environment="shop.py-Shop")["session"]
    assert step(url, shop, content="a hat")["messages"][0] == {"role": "user", "content": "no (1)"}
    assert step(url, shop, content="a hat, please")["score"]["value"] == 1.0
    library = opened(url)["session"]
    assert step(url, library, **calling("stop"))["stop"] == "tool"


def test_verify_grades_the_answer_or_the_state(start: Start) -> None:
    url = start().url
    session = opened(url, task="train-0")["session"]
    graded = HTTP.post(f"{url}/v1/sessions/{session}/verify", json={"answer": "secret-train-0"}).json()
    assert (graded["score"]["value"], graded["stop"]) == (1.0, "answer")
    session = opened(url)["session"]
    graded = HTTP.post(f"{url}/v1/sessions/{session}/verify").json()
    assert (graded["score"]["value"], graded["stop"], graded["done"]) == (0.0, "turns", True)
    shop = opened(url, environment="shop.py:Shop")["session"]
    assert HTTP.post(f"{url}/v1/sessions/{shop}/verify", json={"answer": "a hat"}).json()["stop"] == "turns"


def test_a_text_is_read_in_the_environments_dialect(start: Start) -> None:
    url = start().url
    session = opened(url)["session"]
    text = '<tool_call>\n{"name": "put", "arguments": {"book": "Emma"}}\n</tool_call>'
    answer = HTTP.post(f"{url}/v1/sessions/{session}/step", json={"text": text}).json()
    assert answer["messages"][0]["content"] == "1 books"


def test_sessions_at_once_keep_apart(start: Start) -> None:
    url = start().url

    def play(number: int) -> list[str]:
        session = opened(url)["session"]
        return [step(url, session, **calling("put", book=f"{number}"))["messages"][0]["content"] for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(play, range(32))) == [["1 books", "2 books", "3 books"]] * 32


def test_a_full_server_says_so_and_idle_sessions_make_room(start: Start) -> None:
    url = start(LIBRARY, limits=ServeLimits(sessions=2, idle_seconds=0.5)).url
    sessions = [opened(url)["session"] for _ in range(2)]
    step(url, sessions[0], **calling("put", book="left behind"))
    full = HTTP.post(f"{url}/v1/sessions", json={})
    assert (full.status_code, full.headers["retry-after"]) == (503, "1")
    deadline = time.monotonic() + 20
    while HTTP.post(f"{url}/v1/sessions", json={}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert HTTP.get(f"{url}/v1/sessions/{sessions[0]}").status_code == 404
    assert ["left behind"] in closed


def test_the_end_of_the_server_closes_what_episodes_opened(start: Start) -> None:
    server = start()
    session = opened(server.url)["session"]
    step(server.url, session, **calling("put", book="at the end"))
    server.close()
    assert closed[-1] == ["at the end"]


def test_two_turns_of_an_episode_run_one_after_the_other(start: Start) -> None:
    url = start().url
    session = opened(url)["session"]
    with ThreadPoolExecutor(2) as pool:
        turns = list(pool.map(lambda book: step(url, session, **calling("put", book=book)), ["slow", "b"]))
    assert sorted(turn["messages"][0]["content"] for turn in turns) == ["1 books", "2 books"]


def test_keys(start: Start) -> None:
    with pytest.raises(ConfigError, match="set an API key"):
        start(host="0.0.0.0")
    url = start(LIBRARY, api_key="open sesame").url
    right = {"Authorization": "Bearer open sesame"}
    assert HTTP.get(f"{url}/v1/environments").status_code == 401
    assert HTTP.get(f"{url}/v1/environments", headers={"Authorization": "Bearer no"}).status_code == 401
    assert HTTP.get(f"{url}/v1/environments", headers=right).status_code == 200


def test_pages_of_other_sites_are_refused_without_a_key(start: Start) -> None:
    url = start().url
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert HTTP.post(f"{url}/v1/sessions", json={}, headers=headers).status_code == 403


def test_what_no_path_leads_to(start: Start) -> None:
    url = start().url
    for path in ("/v1/sessions/../../etc/passwd", "/v1/sessions/%2e%2e%2f", "/v2", "/v1/sessions/x"):
        assert HTTP.get(url + path).status_code in (404, 405), path
    huge = HTTP.post(f"{url}/v1/sessions", content=b"{" + b" " * (17 << 20) + b"}")
    assert huge.status_code == 413


def test_the_description_is_openapi_and_a_page(start: Start) -> None:
    url = start(LIBRARY).url
    document = HTTP.get(f"{url}/openapi.json").json()
    assert {"/v1/sessions", "/v1/sessions/{session}/step", "/reset", "/ws"} - set(document["paths"]) == {"/ws"}
    known = set(document["components"]["schemas"])
    used = {part.partition('"')[0] for part in json.dumps(document).split("#/components/schemas/")[1:]}
    assert used - known == set()
    page = HTTP.get(f"{url}/docs").text
    assert "/v1/sessions/{session}/verify" in page
    assert "http" not in page.replace("<!doctype html>", "").replace("http://json-schema", "")
