"""Warm-starts the embedded policy on an environment it was not made for: `python -m toolrl.tiny.warm ENV FOLDER`.

Reinforcement learning needs some success to begin with, and a model this small has none on questions in other words.
First it is fitted to right demonstrations, names renamed in half of them, then to a few mediocre ones, as in
`toolrl.tiny.make`: what comes out knows the format and the skill, not when or how to use it.
"""

from __future__ import annotations

import json
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoTokenizer, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from toolrl.chat import Renderer
from toolrl.env import make
from toolrl.errors import ConfigError, UserError
from toolrl.tiny import PATH
from toolrl.tiny.demonstrations import demonstrate
from toolrl.tiny.fitting import Renaming, as_row, fit
from toolrl.tiny.make import frequent_tokens, rows_of_epoch


def main(
    env_id: Annotated[str, typer.Argument(metavar="ENV", help="An environment with an oracle.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the model.")],
    settings: Annotated[str, typer.Option(help='JSON: {"setting": value}.')] = "{}",
    worlds: Annotated[int, typer.Option(min=1, help="Seeds of the environment, each with an equal share.")] = 8,
    demonstrations: Annotated[int, typer.Option(min=1, help="Right ones.")] = 8000,
    epochs: Annotated[int, typer.Option(min=1, help="Over the right ones.")] = 3,
    mediocre: Annotated[int, typer.Option(min=0, help="Mediocre ones.")] = 1500,
    learning_rate: float = 2e-3,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> None:
    """Fit the embedded policy to demonstrations of one environment."""
    torch.manual_seed(seed)
    try:
        chosen = dict(json.loads(settings))
    except (ValueError, TypeError) as error:
        raise ConfigError(f'settings must be like {{"hops": 2}}, got {settings!r} ({error})') from None
    environments = [(env_id, make(env_id, **{"split": "train", **chosen, "seed": seed + n})) for n in range(worlds)]
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    renderer, model = Renderer(tokenizer), Qwen3ForCausalLM.from_pretrained(PATH, dtype="float32")

    print(f"playing {demonstrations} right demonstrations", flush=True)
    skilled = demonstrate(environments, renderer, demonstrations, seed, skilled=True)
    rename = Renaming(tokenizer, frequent_tokens(skilled, tokenizer))
    rows = partial(rows_of_epoch, skilled, rename, 0.5, seed)
    fit(model, rows, epochs=epochs, learning_rate=learning_rate, batch_tokens=batch_tokens, seed=seed)
    if mediocre:
        played = demonstrate(environments, renderer, mediocre, seed + 1)
        right = sum(bool(trajectory.score.success) for trajectory in played)
        print(f"{mediocre} mediocre demonstrations, {right} of them right", flush=True)
        drawn = [as_row(trajectory, observed=False) for trajectory in played]
        fit(model, lambda _: drawn, epochs=1, learning_rate=learning_rate / 3, batch_tokens=batch_tokens, seed=seed)

    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for _, env in environments:
        env.close()
    by_id = shlex.quote(json.dumps({env_id: chosen}))
    print(f"to see what it can do: toolrl eval {env_id} --model {folder} --env-settings {by_id}")
    print(f"to train it: toolrl train --model_name_or_path {folder} --envs {env_id} --env_settings {by_id} ...")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # holds for the process: numbers that small slow a CPU down
    disable_progress_bar()
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"error: {error}")
