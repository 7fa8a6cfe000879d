"""What a policy on vLLM is compared with: the same model in transformers, in this process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import torch
from transformers import PreTrainedModel

from toolrl.models import load_tokenizer
from toolrl.policy import Policy
from toolrl.tiny import PATH
from toolrl.types import Sample, Sampling

TOKENIZER = load_tokenizer("tiny")
STOPS = [int(TOKENIZER.eos_token_id)]
GREEDY = Sampling(temperature=0.0, max_tokens=24)
PROMPTS = [TOKENIZER.encode(f"What is {i} plus {7 * i}? " * (1 + i % 3)) for i in range(12)]


def play(policy: Policy, prompts: list[list[int]], sampling: Sampling) -> list[Sample]:
    with policy.generating():
        return [future.result(timeout=100) for future in [policy.submit(ids, sampling) for ids in prompts]]


@torch.no_grad()
def greedy(model: PreTrainedModel, ids: list[int]) -> list[int]:
    prompt = torch.tensor([ids])
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        eos_token_id=STOPS,
        pad_token_id=STOPS[0],
    )
    return out[0, len(ids) :].tolist()


@torch.no_grad()
def gap(model: PreTrainedModel, ids: list[int], sample: Sample, temperature: float) -> float:
    """The largest difference between the logprobs of a sample and the model's."""
    logits = model(torch.tensor([ids + sample.token_ids])).logits[0, len(ids) - 1 : -1] / temperature
    own = logits.log_softmax(-1)[torch.arange(len(sample.token_ids)), sample.token_ids]
    return float((own - torch.tensor(sample.logprobs)).abs().max())


def assert_same_model(policy: Policy, model: PreTrainedModel) -> None:
    """Greedy tokens are equal, and the logprobs of sampled ones within 1e-3."""
    for ids, sample in zip(PROMPTS, play(policy, PROMPTS, GREEDY), strict=True):
        assert sample.token_ids == greedy(model, ids)
    for temperature in (0.6, 1.0):
        sampling = Sampling(temperature, max_tokens=24)
        for ids, sample in zip(PROMPTS, play(policy, PROMPTS, sampling), strict=True):
            assert gap(model, ids, sample, temperature) < 1e-3


@torch.no_grad()
def step(model: PreTrainedModel) -> None:
    """Change all weights, as an optimiser would, only more."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))


class RunningServer:
    """`vllm serve` of the embedded model on this machine."""

    def __init__(self, folder: Path, *arguments: str, port: int = 0, takes_weights: bool = True):
        self.port = port or _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = (folder / f"server-{self.port}").open("a")
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(PATH)]
        command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 28)]
        command += ["--generation-config", "vllm", *(arguments or ("--logprobs-mode", "processed_logprobs"))]
        environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
        if takes_weights:
            environment["VLLM_SERVER_DEV_MODE"] = "1"
            command += ["--weight-transfer-config", '{"backend": "file"}']
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env=environment, start_new_session=True
        )

    def wait(self) -> RunningServer:
        """Until it answers."""
        while not self._answers():
            assert self._process.poll() is None, Path(self._log.name).read_text()[-3000:]
            time.sleep(0.3)
        return self

    def kill(self) -> None:
        """End all of its processes at once."""
        os.killpg(self._process.pid, 9)
        self._process.wait()
        self._log.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


def processes_of(pid: int) -> Iterator[int]:
    """The children of a process, and theirs."""
    for child in Path(f"/proc/{pid}/task").glob("*/children"):
        for entry in child.read_text().split():
            yield int(entry)
            yield from processes_of(int(entry))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
