"""A smolagents agent learns `toolrl/DocsCompute-v0` through the gateway. Needs smolagents (`make test-agents`).

The embedded policy does not know the agent's prompts, so it first sees some episodes in which the agent was answered by
the oracle (a warm start, as for any model that has never seen a format), and then trains by GRPO on what it samples
itself. Each step of the agent is a conversation of its own, since smolagents rewrites history; all are trained on.
SMOLAGENTS_SEEDS="0 1 2".
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tests.benchmarks.common import table
from tests.gateway import smol
from toolrl import Message, Renderer, RolloutRequest, SamplingParams, Task, ToolEnv, call, make
from toolrl.gateway import AgentProgram, ProgramEngine
from toolrl.policy import ScriptedPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.training import train
from toolrl.view.metrics import read_metrics

ENV = "toolrl/DocsCompute-v0"
SEEDS = [int(seed) for seed in os.environ.get("SMOLAGENTS_SEEDS", "0 1 2").split()]
DEMONSTRATIONS, PASSES, STEPS, EPISODES = 40, 5, 30, 64


def main() -> str:
    if importlib.util.find_spec("smolagents") is None:
        return "smolagents_training: smolagents is not installed; `make test-agents` installs it\n"
    rows = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(run(Path(folder), seed))
            print(rows[-1], flush=True)
    title = f"A smolagents agent on {ENV}: {STEPS} steps of {EPISODES} episodes after {DEMONSTRATIONS} demonstrations"
    columns = ["seed", "held-out success before [95 %]", "after [95 %]", "seconds a step", "conversations an episode"]
    return table(title, columns, rows)


def run(folder: Path, seed: int) -> list[Any]:
    start = folder / "start"
    warm_start(start, seed)
    train(
        ENV, str(start), console=Console(), output_dir=str(folder / "run"), agent=f"{smol.__file__}:play",
        max_steps=STEPS, num_generations=8, per_device_train_batch_size=EPISODES, max_completion_length=384,
        max_turn_tokens=96, temperature=0.6, learning_rate=2e-4, beta=0.0, loss_type="dapo", use_cpu=True, bf16=False,
        gradient_checkpointing=False, report_to="none", save_strategy="no", eval_tasks=100, logging_steps=1, seed=seed,
        task_seed=seed, warmup_steps=3,
    )  # fmt: skip
    report = json.loads((folder / "run" / "report.json").read_text())
    metrics = [row for row in read_metrics(folder / "run" / "metrics.jsonl") if "time/step" in row]
    seconds = sum(row["time/step"] for row in metrics) / len(metrics)
    branches = [json.loads(line) for line in (folder / "run" / "trajectories.jsonl").read_text().splitlines()]
    mean = sum(1 + len(json.loads(row["branches"])) for row in branches) / len(branches)

    def said(when: str) -> str:
        [found] = report[when].values()
        low, high = found["success_interval"]
        return f"{found['success']:.2f} [{low:.2f}, {high:.2f}]"

    return [seed, said("before"), said("after"), f"{seconds:.1f}", f"{mean:.1f}"]


def warm_start(folder: Path, seed: int) -> None:
    """Fine-tune the embedded policy on episodes in which the oracle answered the agent."""
    renderer = Renderer(load_tokenizer("tiny"))
    env = make(ENV, split="train", seed=seed)
    rows = [row for task in env.tasks.take(DEMONSTRATIONS) for row in demonstrated(env, task, renderer)]
    env.close()
    model: Any = load_model("tiny").train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4)
    rng = random.Random(seed)
    for _ in range(PASSES):
        rng.shuffle(rows)
        for first in range(0, len(rows), 16):
            some = rows[first : first + 16]
            width = max(len(prompt) + len(turn) for prompt, turn in some)
            ids = torch.tensor([[*p, *t, *[0] * (width - len(p) - len(t))] for p, t in some])
            labels = torch.tensor([[*[-100] * len(p), *t, *[-100] * (width - len(p) - len(t))] for p, t in some])
            mask = torch.tensor([[*[1] * (len(p) + len(t)), *[0] * (width - len(p) - len(t))] for p, t in some])
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        print(f"warm start: a pass over {len(rows)} turns of at most {width} tokens", flush=True)
    model.eval().save_pretrained(folder)
    renderer.tokenizer.save_pretrained(folder)


def demonstrated(env: ToolEnv, task: Task, renderer: Renderer) -> Iterator[tuple[list[int], list[int]]]:
    """The prompts that the agent sends, each with the oracle's turn."""
    *calls, last = env.oracle(task)
    answer = last.content.partition("<answer>")[2].partition("</answer>")[0]
    said: list[Message] = [*calls, call("final_answer", answer=answer)]
    turns = iter([renderer.assistant_ids(message) for message in said])
    policy = ScriptedPolicy(lambda ids: next(turns))  # in turn: the agent's steps are conversations of their own
    engine = ProgramEngine(AgentProgram(smol.play), policy, renderer, sampling=SamplingParams(0.0, 512), retries=0)
    (trajectory,) = engine.run([RolloutRequest(env, task, ENV, task.id)])
    engine.close()
    for part in (*trajectory.branches, trajectory):
        ids = list(part.prompt_ids)
        for turn in part.turns:
            yield list(ids), list(turn.sample.token_ids)
            ids += [*turn.sample.token_ids, *turn.observation_ids]
