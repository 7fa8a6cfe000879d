"""Policies: token ids in, sampled token ids out; behind chat APIs, messages in and messages out."""

import importlib
from typing import TYPE_CHECKING, Any

from toolrl.errors import naming_extras
from toolrl.policy.base import ChatPolicy, ChatReply, Policy, ShowsProgress
from toolrl.policy.completions import Endpoint, Prices
from toolrl.policy.factory import open_policy
from toolrl.policy.openai import OpenAIPolicy
from toolrl.policy.scripted import ScriptedChatPolicy, ScriptedPolicy
from toolrl.policy.settings import PolicySettings

if TYPE_CHECKING:
    from toolrl.policy.models import load_model, load_tokenizer
    from toolrl.policy.transformers import TransformersPolicy
    from toolrl.policy.vllm.policy import VLLMPolicy
    from toolrl.policy.vllm.server import VLLMServerPolicy

__all__ = [
    "ChatPolicy",
    "ChatReply",
    "Endpoint",
    "OpenAIPolicy",
    "Policy",
    "PolicySettings",
    "Prices",
    "ScriptedChatPolicy",
    "ScriptedPolicy",
    "ShowsProgress",
    "TransformersPolicy",
    "VLLMPolicy",
    "VLLMServerPolicy",
    "load_model",
    "load_tokenizer",
    "open_policy",
]

# torch and transformers load only for those who ask for a policy that needs them.
_MODULES = {
    "TransformersPolicy": "transformers",
    "VLLMPolicy": "vllm.policy",
    "VLLMServerPolicy": "vllm.server",
    "load_model": "models",
    "load_tokenizer": "models",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        with naming_extras():
            return getattr(importlib.import_module(f"toolrl.policy.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
