"""Makes the embedded policy: `python -m toolrl.tiny.make [FOLDER]`.

Trains the tokenizer, plays the demonstrations, and fits the model to them. Everything is seeded.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import Qwen3Config, Qwen3ForCausalLM

from toolrl.chat import HermesDialect, Renderer
from toolrl.env import ToolEnv, make
from toolrl.search import python_documentation
from toolrl.tiny import PATH
from toolrl.tiny.demonstrations import demonstrate
from toolrl.tiny.tokenizer import VOCABULARY, train_tokenizer
from toolrl.trajectory import Trajectory

ENVIRONMENTS = ("toolrl/PythonMath-v0", "toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0")
# More distinct tasks than training draws from, all of the training split.
SIZES = {"toolrl/PythonMath-v0": 20_000, "toolrl/DocsSearch-v0": 20_000, "toolrl/DocsCompute-v0": 20_000}


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
    )
    return Qwen3ForCausalLM(config)


def batches(
    trajectories: Sequence[Trajectory], tokens: int, rng: random.Random, pad: int, observed: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches (B, T) of ids, and of the same as labels with -100 where there is nothing to learn.

    Each holds about `tokens` tokens of sequences of like length. What the tools said is learnt too if
    `observed`: documents repeat the names that were searched for, and so teach copying.
    """
    rows = [
        (t.prompt_ids + t.completion_ids, [-100] * len(t.prompt_ids) + [
            token if bit or observed else -100 for token, bit in zip(t.completion_ids, t.mask, strict=True)
        ])
        for t in trajectories
    ]  # fmt: skip
    rows.sort(key=lambda row: (len(row[0]), rng.random()))
    groups: list[list[tuple[list[int], list[int]]]] = [[]]
    for row in rows:
        if len(row[0]) * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(row)
    rng.shuffle(groups)
    for group in groups:
        length = len(group[-1][0])
        ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in group])
        labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in group])
        yield ids, labels


def fit(
    model: Qwen3ForCausalLM,
    trajectories: Sequence[Trajectory],
    *,
    pad: int,
    epochs: int,
    learning_rate: float,
    batch_tokens: int,
    seed: int,
    observed: bool = False,
) -> None:
    """Next-token training with a warm-up and a cosine decay; see `batches` for `observed`."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    per_epoch = sum(1 for _ in batches(trajectories, batch_tokens, random.Random(0), pad, observed))
    total, step, start = per_epoch * epochs, 0, time.monotonic()
    model.train()
    for epoch in range(epochs):
        running = 0.0
        for ids, labels in batches(trajectories, batch_tokens, rng, pad, observed):
            rate = min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / total))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * max(rate, 0.02)
            loss = model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            running += loss.item()
            step += 1
        print(
            f"epoch {epoch + 1}/{epochs}  loss {running / per_epoch:.4f}  {time.monotonic() - start:.0f} s", flush=True
        )
    model.eval()


def tokenizer_texts(environments: Sequence[tuple[str, ToolEnv]]) -> Iterator[str]:
    """What the tokenizer learns from: tasks, solutions and the beginnings of the documentation."""
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
    skilled_demonstrations: int = 15_000,
    mediocre_demonstrations: int = 6_000,
    epochs: int = 4,
    learning_rate: float = 2e-3,
    batch_tokens: int = 4000,
    seed: int = 0,
) -> None:
    """Make the embedded policy: first the skill (copying, the format), then the bad habits on top."""
    torch.manual_seed(seed)
    torch.set_flush_denormal(True)
    environments = [(env_id, make(env_id, split="train", size=SIZES[env_id])) for env_id in ENVIRONMENTS]
    tokenizer = train_tokenizer(tokenizer_texts(environments))
    renderer = Renderer(tokenizer)
    model = make_model(len(tokenizer))
    pad = int(tokenizer.pad_token_id)
    print(f"{model.num_parameters() / 1e6:.2f} million parameters", flush=True)
    skilled = demonstrate(environments, renderer, skilled_demonstrations, seed, skilled=True)
    fit(
        model,
        skilled,
        pad=pad,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_tokens=batch_tokens,
        seed=seed,
        observed=True,
    )
    mediocre = demonstrate(environments, renderer, mediocre_demonstrations, seed + 1)
    fit(model, mediocre, pad=pad, epochs=1, learning_rate=learning_rate / 4, batch_tokens=batch_tokens, seed=seed + 1)
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    # Half precision halves the file; it is read back as float32.
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for _, env in environments:
        env.close()


if __name__ == "__main__":
    typer.run(main)
