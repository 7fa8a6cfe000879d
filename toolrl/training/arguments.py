"""toolrl's own training settings; TRL's `GRPOConfig` and `ModelConfig` stand beside them unchanged."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError
from toolrl.policy import PolicySettings
from toolrl.support.secret_values import expand
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS

# Mean difference between sampler and trainer that raises the alarm, in nats a token. An engine in float32 was
# at 1e-6, one in bfloat16 at 0.02 (docs/vllm.md).
MISMATCH_LIMIT = 0.1


@dataclass
class ToolrlArguments:
    """What to train on, and what to write down. The same names in Python, YAML and on the command line."""

    # ---- set these
    envs: list[str] = field(
        default_factory=list,
        metadata={"help": "Environments to train on, as ID, MODULE:ID or ID:WEIGHT, mixed by weight."},
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
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Delete what an earlier run left in output_dir, and start afresh."}
    )
    # ---- advanced
    check_memory: bool = field(
        default=True, metadata={"help": "Compare what training takes of memory with what is free, before it starts."}
    )
    task_seed: int = field(default=0, metadata={"help": "Seeds the choice and order of training tasks."})
    train_tasks: int = field(
        default=0, metadata={"help": "Training prompts per epoch; 0 for as many as max_steps needs, else 1000."}
    )
    max_turn_tokens: int = field(
        default=512, metadata={"help": "Sampled tokens per turn, within each environment's own limits."}
    )
    concurrency: int = field(default=256, metadata={"help": "Episodes in flight per process."})
    retries: int = field(default=2, metadata={"help": "Further attempts after an infrastructure fault."})
    policy_timeout_seconds: float = field(
        default=POLICY_TIMEOUT_SECONDS,
        metadata={
            "help": "A sampler that samples nothing for so long, for any episode, is a fault: its episodes are "
            "retried, then unscored. How long one turn takes, or waits in a queue, does not matter."
        },
    )
    sampler: str = field(
        default="transformers",
        metadata={
            "help": "What generates: 'transformers' (the trained model itself), 'vllm' (an engine of each process's "
            "own), or addresses of vLLM servers, separated by commas."
        },
    )
    weight_transfer: str = field(
        default="",
        metadata={
            "help": "How weights travel to vLLM: 'file', 'ipc' (to an engine on the same GPU), 'nccl' (to servers). "
            "Default: 'file' without a GPU, else 'ipc' and 'nccl'."
        },
    )
    engine_settings: str = field(
        default="{}",
        metadata={"help": "Further settings of sampler 'vllm', by vLLM's names, as JSON: {\"max_num_seqs\": 128}."},
    )
    generation_sequences: int = field(
        default=0, metadata={"help": "Sequences that transformers generates together; 0 for the device's default."}
    )
    mismatch_limit: float = field(
        default=MISMATCH_LIMIT,
        metadata={
            "help": "Warn when sampler and trainer differ by more nats a token in the mean; 0 for never. "
            "The numbers are logged as mismatch/..."
        },
    )
    chat_template: str = field(
        default="", metadata={"help": "Path of a Jinja chat template to use in place of the model's."}
    )
    dialect: str = field(
        default="",
        metadata={"help": "How the model calls tools: 'hermes', 'tags' ...; default: as its chat template does."},
    )
    sample_every: int = field(default=0, metadata={"help": "Print one episode every so many steps; 0 for never."})

    def sampler_settings(self) -> PolicySettings:
        """What generates.

        Raises:
            ConfigError: There is no such sampler, or settings are for another one.
        """
        engine = parse_json("engine_settings", self.engine_settings)
        if not isinstance(engine, dict):
            raise ConfigError(f'engine_settings must be like {{"max_num_seqs": 128}}, got a {type(engine).__name__}')
        transfer: Any = self.weight_transfer or None
        return PolicySettings(
            sampler=expand(self.sampler),
            transfer=transfer,
            sequences=self.generation_sequences or None,
            engine=engine,
        )

    def weighted_envs(self) -> dict[str, float]:
        """Environment ids with their weights.

        Raises:
            ConfigError: There are none, one is named twice, or a weight is not a positive number.
        """
        weights: dict[str, float] = {}
        for entry in self.envs:
            # The id itself may name its module: `my_envs:mine/Shopping-v0:2`.
            env_id, _, weight = entry.rpartition(":")
            try:
                number = float(weight)
            except ValueError:
                if "/" not in env_id:  # a module, or nothing
                    env_id, number = entry, 1.0
                else:
                    raise ConfigError(f"--envs {entry!r}: {weight!r} is not a number; write ID or ID:WEIGHT") from None
            if env_id in weights:
                raise ConfigError(f"--envs names {env_id!r} twice; give it one weight")
            if not 0 < number < float("inf"):
                raise ConfigError(f"--envs {entry!r}: the weight must be a positive number")
            weights[env_id] = number
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
    settings = parse_json("env_settings", text)
    if not isinstance(settings, dict) or not all(isinstance(value, dict) for value in settings.values()):
        shape = type(settings).__name__
        if isinstance(settings, dict):
            env_id = next(key for key, value in settings.items() if not isinstance(value, dict))
            shape = f"{type(settings[env_id]).__name__} for {env_id!r}"
        raise ConfigError(f'env_settings must be like {{"toolrl/PythonMath-v0": {{"size": 500}}}}, got {shape}')
    return settings


def parse_json(name: str, text: str | dict[str, Any]) -> Any:
    """A setting given as JSON or (from YAML) as a mapping; environment variables that it names are looked up.

    Raises:
        ConfigError: It is not JSON, or a variable is not set. The text, which may hold a secret, is not repeated.
    """
    try:
        return expand(json.loads(text) if isinstance(text, str) else text)
    except ValueError as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f'{name} is not valid JSON: {error}; quote names and texts with ""') from None
