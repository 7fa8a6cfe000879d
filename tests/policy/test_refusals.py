# ruff: noqa: E501
"""Promises about refusals in the words of many servers: a full context, the account, fields they do not accept."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.policy.chat_server import Answer, ChatServer, says, serving
from toolrl import RetryPolicy
from toolrl.errors import ConfigError, PolicyFault
from toolrl.policy import Endpoint
from toolrl.policy.completions import ChatCompletions, RequestRefused
from toolrl.policy.refusals import ServerQuirks, is_context_full, room_left

QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.0, attempts=2)
SYSTEM = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
# (status, what the server says, room left)
FULL: dict[str, tuple[int, Any, int | None]] = {
    "OpenAI": (400, {"error": {"message": "This model's maximum context length is 4097 tokens. However, your messages resulted in 7575 tokens. Please reduce the length of the messages.", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"}}, 0),
    "OpenAI, responses": (400, {"error": {"message": "Your input exceeds the context window of this model. Please adjust your input and try again.", "code": "context_length_exceeded"}}, None),
    "Azure": (400, {"error": {"code": "context_length_exceeded", "message": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178 tokens."}}, None),
    "vLLM 0.6": (400, {"object": "error", "message": "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens (9591 in the messages, 10000 in the completion). Please reduce the length of the messages or completion.", "type": "BadRequestError", "code": 400}, 6793),
    "vLLM 0.9": (400, {"object": "error", "message": "'max_tokens' or 'max_completion_tokens' is too large: 10000. This model's maximum context length is 8192 tokens and your request has 500 input tokens (10000 > 8192 - 500). None"}, 7692),
    "vLLM 0.10": (400, {"error": {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that `max_model_len` is no smaller than the number of text tokens."}}, None),
    "vLLM 0.15": (400, {"error": {"message": "You passed 98305 input tokens and requested 32768 output tokens. However, the model's context length is only 131072 tokens, resulting in a maximum input length of 98304 tokens. Please reduce the length of the input prompt. (parameter=input_tokens, value=98305)", "type": "BadRequestError", "param": "input_tokens", "code": 400}}, 32767),
    "vLLM, server error": (500, {"error": {"message": "Input prompt (5000 tokens) is too long and exceeds limit of 4096"}}, None),
    "SGLang": (400, {"object": "error", "message": "The input (61709 tokens) is longer than the model's context length (40960 tokens).", "type": "BadRequestError", "code": 400}, 0),
    "SGLang, with the completion": (400, {"message": "Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total of 5000 tokens: 904 tokens from the input messages and 4096 tokens for the completion."}, 3192),
    "SGLang, memory": (400, {"message": "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens). Use a shorter input or enable --allow-auto-truncate."}, None),
    "TGI": (422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 1244 `inputs` tokens and 1000 `max_new_tokens`", "error_type": "validation"}, 804),
    "TGI, inputs": (422, {"error": "Input validation error: `inputs` must have less than 1024 tokens. Given: 1872"}, None),
    "llama.cpp": (400, {"error": {"code": 400, "message": "the request exceeds the available context size, try increasing it", "type": "exceed_context_size_error", "n_ctx": 4096}}, None),
    "llama.cpp, older": (500, {"error": {"code": 500, "message": "the request exceeds the available context size. try increasing the context size or enable context shift", "type": "server_error"}}, None),
    "llama-cpp-python": (400, "Requested tokens (4500) exceed context window of 4096", None),
    "Ollama": (400, {"error": "input length exceeds the context length"}, None),
    "LM Studio": (400, {"error": "Trying to keep the first 8129 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens"}, None),
    "LiteLLM": (400, {"error": {"message": "litellm.ContextWindowExceededError: litellm.BadRequestError: AnthropicError - prompt is too long: 209353 tokens > 199999 maximum"}}, None),
    "Anthropic": (400, {"type": "error", "error": {"type": "invalid_request_error", "message": "prompt is too long: 208310 tokens > 200000 maximum"}}, None),
    "Anthropic, with the completion": (400, {"error": {"message": "input length and `max_tokens` exceed context limit: 174167 + 64000 > 200000, decrease input length or `max_tokens` and try again"}}, 25833),
    "Mistral": (400, {"message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length", "code": "3051"}, None),
    "Together": (422, {"error": {"message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: 9000 `inputs` tokens and 512 `max_new_tokens`"}}, 0),
    "DeepSeek": (400, {"error": {"message": "This model's maximum context length is 65536 tokens. However, you requested 70000 tokens (66000 in the messages, 4000 in the completion). Please reduce the length of the messages or completion."}}, 0),
    "OpenRouter": (400, {"error": {"message": "This endpoint's maximum context length is 8192 tokens. However, you requested about 9000 tokens (8500 of text input, 500 in the output)."}}, None),
    "Groq": (400, {"error": {"message": "Please reduce the length of the messages or completion.", "code": "context_length_exceeded"}}, None),
    "xAI": (400, {"error": "This model's maximum prompt length is 131072 but the request contains 537812 tokens."}, None),
    "Google": (400, [{"error": {"code": 400, "message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."}}], None),
    "Fireworks": (400, {"error": {"message": "The prompt is too long: 9000, model maximum context length: 8191"}}, None),
    "Cohere": (400, {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"}, None),
    "Bedrock": (400, {"message": "Input is too long for requested model."}, None),
    "vLLM 0.4": (400, {"message": "max_tokens must be at least 1, got -50.", "type": "BadRequestError"}, None),
    "DashScope": (400, {"error": {"message": "Range of input length should be [1, 30720]"}}, None),
    "Copilot": (400, {"error": {"message": "prompt token count of 200000 exceeds the limit of 128000"}}, None),
    "a gateway's 200": (200, {"error": {"message": "This endpoint's maximum context length is 8192 tokens.", "code": 400}}, None),
}  # fmt: skip
OTHER = [
    "too many images in the prompt: at most 1 may be provided",
    "max_tokens is too large: 20000. This model supports at most 16384 completion tokens, whereas you provided 20000.",
    "Rate limit reached for gpt-4o in organization org on tokens per min (TPM): Limit 30000, Used 28000, Requested 5000.",
    "Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 7000, please reduce your message size",
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
    "The audio input is too long", "context deadline exceeded", "too many requests", "too many tools: 200 > 128",
    "The model is overloaded", "", "tool_calls must be followed by tool messages", "image is too large",
    "Invalid 'stop': array too long. Expected an array with maximum length 4",
]  # fmt: skip


@pytest.fixture(scope="module")
def one_server() -> Iterator[ChatServer]:
    with serving(Answer()) as server:
        yield server


@pytest.fixture
def serve(one_server: ChatServer) -> Callable[..., ChatServer]:
    def serve(*answers: Answer) -> ChatServer:
        one_server.answers, one_server.requests = list(answers), []
        return one_server

    return serve


@pytest.fixture
def client() -> Iterator[Any]:
    made: list[ChatCompletions] = []

    def make(url: str) -> ChatCompletions:
        made.append(ChatCompletions(Endpoint("m", url, retry_policy=QUICK, timeout_seconds=5.0)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def content(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize("name", FULL)
def test_a_full_context_is_recognised_in_every_servers_words_and_not_retried(
    serve: Callable[..., ChatServer], client: Any, name: str
) -> None:
    status, body, room = FULL[name]
    server = serve(Answer(body, status=status))
    with pytest.raises(RequestRefused) as caught:
        client(server.url).ask("a turn", {"messages": SYSTEM, "max_tokens": 99}, content)
    assert len(server.requests) == 1
    assert is_context_full(caught.value.body)
    assert room_left(caught.value.body) == room


@pytest.mark.parametrize(
    "text",
    ["Conversation too long. Context size has been exceeded.", "Token limit exceeded: 9000 > 8192", "tokens exceed the model's limit",
     "prompt exceeds max length", "Requested 9000 tokens but only 8192 fit in context", "the prompt is too large",
     "Your request exceeded model token limit: 8192", "sequence length of 9000 exceeds 8192", "input tokens (9) > limit: exceeded"],
)  # fmt: skip
def test_wordings_of_unknown_servers_are_understood(text: str) -> None:
    assert is_context_full(json.dumps({"error": {"message": text}}))
    assert not is_context_full(text, 503)


@pytest.mark.parametrize("text", OTHER)
def test_other_refusals_do_not_mean_a_full_context(text: str) -> None:
    assert not is_context_full(text)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (400, '{"error": {"message": "The model `x` does not exist", "code": "model_not_found"}}'),
        (400, '{"error": {"message": "Model Not Exist"}}'),
        (400, '{"error": {"message": "x is not a valid model ID"}}'),
        (400, '{"message": "Invalid model: x", "code": "1500"}'),
        (400, '{"error": {"message": "API key not valid. Please pass a valid API key."}}'),
        (400, '{"error": "Incorrect API key provided: xa***"}'),
        (400, '{"error": {"message": "Your credit balance is too low to access the API."}}'),
        (400, '{"error": {"message": "registry.ollama.ai/library/gemma does not support tools"}}'),
        (400, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
        (402, '{"error": {"message": "Insufficient Balance"}}'),
        (403, "forbidden"),
        (429, '{"error": {"message": "You exceeded your current quota, please check your plan and billing details.", "code": "insufficient_quota"}}'),
    ],
)  # fmt: skip
def test_a_wrong_key_model_or_account_fails_at_once(
    serve: Callable[..., ChatServer], client: Any, status: int, text: str
) -> None:
    server = serve(Answer(text, status=status))
    with pytest.raises(ConfigError, match="for model 'm'; check base_url, model and api_key"):
        client(server.url).ask("a turn", {"messages": SYSTEM}, content)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "text",
    [
        OTHER[1],
        OTHER[2],
        "You exceeded your current quota, please check your plan and billing details. Please retry in 21.3s.",
        "slow down",
    ],
)
def test_a_rate_limit_is_waited_for(serve: Callable[..., ChatServer], client: Any, text: str) -> None:
    server = serve(Answer(text, status=429), says("hello"))
    assert client(server.url).ask("a turn", {"messages": SYSTEM}, content).value == "hello"


def unsupported(name: str, code: str = "unsupported_parameter") -> Answer:
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    return Answer({"error": {"message": message, "param": name, "code": code}}, status=400)


@pytest.mark.parametrize(
    ("refusal", "name"),
    [
        (unsupported("temperature"), "temperature"),
        (unsupported("seed"), "seed"),
        (unsupported("stop"), "stop"),
        (Answer({"error": {"message": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.", "param": "temperature", "code": "unsupported_value"}}, status=400), "temperature"),
        (Answer({"error": {"message": "Unrecognized request argument supplied: seed", "param": None}}, status=400), "seed"),
        (Answer({"detail": [{"type": "extra_forbidden", "loc": ["body", "logprobs"], "msg": "Extra inputs are not permitted"}]}, status=422), "logprobs"),
        (Answer({"error": {"message": "logprobs is not supported"}}, status=400), "logprobs"),
        (Answer({"object": "error", "message": "invalid temperature: only 1 is allowed for this model"}, status=400), "temperature"),
        (Answer("unknown field `seed`, expected one of `messages`", status=422), "seed"),
    ],
)  # fmt: skip
def test_a_field_that_a_server_does_not_accept_is_left_out_from_then_on(
    serve: Callable[..., ChatServer], client: Any, refusal: Answer, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    request = {"messages": SYSTEM, "max_tokens": 9, "temperature": 0, "seed": 1, "stop": ["x"], "logprobs": True}
    server = serve(refusal, says("hello"))
    with caplog.at_level(logging.WARNING):
        one = client(server.url)
        for _ in range(2):
            assert one.ask("a turn", request, content).value == "hello"
        assert [set(request) - set(sent) for sent in server.requests] == [set(), {name}, {name}]
    assert f"the model 'm' at {one.url} gets no {name} from now on" in caplog.text


def test_several_quirks_of_one_server_are_learnt_one_after_the_other(
    serve: Callable[..., ChatServer], client: Any
) -> None:
    limit = Answer(
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
        status=400,
    )
    role = Answer(
        {
            "error": {
                "message": "Unsupported value: 'messages[0].role' does not support 'system' with this model.",
                "param": "messages[0].role",
                "code": "unsupported_value",
            }
        },
        status=400,
    )
    server = serve(limit, unsupported("temperature"), role, says("hello"))
    assert (
        client(server.url).ask("a turn", {"messages": SYSTEM, "max_tokens": 9, "temperature": 0}, content).value
        == "hello"
    )
    last = server.requests[-1]
    assert (last["max_completion_tokens"], set(last)) == (9, {"path", "model", "messages", "max_completion_tokens"})
    assert [message["role"] for message in last["messages"]] == ["developer", "user"]


def test_the_newer_name_of_the_limit_gives_way_to_the_older(serve: Callable[..., ChatServer], client: Any) -> None:
    refusal = Answer(
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "max_completion_tokens"],
                    "msg": "Extra inputs are not permitted",
                }
            ]
        },
        status=422,
    )
    server = serve(refusal, says("hello"))
    client(server.url).ask("a turn", {"messages": SYSTEM, "max_completion_tokens": 9}, content)
    assert server.requests[-1]["max_tokens"] == 9


def test_without_a_system_role_the_system_message_is_sent_as_the_users(
    serve: Callable[..., ChatServer], client: Any
) -> None:
    with serving(
        *[Answer(f"{role.title()} role not supported", status=400) for role in ("system", "developer")], says("hello")
    ) as server:
        client(server.url).ask("a turn", {"messages": SYSTEM}, content)
        assert server.requests[-1]["messages"] == [{"role": "user", "content": "Be brief.\n\nHi"}]


@pytest.mark.parametrize("name", ["tools", "messages", "reasoning_effort"])
def test_a_field_that_matters_is_never_left_out(serve: Callable[..., ChatServer], client: Any, name: str) -> None:
    server = serve(unsupported(name))
    with pytest.raises((PolicyFault, ConfigError), match="answers 400"):
        client(server.url).ask("a turn", {"messages": SYSTEM, "tools": [], "reasoning_effort": "low"}, content)
    assert len(server.requests) == 1


def test_a_refusal_that_repeats_ends_the_request(serve: Callable[..., ChatServer], client: Any) -> None:
    server = serve(unsupported("temperature"))
    with pytest.raises(RequestRefused):
        client(server.url).ask("a turn", {"messages": SYSTEM, "temperature": 0}, content)
    assert len(server.requests) == 2


def test_threads_that_are_refused_at_once_learn_once(caplog: pytest.LogCaptureFixture) -> None:
    quirks, body = ServerQuirks("the server"), {"messages": SYSTEM, "temperature": 0, "max_tokens": 9}
    refusal = json.dumps(unsupported("temperature").body)
    sent = quirks.apply(body)
    again: list[bool] = []
    threads = [threading.Thread(target=lambda: again.append(quirks.learn(body, sent, refusal))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert again == [True] * 8
    assert caplog.text.count("gets no temperature from now on") == 1
    assert quirks.apply(body) == {"messages": SYSTEM, "max_tokens": 9}
    assert not quirks.learn(body, quirks.apply(body), refusal)
