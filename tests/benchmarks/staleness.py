"""Seconds of a training step with vLLM and long-tailed tools: staleness 0, 1 and 2, and TRL's loop. Needs .venv-vllm.

The embedded policy learns `toolrl/DocsSearch-v0`, whose tool is made to take 20 ms to 2 s. All runs have the same
engine on the same cores, tasks, settings and number of steps; TRL's is its `GRPOTrainer(tools=[...])`, whose turns are
generated and whose weights are sent as ours are, and which takes fewer steps. STALENESS_SEEDS="0 1 2".
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import gymnasium
from rich.console import Console

from tests.benchmarks.common import Clock, table
from toolrl import Limits, Renderer, SamplingParams, ToolEnv
from toolrl.policy import VLLMPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.policy.settings import TINY_PATH
from toolrl.rewards import answer_reward
from toolrl.search import open_retriever
from toolrl.tools.search import format_documents
from toolrl.training.run import parse_arguments, run_training
from toolrl.training.trainer import TrainerWeights
from toolrl.view.metrics import read_metrics
from toolrl_envs.common import CALL_COST, PYTHON_DOCS, SYSTEM_PROMPT, Split
from toolrl_envs.docs_search.env import make_tasks, same_text
from toolrl_envs.docs_search.facts import RESULTS, SNIPPET_CHARACTERS

ENV_ID = "tests/SlowSearch-v0"
SEEDS = [int(seed) for seed in os.environ.get("STALENESS_SEEDS", "0 1 2").split()]
STEPS, TRL_STEPS, WARM = 30, 6, 2  # the first steps, in which engines warm up, are not timed
EPISODES, GROUP, TURN, COMPLETION, TEMPERATURE = 64, 8, 64, 256, 0.6
SETTINGS = [
    "--model_name_or_path=tiny", "--envs", ENV_ID, f"--num_generations={GROUP}",
    f"--per_device_train_batch_size={EPISODES}", f"--max_turn_tokens={TURN}", f"--max_completion_length={COMPLETION}",
    "--learning_rate=5e-4", f"--temperature={TEMPERATURE}", "--warmup_steps=3", "--beta=0", "--loss_type=dapo",
    "--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false", "--logging_steps=1", "--save_strategy=no",
    "--report_to=none", "--overwrite_output_dir=true", "--sampler=vllm",
]  # fmt: skip


def seconds(rng: random.Random) -> float:
    """What a call takes."""
    return min(2.0, 0.02 * rng.paretovariate(0.9))


def make_tool(rng: random.Random) -> Callable[[str], str]:
    """The search tool of `toolrl/DocsSearch-v0`, but slow."""
    retriever = open_retriever(PYTHON_DOCS)

    def search(query: str) -> str:
        """Search the documents and return the best matches.

        Args:
            query: A few keywords.
        """
        time.sleep(seconds(rng))
        return format_documents(retriever.search(query, RESULTS), SNIPPET_CHARACTERS)

    return search


def make_env(split: Split = "train") -> ToolEnv:
    return ToolEnv(
        tasks=make_tasks(split, 2000, 0),
        tools=[make_tool(random.Random(split))],
        reward=answer_reward(same_text, call_cost=CALL_COST),
        system_prompt=SYSTEM_PROMPT,
        limits=Limits(turns=4, tool_calls=4, completion_tokens=640),
    )


def main() -> str:
    if importlib.util.find_spec("vllm") is None:
        return "staleness: vLLM is not installed here; make test-vllm sets up .venv-vllm, which has it\n"
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if ENV_ID not in gymnasium.registry:
        gymnasium.register(ENV_ID, entry_point=make_env)  # type: ignore[arg-type]
    rows: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in SEEDS:
            runs = [ours(Path(folder), seed, staleness) for staleness in (0, 1, 2)]
            runs.append(["TRL's loop", seed, trl_step(seed), "-", "-"])
            rows += [[*row[:2], f"{row[2]:.2f} s", f"{row[2] / runs[0][2]:.2f}", *row[3:]] for row in runs]
            print(rows[-4:], flush=True)
    title = f"vLLM on a CPU, long-tailed tools, {EPISODES} episodes a step, {STEPS} steps"
    columns = ["staleness", "seed", "a step, mean", "of staleness 0", "mean staleness", "held-out success [95 %]"]
    return table(title, columns, rows)


def ours(folder: Path, seed: int, staleness: int) -> list[Any]:
    """Seconds of a step, the mean staleness of its episodes, and what was learnt."""
    own = folder / f"{seed}-{staleness}"
    flags = [f"--max_steps={STEPS}", f"--seed={seed}", f"--task_seed={seed}", f"--max_staleness={staleness}"]
    run_training(
        *parse_arguments([*SETTINGS, *flags, "--eval_tasks=200", f"--output_dir={own}"]), console=Console(quiet=True)
    )
    rows = [row for row in read_metrics(own / "metrics.jsonl") if "time/step" in row][WARM:]
    [after] = json.loads((own / "report.json").read_text())["after"].values()
    low, high = after["success_interval"]
    learnt = f"{after['success']:.2f} [{low:.2f}, {high:.2f}]"
    age = fmean(row.get("staleness/mean", 0.0) for row in rows)
    return [staleness, seed, fmean(row["time/step"] for row in rows), f"{age:.2f}", learnt]


def trl_step(seed: int) -> float:
    """Seconds of a step of TRL's trainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]
    from trl.chat_template_utils import qwen3_template

    tokenizer, clock = load_tokenizer("tiny"), Clock()
    tokenizer.response_template = qwen3_template  # the embedded policy writes calls as Qwen does
    renderer = Renderer(tokenizer)
    system = {"role": "system", "content": SYSTEM_PROMPT}
    rows = [{"prompt": [system, {"role": "user", "content": task.prompt}], "answer": task.answer}
            for task in make_tasks("train", 2000, 0)]  # fmt: skip

    def reward(completions: Sequence[Any], answer: Sequence[str], **_: Any) -> list[float | None]:
        pairs = zip(completions, answer, strict=True)
        return [float(expected in (said[-1].get("content") or "")) for said, expected in pairs]

    with tempfile.TemporaryDirectory() as folder:
        trainer: Any = GRPOTrainer(
            model=load_model("tiny"),
            reward_funcs=reward,
            args=GRPOConfig(
                folder, per_device_train_batch_size=EPISODES, num_generations=GROUP, max_steps=TRL_STEPS, seed=seed,
                max_completion_length=COMPLETION, learning_rate=5e-4, temperature=TEMPERATURE, beta=0.0,
                loss_type="dapo", use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none",
                save_strategy="no", disable_tqdm=True, max_tool_calling_iterations=4,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            tools=[make_tool(random.Random(seed))],
            callbacks=[clock],
        )  # fmt: skip
        policy = VLLMPolicy(str(TINY_PATH), stop_token_ids=renderer.stop_token_ids)
        try:
            policy.connect(TrainerWeights(trainer))
            generate = trainer._generate

            def turn(prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list[list[int]], list[list[float]]]:
                sampling = SamplingParams(temperature=TEMPERATURE, max_tokens=TURN)
                turns = [policy.submit(ids, sampling) for ids in prompt_ids]
                samples = [turn.result() for turn in turns]
                return [sample.token_ids for sample in samples], [sample.logprobs for sample in samples]

            def rollout(prompts: list[Any]) -> Any:
                policy.update_weights()
                with policy.generating():
                    return generate(prompts)

            trainer._generate_single_turn, trainer._generate = turn, rollout
            trainer.train()
        finally:
            policy.close()
    gaps = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    return fmean(gaps[WARM - 1 :])
