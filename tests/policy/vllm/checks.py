"""Compares a policy on vLLM with the same model in transformers, in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import torch
from transformers import PreTrainedModel

from tests.gateway.agents import play as agent
from toolrl import Renderer, RolloutRequest, make
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import Policy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.tiny import PATH
from toolrl.types import Sample, SamplingParams

# A mark: vLLM leaves contexts of ZeroMQ to the garbage collector.
UNCLOSED = "ignore:Unclosed context:ResourceWarning"
TOKENIZER = load_tokenizer("tiny")
STOPS = [int(TOKENIZER.eos_token_id)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=24)
PROMPTS = [TOKENIZER.encode(f"What is {i} plus {7 * i}? " * (1 + i % 3)) for i in range(12)]


def play(policy: Policy, prompts: list[list[int]], sampling: SamplingParams) -> list[Sample]:
    with policy.generating():
        return [future.result(timeout=100) for future in [policy.submit(ids, sampling) for ids in prompts]]


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: list[int], stops: list[int]) -> list[int]:
    prompt = torch.tensor([ids])
    generate: Any = model.generate  # transformers leaves it untyped
    out = generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=stops[0],
    )
    return out[0, len(ids) :].tolist()


@torch.no_grad()
def gap(model: PreTrainedModel, ids: list[int], sample: Sample, temperature: float) -> float:
    """The largest difference between a sample's logprobs and the model's."""
    logits = model(torch.tensor([ids + sample.token_ids])).logits[0, len(ids) - 1 : -1] / temperature
    own = logits.log_softmax(-1)[torch.arange(len(sample.token_ids)), sample.token_ids]
    return float((own - torch.tensor(sample.logprobs)).abs().max())


def assert_same_model(
    policy: Policy, model: PreTrainedModel, prompts: list[list[int]] = PROMPTS, stops: list[int] = STOPS
) -> None:
    """Greedy tokens are equal, and the logprobs of sampled ones within 1e-3."""
    for ids, sample in zip(prompts, play(policy, prompts, GREEDY), strict=True):
        assert sample.token_ids == greedy(model, ids, stops)
    for temperature in (0.6, 1.0):
        sampling = SamplingParams(temperature, max_tokens=24)
        for ids, sample in zip(prompts, play(policy, prompts, sampling), strict=True):
            assert gap(model, ids, sample, temperature) < 1e-3


def assert_agents_tokens_are_the_models(policy: Policy, model: PreTrainedModel) -> None:
    """What agents sample through the gateway has the model's logprobs, at its place in their conversations."""
    renderer = Renderer(TOKENIZER)
    env = make("toolrl/PythonMath-v0", split="test", size=40)
    with closing(ProgramEngine(AgentProgram(agent), policy, renderer, sampling=SamplingParams(0.6, 48))) as engine:
        trajectories = engine.run([RolloutRequest(env, task, "e", task.id) for task in env.tasks.take(12)])
    env.close()
    turns = 0
    for trajectory in trajectories:
        assert trajectory.score.value is not None, trajectory.error
        ids = list(trajectory.prompt_ids)
        for turn in trajectory.turns:
            assert gap(model, ids, turn.sample, 0.6) < 1e-3
            ids += [*turn.sample.token_ids, *turn.observation_ids]
            turns += 1
    assert turns > len(trajectories)


@torch.no_grad()
def step(model: PreTrainedModel, size: float = 0.02) -> None:
    """Change all weights, by more than an optimiser would."""
    for parameter in model.parameters():
        parameter.add_(size * torch.randn_like(parameter))


def connect(policy: Any, name: str = "tiny") -> PreTrainedModel:
    """Load a trainer's model and send the policy its weights."""
    model = load_model(name)
    policy.connect(lambda: iter(model.named_parameters()))
    policy.update_weights()
    return model


class RunningServer:
    """`vllm serve` of the embedded model on this machine, from `start` on."""

    def __init__(self, folder: Path, *arguments: str, takes_weights: bool = True):
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"server-{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(PATH)]
        self._command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 28)]
        self._command += ["--generation-config", "vllm", *(arguments or ("--logprobs-mode", "processed_logprobs"))]
        self._environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if takes_weights:
            self._environment["VLLM_SERVER_DEV_MODE"] = "1"
            self._command += ["--weight-transfer-config", '{"backend": "file"}']

    def start(self) -> RunningServer:
        """Start it; it answers some time later."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        return self

    def wait(self) -> RunningServer:
        """Wait until it answers."""
        assert self._process is not None
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            time.sleep(0.3)
        return self

    def kill(self) -> None:
        """Kill all of its processes at once, if it runs."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


def processes_of(pid: int) -> Iterator[int]:
    """The ids of all descendants of a process."""
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for entry in child.read_text().split():
            yield int(entry)
            yield from processes_of(int(entry))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
