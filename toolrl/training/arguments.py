"""toolrl's own training settings; TRL's `GRPOConfig` and `ModelConfig` stand beside them unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError


@dataclass
class ToolrlArguments:
    """What to train on, and what to write down. The same names in Python, YAML and on the command line."""

    # ---- set these
    envs: list[str] = field(
        default_factory=list,
        metadata={"help": "Environments to train on, as ID or ID:WEIGHT, mixed by weight."},
    )
    env_settings: str = field(
        default="{}",
        metadata={"help": 'Settings of the environments as JSON: {"toolrl/PythonMath-v0": {"size": 500}}.'},
    )
    eval_tasks: int = field(
        default=100, metadata={"help": "Held-out tasks per environment, before and after training; 0 for none."}
    )
    eval_samples: int = field(default=1, metadata={"help": "Episodes per held-out task."})
    dry_run: bool = field(
        default=False,
        metadata={"help": "Build everything, play a few episodes, print what a batch and the model need, and stop."},
    )
    # ---- advanced
    task_seed: int = field(default=0, metadata={"help": "Seeds the choice and order of training tasks."})
    train_tasks: int = field(
        default=0, metadata={"help": "Training prompts per epoch; 0 for as many as max_steps needs, else 1000."}
    )
    max_turn_tokens: int = field(
        default=512, metadata={"help": "Sampled tokens per turn, within each environment's own limits."}
    )
    concurrency: int = field(default=256, metadata={"help": "Episodes in flight per process."})
    retries: int = field(default=2, metadata={"help": "Further attempts after an infrastructure fault."})
    generation_sequences: int = field(
        default=0, metadata={"help": "Sequences generated together; 0 for the device's default."}
    )
    chat_template: str = field(
        default="", metadata={"help": "Path of a Jinja chat template to use in place of the model's."}
    )
    dialect: str = field(
        default="",
        metadata={"help": "How the model calls tools: 'hermes', 'tags' ...; default: as its chat template does."},
    )
    sample_every: int = field(default=0, metadata={"help": "Print one episode every so many steps; 0 for never."})

    def weighted_envs(self) -> dict[str, float]:
        """Environment ids with their weights.

        Raises:
            ConfigError: There are none, one is named twice, or a weight is not a positive number.
        """
        weights: dict[str, float] = {}
        for entry in self.envs:
            env_id, separator, weight = entry.partition(":")
            if env_id in weights:
                raise ConfigError(f"--envs names {env_id!r} twice; give it one weight")
            try:
                weights[env_id] = float(weight) if separator else 1.0
            except ValueError:
                raise ConfigError(f"--envs {entry!r}: {weight!r} is not a number; write ID or ID:WEIGHT") from None
            if not weights[env_id] > 0:
                raise ConfigError(f"--envs {entry!r}: the weight must be positive")
        if not weights:
            raise ConfigError("no environment to train on; pass --envs toolrl/PythonMath-v0 ...")
        return weights

    def make_envs(self, split: str) -> dict[str, ToolEnv]:
        """Make the environments of a split.

        Raises:
            ConfigError: The settings are not JSON, name an environment that is not trained on, or do not fit.
            EnvironmentNotFound: An id is unknown.
        """
        settings = parse_env_settings(self.env_settings)
        weights = self.weighted_envs()
        if unknown := sorted(set(settings) - set(weights)):
            raise ConfigError(f"env_settings names {unknown[0]!r}, which is not among --envs {sorted(weights)}")
        return {env_id: make(env_id, **{"split": split, **settings.get(env_id, {})}) for env_id in weights}


def parse_env_settings(text: str | dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read `{"ID": {"setting": value}}`, given as JSON or (from YAML) as a mapping.

    Raises:
        ConfigError: It is something else.
    """
    try:
        settings = json.loads(text) if isinstance(text, str) else text
    except json.JSONDecodeError as error:
        raise ConfigError(f"env_settings is not valid JSON ({error}): {text!r}") from None
    if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
        raise ConfigError(f'env_settings must be like {{"toolrl/PythonMath-v0": {{"size": 500}}}}, got {text!r}')
    return settings
