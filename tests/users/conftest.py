"""A user that a model plays, behind a real chat-completions server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.policy.chat_server import ChatServer
from toolrl import Renderer, RetryPolicy
from toolrl.policy import Endpoint, OpenAIPolicy
from toolrl.users import ModelUser

QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.0, attempts=2)


@pytest.fixture
def model_user() -> Iterator[Callable[..., ModelUser]]:
    made: list[ModelUser] = []

    def make(server: ChatServer, **settings: Any) -> ModelUser:
        policy = OpenAIPolicy(Endpoint("m", server.url, retry_policy=QUICK, timeout_seconds=5.0))
        made.append(ModelUser(policy, **settings))
        return made[-1]

    yield make
    for user in made:
        user.close()


@pytest.fixture(scope="session")
def renderer(byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]) -> Renderer:
    return Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))
