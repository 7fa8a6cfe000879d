"""Training: environments and a policy to TRL's GRPOTrainer, and what the run writes down."""

from typing import Any

__all__ = ["GRPORun", "ToolrlArguments", "train"]

_MODULES = {"GRPORun": "trl", "ToolrlArguments": "arguments", "train": "run"}


def __getattr__(name: str) -> Any:
    # TRL and torch load only when training starts.
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"toolrl.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
