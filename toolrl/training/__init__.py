"""Training: GRPO on environments with TRL's trainer, and supervised fine-tuning on demonstrations."""

from typing import TYPE_CHECKING, Any

from toolrl.errors import naming_extras

if TYPE_CHECKING:
    from toolrl.training.arguments import ToolrlArguments
    from toolrl.training.parsing import find_config
    from toolrl.training.run import parse_arguments, run_training
    from toolrl.training.sft import DemonstrationArguments, fine_tune, parse_sft_arguments
    from toolrl.training.trl import GRPORun

__all__ = [
    "DemonstrationArguments", "GRPORun", "ToolrlArguments", "find_config", "fine_tune",
    "parse_arguments", "parse_sft_arguments", "run_training", "train",
]  # fmt: skip

_MODULES = {
    "arguments": ("ToolrlArguments"),
    "parsing": ("find_config",),
    "run": ("parse_arguments", "run_training", "train"),
    "sft": ("DemonstrationArguments", "fine_tune", "parse_sft_arguments"),
    "trl": ("GRPORun",),
}


def __getattr__(name: str) -> Any:
    # TRL and torch load only when training starts.
    for module, names in _MODULES.items():
        if name in names:
            from importlib import import_module

            with naming_extras():
                return getattr(import_module(f"toolrl.training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
