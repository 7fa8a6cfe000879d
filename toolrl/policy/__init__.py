"""Policies: token ids in, sampled token ids out; behind chat APIs, messages in and messages out."""

from typing import Any

from toolrl.policy.base import ChatPolicy, Policy, Reply
from toolrl.policy.completions import Endpoint, Prices
from toolrl.policy.openai import OpenAIPolicy
from toolrl.policy.scripted import ScriptedChatPolicy, ScriptedPolicy

__all__ = [
    "ChatPolicy",
    "Endpoint",
    "OpenAIPolicy",
    "Policy",
    "Prices",
    "Reply",
    "ScriptedChatPolicy",
    "ScriptedPolicy",
    "TransformersPolicy",
]


def __getattr__(name: str) -> Any:
    # torch and transformers load only for those who ask for the policy that needs them.
    if name == "TransformersPolicy":
        from toolrl.policy.transformers import TransformersPolicy

        return TransformersPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
