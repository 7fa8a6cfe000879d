"""Policies: token ids in, sampled token ids out; behind chat APIs, messages in and messages out."""

import importlib
from typing import Any

from toolrl.policy.base import ChatPolicy, Policy, Reply, ShowsProgress
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
    "ShowsProgress",
    "TransformersPolicy",
    "VLLMPolicy",
    "VLLMServerPolicy",
]

# torch and transformers load only for those who ask for a policy that needs them.
_MODULES = {"TransformersPolicy": "transformers", "VLLMPolicy": "vllm.policy", "VLLMServerPolicy": "vllm.server"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"toolrl.policy.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
