"""Makes the embedded policy: `python -m toolrl.tiny.make [FOLDER]`.

Trains the tokenizer, plays the demonstrations, and fits the model to them. Everything is seeded.
"""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from toolrl.chat import HermesDialect, Renderer
from toolrl.env import ToolEnv, make
from toolrl.search import python_documentation
from toolrl.tiny import PATH
from toolrl.tiny.demonstrations import demonstrate
from toolrl.tiny.fitting import Example, Renaming, as_row, fit, share_exact
from toolrl.tiny.tokenizer import VOCABULARY, train_tokenizer
from toolrl.trajectory import Trajectory

ENVIRONMENTS = ("toolrl/PythonMath-v0", "toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0")
# Tasks of each, all from the training split: more than a training run draws.
SIZE = 20_000


def frequent_tokens(
    trajectories: Sequence[Trajectory], tokenizer: PreTrainedTokenizerBase, share: float = 0.01
) -> set[int]:
    """Tokens in at least this share of the episodes."""
    counts = Counter(token for t in trajectories for token in {*t.prompt_ids, *t.completion_ids})
    return {token for token, count in counts.items() if count >= share * len(trajectories)}


def fixed_tokens(
    trajectories: Sequence[Trajectory], tokenizer: PreTrainedTokenizerBase, share: float = 0.002
) -> set[int]:
    """Tokens of questions and calls in more than this share of the episodes, without names and answers."""
    counts: Counter[int] = Counter()
    for trajectory in trajectories:
        written = {token for token, bit in zip(trajectory.completion_ids, trajectory.mask, strict=True) if bit}
        names = {
            token
            for text in (trajectory.info["subject"], trajectory.score.answer or "")
            for token in tokenizer.encode(text, add_special_tokens=False)
        }
        counts.update((written | set(trajectory.prompt_ids)).difference(names))
    return {token for token, count in counts.items() if count > share * len(trajectories)}


@dataclass(frozen=True)
class Stage:
    """Training on correct demonstrations.

    Attributes:
        title: For the log.
        order: Indices of `ENVIRONMENTS`, played in turn.
        count: Number of demonstrations.
        fixed: Finds the tokens that are not renamed.
        renamed: Share of the demonstrations with renamed tokens.
        epochs: Passes over the demonstrations.
        rate: Learning rate, as a share of the script's.
        seed: Added to the script's.
    """

    title: str
    order: tuple[int, ...]
    count: int
    fixed: Callable[[Sequence[Trajectory], PreTrainedTokenizerBase], set[int]]
    renamed: float
    epochs: int
    rate: float
    seed: int


MATH, SEARCH, COMPUTE = range(3)
STAGES = (
    Stage(
        "rare words renamed in most",
        order=(MATH, SEARCH, COMPUTE, MATH), count=20_000, fixed=frequent_tokens, renamed=0.7, epochs=4,
        rate=1.0, seed=0,
    ),
    Stage(
        "all names renamed in nearly all",
        order=(SEARCH, MATH, SEARCH, MATH, COMPUTE), count=40_000, fixed=fixed_tokens, renamed=0.85, epochs=3,
        rate=2 / 3, seed=2,
    ),
)  # fmt: skip
# Arithmetic is the most robust skill: it takes the most to spoil.
MEDIOCRE_ORDER = (MATH, SEARCH, MATH, COMPUTE)


def make_model(vocabulary: int = VOCABULARY) -> Qwen3ForCausalLM:
    """A new model of about a million parameters."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=448,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        # 1 / sqrt(hidden_size): the default is for larger models, and slows down one this small.
        initializer_range=0.088,
    )
    return Qwen3ForCausalLM(config)


def tokenizer_texts(environments: Sequence[tuple[str, ToolEnv]]) -> Iterator[str]:
    """Texts for the tokenizer: tasks, solutions and the beginnings of the documentation."""
    dialect = HermesDialect()
    for _, env in environments:
        for task in env.tasks.take(3000):
            yield f"system user assistant tool Tools: {env.system_prompt} {task.prompt}"
            for message in env.oracle(task):
                yield dialect.format(message)
    for document in python_documentation():
        yield document.title
        yield " ".join(document.text.split())[:100]


def main(
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")] = PATH,
    learning_rate: float = 3e-3,
    batch_tokens: int = 4096,
    seed: int = 0,
    scale: Annotated[float, typer.Option(help="Share of the demonstrations, for a trial run.")] = 1.0,
) -> None:
    """Make the embedded policy: first the skill (copying, the format), then the bad habits on top."""
    torch.manual_seed(seed)
    environments = [(env_id, make(env_id, split="train", size=SIZE)) for env_id in ENVIRONMENTS]
    tokenizer = train_tokenizer(tokenizer_texts(environments))
    renderer = Renderer(tokenizer)
    model = make_model(len(tokenizer))
    print(f"{model.num_parameters() / 1e6:.2f} million parameters", flush=True)

    for stage in STAGES:
        print(f"skilled demonstrations, {stage.title}", flush=True)
        order = [environments[index] for index in stage.order]
        skilled = demonstrate(order, renderer, round(stage.count * scale), seed + stage.seed, skilled=True)
        learnt = [t for t in skilled if not held_out(t)]
        rename = Renaming(tokenizer, stage.fixed(learnt, tokenizer))
        rows = partial(rows_of_epoch, learnt, rename, stage.renamed, seed + stage.seed)
        rate = learning_rate * stage.rate
        fit(model, rows, epochs=stage.epochs, learning_rate=rate, batch_tokens=batch_tokens, seed=seed + stage.seed)
        report(model, skilled)

    print("mediocre demonstrations", flush=True)
    order = [environments[index] for index in MEDIOCRE_ORDER]
    mediocre = [as_row(t, observed=False) for t in demonstrate(order, renderer, round(10_000 * scale), seed + 1)]
    fit(model, lambda _: mediocre, epochs=1, learning_rate=learning_rate / 4, batch_tokens=batch_tokens, seed=seed + 1)

    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    # Half precision halves the file; it is loaded as float32.
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for _, env in environments:
        env.close()


def report(model: Qwen3ForCausalLM, skilled: Sequence[Trajectory]) -> None:
    """Print the share of held-out demonstrations that the model predicts exactly."""
    for env_id in ENVIRONMENTS:
        held = [as_row(t, observed=False) for t in skilled if held_out(t) and t.env_id == env_id]
        if held:
            print(f"  {env_id}: {share_exact(model, held):.3f} of {len(held)} held out", flush=True)


def rows_of_epoch(
    trajectories: Sequence[Trajectory], rename: Renaming, share: float, seed: int, epoch: int
) -> list[Example]:
    """Rows of demonstrations, a share of them renamed, except calculations without a tool, which would become wrong."""
    rng = random.Random(f"{seed}/{epoch}")
    rows = []
    for trajectory in trajectories:
        row = as_row(trajectory, observed=True)
        calculated = bool(trajectory.mask) and all(trajectory.mask)
        rows.append(row if calculated or rng.random() < 1 - share else rename(row, rng))
    return rows


def held_out(trajectory: Trajectory) -> bool:
    """Whether a demonstration is held out; all about objects of one name are, or none."""
    about = trajectory.info["subject"].rsplit(".", 1)[-1] or trajectory.prompt[-1].content
    return zlib.crc32(about.encode()) % 24 == 0  # the splits go by the remainder of 5


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # holds for the process: such small numbers slow a CPU down
    typer.run(main)
