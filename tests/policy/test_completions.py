"""Promises of the client of chat APIs: transient failures are retried, others are clear, costs are right."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.policy.chat_server import Answer, ChatServer, says, serving
from toolrl import RetryPolicy
from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy import Endpoint, Prices
from toolrl.policy.completions import ChatCompletions, RequestRefused, TokenUsage, read_usage
from toolrl.support.usage import Usage, counting

QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.0, attempts=3)
REQUEST = {"messages": [{"role": "user", "content": "?"}]}


@pytest.fixture
def client() -> Iterator[Callable[..., ChatCompletions]]:
    made: list[ChatCompletions] = []

    def make(server: ChatServer, **settings: Any) -> ChatCompletions:
        endpoint = Endpoint("m", server.url, **{"retry_policy": QUICK, "timeout_seconds": 5.0, **settings})
        made.append(ChatCompletions(endpoint))
        return made[-1]

    yield make
    for one in made:
        one.close()


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "failure",
    [
        Answer(status=429, headers={"Retry-After": "0"}),
        Answer(status=500),
        Answer(status=503, body="<html>overloaded</html>"),
        Answer(status=408),
        Answer("{not JSON"),
        Answer("[1]"),
        Answer(""),
        Answer({"choices": "x" * 500}, cut=True),
        Answer(hang=True),
        Answer("x" * 500, trickle=True),
        Answer({"choices": "x" * 5000}),
    ],
    ids=["429", "500", "503", "408", "broken", "a list", "empty", "cut", "hangs", "trickles", "too long"],
)
def test_a_transient_failure_is_retried(client: Callable[..., ChatCompletions], failure: Answer) -> None:
    with serving(failure, says("hello")) as server:
        usage = Usage()
        with counting(usage):
            one = client(server, timeout_seconds=0.5, max_response_bytes=2000)
            assert one.ask("a turn", REQUEST, content).value == "hello"
        assert usage.amounts()["model_requests"] == 2
        assert usage.amounts()["model_retries"] == 1


def test_a_lone_surrogate_does_not_end_a_run(client: Callable[..., ChatCompletions]) -> None:
    with serving(says("hello")) as server:
        request = {"messages": [{"role": "user", "content": "caf\u00e9 \ud83d!"}]}
        assert client(server).ask("a turn", request, content).value == "hello"
        assert server.requests[0]["messages"][0]["content"] == "caf\u00e9 ?!"


def test_a_server_gets_no_request_before_its_retry_after(client: Callable[..., ChatCompletions]) -> None:
    with serving(Answer(status=429, headers={"Retry-After": "3600"}), says("hello")) as server:
        with pytest.raises(PolicyFault, match="it asked for 3600 s"):
            client(server).ask("a turn", REQUEST, content)
        assert len(server.requests) == 1


def test_a_server_that_stays_down_is_a_fault(client: Callable[..., ChatCompletions]) -> None:
    with serving(Answer(status=502)) as server:
        one = client(server)
        with pytest.raises(PolicyFault, match="the model failed 3 times, last: status 502"):
            one.ask("a turn", REQUEST, content)
    with pytest.raises(PolicyFault, match="ConnectError"):
        client(server).ask("a turn", REQUEST, content)


@pytest.mark.parametrize(
    "answer",
    [
        *(Answer("who are you?", status=status) for status in (401, 402, 403, 404)),
        Answer({"error": {"code": "insufficient_quota"}}, status=429),
    ],
    ids=["401", "402", "403", "404", "no credit"],
)
def test_a_wrong_key_model_or_account_is_an_error_of_configuration(
    client: Callable[..., ChatCompletions], answer: Answer
) -> None:
    with serving(answer) as server:
        with pytest.raises(ConfigError, match="for model 'm'; check base_url, model and api_key"):
            client(server).ask("a turn", REQUEST, content)
        assert len(server.requests) == 1


def test_a_refused_request_is_not_repeated(client: Callable[..., ChatCompletions]) -> None:
    with serving(Answer("no such field", status=422)) as server:
        with pytest.raises(RequestRefused, match="the model answers 422: 'no such field'") as caught:
            client(server).ask("a turn", REQUEST, content)
        assert (caught.value.status, len(server.requests)) == (422, 1)


def test_the_key_is_sent_and_never_shown(
    client: Callable[..., ChatCompletions], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(says("hello")) as server:
        client(server, api_key="sk-given").ask("a turn", REQUEST, content)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-from-environment")
        client(server).ask("a turn", REQUEST, content)
        monkeypatch.delenv("OPENAI_API_KEY")
        client(server).ask("a turn", REQUEST, content)
        assert [headers.get("Authorization") for headers in server.headers] == [
            "Bearer sk-given", "Bearer sk-from-environment", None,
        ]  # fmt: skip
        assert server.requests[0]["path"] == "/v1/chat/completions"
        assert "sk-" not in repr(Endpoint("m", server.url, api_key="sk-given"))


def test_openai_without_a_key_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match=r"https://api\.openai\.com/v1 needs an API key; set OPENAI_API_KEY"):
        Endpoint("gpt")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert Endpoint("gpt").base_url == "http://127.0.0.1:1/v1"


def test_no_more_requests_than_allowed_are_in_flight(client: Callable[..., ChatCompletions]) -> None:
    gate = threading.Event()
    with serving(Answer({**says("hello").body}, gate=gate)) as server:
        settings = RetryPolicy(requests_per_second=None, max_concurrent=3)
        one = client(server, retry_policy=settings, timeout_seconds=30.0)
        said: list[str] = []
        threads = [
            threading.Thread(target=lambda: said.append(one.ask("a turn", REQUEST, content).value)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        while server.most_at_once < 3:
            threads[0].join(0.01)
        gate.set()
        for thread in threads:
            thread.join()
        assert said == ["hello"] * 8
        assert server.most_at_once == 3


def test_tokens_and_dollars_are_counted(client: Callable[..., ChatCompletions]) -> None:
    with serving(says("hello", usage=(1000, 200, 600)), says("again", usage=(10, 1, 0))) as server:
        usage = Usage()
        with counting(usage):
            one = client(server, prices=Prices(input=2.0, output=10.0, cached_input=0.5))
            one.ask("a turn", REQUEST, content)
            one.ask("a turn", REQUEST, content)
        assert usage.amounts() == {
            "model_requests": 2,
            "model_input_tokens": 1010,
            "model_cached_input_tokens": 600,
            "model_output_tokens": 201,
            "model_dollars": pytest.approx((400 * 2 + 600 * 0.5 + 200 * 10 + 10 * 2 + 10) / 1e6),
        }


@pytest.mark.parametrize(
    "usage",
    [None, {}, [], "many", {"prompt_tokens": 1}, {"prompt_tokens": -1, "completion_tokens": 1},
     {"prompt_tokens": "1", "completion_tokens": 1}, {"prompt_tokens": 1.5, "completion_tokens": 1}],
)  # fmt: skip
def test_usage_that_makes_no_sense_is_ignored(usage: Any) -> None:
    assert read_usage({"usage": usage}) is None
    assert read_usage({"usage": {"prompt_tokens": 1, "completion_tokens": 2}}) == TokenUsage(1, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "localhost:8000"}, "base_url must start with http"),
        ({"model": ""}, "the model has no name"),
        ({"timeout_seconds": 0}, "Endpoint.timeout_seconds must be positive"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Endpoint(**{"model": "m", "base_url": "http://127.0.0.1:1", **settings})
    with pytest.raises(ConfigError, match=r"Prices.input must be dollars per million tokens, got -1"):
        Prices(-1)
