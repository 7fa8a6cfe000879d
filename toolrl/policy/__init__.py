"""Policies: token ids in, sampled token ids out."""

from typing import Any

from toolrl.policy.base import Policy
from toolrl.policy.scripted import ScriptedPolicy

__all__ = ["Policy", "ScriptedPolicy", "TransformersPolicy"]


def __getattr__(name: str) -> Any:
    # torch and transformers load only for those who ask for the policy that needs them.
    if name == "TransformersPolicy":
        from toolrl.policy.transformers import TransformersPolicy

        return TransformersPolicy
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
