"""toolrl's own training settings; TRL's `GRPOConfig`, `SFTConfig` and `ModelConfig` are used unchanged next to them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolrl.distributed import PoolSettings
from toolrl.env import ToolEnv, make
from toolrl.errors import ConfigError
from toolrl.gateway import AgentProgram, parse_agent
from toolrl.policy import PolicySettings
from toolrl.support.json_settings import parse_env_settings, parse_json
from toolrl.support.secret_values import expand
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS
from toolrl.training.credit import CreditSettings

# Mean difference between sampler and trainer that raises the alarm, in nats a token. An engine in float32 was
# at 1e-6, one in bfloat16 at 0.02 (docs/vllm.md).
MISMATCH_LIMIT = 0.1


def setting(default: Any, help: str) -> Any:
    """A field of a data class of settings, with its default and its help."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class RunArguments:
    """Settings of both `toolrl train` and `toolrl sft`."""

    chat_template: str = setting(
        "", "A chat template to use instead of the model's: the path of a Jinja file, or 'chatml', 'qwen2.5' ..."
    )
    tool_prompt: str = setting(
        "auto",
        "What shows the model its tools: its chat 'template', the 'system' message, or 'auto': the latter if the "
        "template leaves them out.",
    )
    dialect: str = setting("", "How the model calls tools: 'hermes', 'tags' ...; default: as its chat template does.")
    overwrite_output_dir: bool = setting(False, "Delete the results of an earlier run in output_dir, and start again.")
    check_memory: bool = setting(True, "Before training, compare the memory it takes with the memory that is free.")


@dataclass
class ToolrlArguments(RunArguments):
    """What to train on, and what to log. The names are the same in Python, in YAML and on the command line."""

    # ---- set these
    envs: list[str] = setting([], "Environments to train on, as ID, MODULE:ID or ID:WEIGHT, mixed by weight.")
    env_settings: str = setting("{}", 'Settings of the environments as JSON: {"toolrl/PythonMath-v0": {"size": 500}}.')
    eval_tasks: int = setting(100, "Held-out tasks per environment, before and after training and every --eval_steps.")
    eval_samples: int = setting(1, "Episodes per held-out task.")
    eval_alone: int = setting(
        0, "Of the held-out tasks of --eval_steps, how many are also played without tools: need, over-use, under-use."
    )
    patience: int = setting(0, "Stop after this many held-out evaluations (--eval_steps) without a gain; 0 for never.")
    dry_run: bool = setting(
        False, "Build everything, play a few episodes, print what a batch and the model need, and stop."
    )
    # ---- advanced
    task_seed: int = setting(0, "Seeds the choice and order of training tasks.")
    train_tasks: int = setting(0, "Training prompts per epoch; 0 for the number max_steps needs, else 1000.")
    refill: float = setting(
        0.0,
        "Groups whose episodes all have the same reward are dropped, and others are played in their place (dynamic "
        "sampling): at most this many times the groups of a batch.",
    )
    curriculum: bool = setting(
        False, "Draw tasks by what is known of their pass rate, so that most groups are neither hopeless nor solved."
    )
    max_staleness: int = setting(
        0,
        "Play on while the trainer steps: batches that a group may be behind when it is trained on. Needs a sampler of "
        "its own.",
    )
    max_turn_tokens: int = setting(512, "Sampled tokens per turn, within each environment's own limits.")
    concurrency: int = setting(256, "Episodes in flight per process.")
    retries: int = setting(2, "Further attempts after an infrastructure fault.")
    policy_timeout_seconds: float = setting(
        POLICY_TIMEOUT_SECONDS,
        "A sampler that samples nothing for this long, for any episode, has failed: its episodes are retried, then "
        "unscored. The time that one turn takes, or waits in a queue, does not matter.",
    )
    sampler: str = setting(
        "transformers",
        "What generates: 'transformers' (the trained model itself), 'vllm' (an engine in each process), or addresses "
        "of vLLM servers, separated by commas.",
    )
    weight_transfer: str = setting(
        "",
        "How weights travel to vLLM: 'file', 'ipc' (to an engine on the same GPU), 'nccl' (to servers). Default: "
        "'file' without a GPU, else 'ipc' or 'nccl'.",
    )
    engine_settings: str = setting(
        "{}", "Further settings of sampler 'vllm', by vLLM's names, as JSON: {\"max_num_seqs\": 128}."
    )
    generation_sequences: int = setting(
        0, "Sequences that transformers generates in one batch; 0 for the device's default."
    )
    agent: str = setting(
        "",
        "A program that plays the episodes, with the model behind a gateway: FILE.py:FUNCTION, or a command. See the "
        "guide to agents.",
    )
    agent_seconds: float = setting(600.0, "Longest run of such a program for an episode.")
    agent_sandbox: str = setting(
        "", "A folder: the command runs there in a sandbox, and reaches nothing but the model. Empty for no sandbox."
    )
    rollout_workers: int = setting(
        0, "Play on this many workers of a Ray cluster (for each process), each with a sampler of its own; 0 for none."
    )
    ray_address: str = setting(
        "local", "The cluster: 'auto' for the one that runs on this machine, HOST:PORT, or 'local' to start one."
    )
    worker_resources: str = setting(
        '{"CPU": 1}', 'What a worker takes, by Ray\'s names, as JSON: {"CPU": 4, "GPU": 1, "sandbox": 1}.'
    )
    worker_silence_seconds: float = setting(60.0, "A worker that does not answer for this long is replaced.")
    rollout_engines: int = setting(
        0, "Engines on the cluster that sample for all workers; 0 for a sampler in each worker."
    )
    engine_resources: str = setting('{"CPU": 1}', "What such an engine takes, as JSON.")
    services: str = setting(
        "{}",
        'Servers that the cluster offers to tools, as JSON: {"sandbox": {"count": 2}, "wiki": {"retriever": '
        '"bm25:wiki.jsonl", "resources": {"CPU": 4}}}.',
    )
    mismatch_limit: float = setting(
        MISMATCH_LIMIT,
        "Warn if sampler and trainer differ by more nats a token on average; 0 for never. The values are logged as "
        "mismatch/...",
    )
    credit: str = setting(
        "episode",
        "Which tokens earn a score: 'episode' (all alike, as TRL), 'loo' (all alike, against the other episodes of the "
        "group), 'turn' (each turn what was earned from it on, by the awards of turns).",
    )
    tool_cost: float = setting(
        0.0, "Share of a right answer's lead over wrong ones that needless tool calls can cost it, from 0 to 1."
    )
    length_cost: float = setting(0.0, "The same for sampled tokens.")
    stop_on_hack: bool = setting(
        False, "End training when a gold reward (ToolEnv(gold=)) falls while the reward rises; the alarm comes anyway."
    )
    sample_every: int = setting(
        0,
        "Print an episode every so many steps; 0 for never. Trackers (--report_to) get a table as often, or every 10.",
    )

    def sampler_settings(self) -> PolicySettings:
        """The sampler's settings.

        Raises:
            ConfigError: The sampler is unknown, or a setting belongs to another one.
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

    def pool_settings(self) -> PoolSettings | None:
        """The rollout workers, if there are any.

        Raises:
            ConfigError: A setting is wrong.
        """
        if not self.rollout_workers:
            return None
        if self.eval_alone:
            raise ConfigError(
                f"--eval_alone {self.eval_alone} changes environments, which workers make by their ids; set it to 0"
            )
        return PoolSettings.of(
            workers=self.rollout_workers,
            address=self.ray_address,
            resources=parse_json("worker_resources", self.worker_resources),
            concurrency=max(1, self.concurrency // self.rollout_workers),
            engines=self.rollout_engines,
            engine_resources=parse_json("engine_resources", self.engine_resources),
            services=parse_json("services", self.services),
            silence_seconds=self.worker_silence_seconds,
        )

    def agent_program(self) -> AgentProgram | None:
        """The program that plays, if there is one.

        Raises:
            ConfigError: It cannot be found, or is to play without tools too.
        """
        if not self.agent:
            return None
        if self.eval_alone:
            raise ConfigError("--agent plays as it is, with its tools; leave out eval_alone")
        return parse_agent(self.agent, seconds=self.agent_seconds, sandbox=self.agent_sandbox or None)

    def credit_settings(self) -> CreditSettings:
        """How scores become advantages.

        Raises:
            ConfigError: A value is not valid.
        """
        return CreditSettings(self.credit, self.tool_cost, self.length_cost)

    def weighted_envs(self) -> dict[str, float]:
        """Environment ids with their weights.

        Raises:
            ConfigError: There is no environment, one is named twice, or a weight is not a positive number.
        """
        weights: dict[str, float] = {}
        for entry in self.envs:
            # The name itself may have a colon: `my_env.py:Shopping:2`, `my_envs:mine/Shopping-v0`.
            env_id, _, weight = entry.rpartition(":")
            try:
                number = float("" if _ends_with_port(entry) else weight)
            except ValueError:
                if "://" not in entry and env_id and not env_id.endswith(".py") and "/" in env_id:
                    raise ConfigError(f"--envs {entry!r}: {weight!r} is not a number; write ID or ID:WEIGHT") from None
                env_id, number = entry, 1.0
            if env_id in weights:
                raise ConfigError(f"--envs names {env_id!r} twice; give it one weight")
            if not 0 < number < float("inf"):
                raise ConfigError(f"--envs {entry!r}: the weight must be a positive number")
            weights[env_id] = number
        if not weights:
            raise ConfigError("no environment to train on; pass --envs toolrl/PythonMath-v0 ...")
        return weights

    def make_envs(self, split: str, objects: Mapping[str, ToolEnv] | None = None) -> dict[str, ToolEnv]:
        """Make the environments of a split.

        Args:
            split: "train" or "test".
            objects: Environments by name that are there already; one that `make` made without a split is made again
                with this one, others are copied and their tasks divided.

        Raises:
            ConfigError: The settings are not JSON, name another environment, or are invalid.
            EnvironmentNotFound: An id is unknown.
        """
        env_ids = self.weighted_envs()
        settings = parse_env_settings(self.env_settings, env_ids)
        made = {}
        for env_id in env_ids:
            there = (objects or {}).get(env_id)
            if there is not None and there.made_from is None:
                if env_id in settings:
                    raise ConfigError(f"env_settings are for environments by name, and {env_id!r} is already made")
                made[env_id] = there.copy()
                made[env_id].keep_split(split)
                continue
            name, own = (env_id, {}) if there is None or there.made_from is None else there.made_from
            own = {key: value for key, value in own.items() if key != "split"}
            made[env_id] = make(name, **{"split": split, **own, **settings.get(env_id, {})})
        return made


def _ends_with_port(name: str) -> bool:
    """Whether the number at the end of an address is its port: `openenv:http://host:8000`, but not `...:8000:2`."""
    host = re.sub(r"\[.*?\]", "", name.partition("://")[2])
    return bool(host) and "/" not in host and host.count(":") < 2
