"""Promises of the one place that opens policies by their settings."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from toolrl import ConfigError, Renderer
from toolrl.policy import OpenAIPolicy, PolicySettings, Prices, TransformersPolicy, load_tokenizer, open_policy

CHAT = PolicySettings(model="openai:gpt", base_url="http://127.0.0.1:9/v1", max_concurrent=3)


def test_a_model_name_opens_a_policy_that_samples_it() -> None:
    policy = open_policy(PolicySettings(model="tiny", device="cpu"), Renderer(load_tokenizer("tiny")))
    assert isinstance(policy, TransformersPolicy)
    policy.close()


def test_a_name_with_the_chat_prefix_opens_a_chat_policy() -> None:
    policy = open_policy(CHAT)
    assert isinstance(policy, OpenAIPolicy)
    policy.close()


def test_opening_a_chat_policy_does_not_load_torch() -> None:
    program = "import sys\nfrom toolrl.policy import PolicySettings, open_policy\n"
    program += "open_policy(PolicySettings(model='openai:gpt', base_url='http://127.0.0.1:9')).close()\n"
    program += "sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"request": {"top_p": 0.5}}, "are for models named 'openai:NAME', got 'tiny'"),
        ({"prices": Prices(1.0, 1.0)}, "are for models named 'openai:NAME', got 'tiny'"),
        ({"sampler": "http://a:1", "device": "cpu"}, "'cpu' is for sampler 'transformers'"),
    ],
)
def test_a_setting_for_another_kind_of_policy_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicySettings(**settings)


def test_a_policy_of_tokens_needs_a_renderer() -> None:
    with pytest.raises(ConfigError, match="pass its renderer"):
        open_policy(PolicySettings(model="tiny"))
