"""What an environment declares to its own check and audit, so that an exception is written down, not guessed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolrl.env import ToolEnv
from toolrl.errors import ConfigError


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """Declared by an environment as a class attribute `audit_options`; the default allows nothing.

        class QuizEnv(ToolEnv):
            audit_options = AuditOptions(chance=0.25, answer_in_prompt="the options are listed")

    Attributes:
        chance: Mean reward that an exploit may get, for environments where a wrong answer earns a part, or where
            answers are few enough to be guessed. An exact guess of the right answer is told apart without it.
        answer_in_prompt: Why the answer may stand in the prompt; empty if it may not.
        excused: Name of an exploit (or of a check) to why it does not count here.
    """

    chance: float = 0.0
    answer_in_prompt: str = ""
    excused: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.chance < 1:
            raise ConfigError(f"AuditOptions.chance must be within [0, 1), got {self.chance!r}")
        for name, reason in self.excused.items():
            if not reason.strip():
                raise ConfigError(f"AuditOptions.excused[{name!r}] needs a reason")


def options_of(env: ToolEnv) -> AuditOptions:
    """What an environment declares, or the default."""
    options = getattr(env, "audit_options", None)
    if options is None:
        return AuditOptions()
    if not isinstance(options, AuditOptions):
        raise ConfigError(f"{type(env).__name__}.audit_options must be AuditOptions, got {options!r}")
    return options
