"""Warm-starts the embedded policy on an environment it was not made for: `python -m toolrl.tiny.warm ENV FOLDER`.

Reinforcement learning needs some success to start from, and a model this small has none on questions in other words. It
is fitted to correct demonstrations, with names renamed in half of them, then to a few mediocre ones, as in
`toolrl.tiny.make`. The result knows the format and the skill, but not when or how to use it.
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
    env_settings: Annotated[str, typer.Option(help='Settings of the environment as JSON: {"ID": {"hops": 2}}.')] = "{}",
    worlds: Annotated[int, typer.Option(min=1, help="Seeds of the environment, each with an equal share.")] = 8,
    demonstrations: Annotated[int, typer.Option(min=1, help="Number of correct demonstrations.")] = 8000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the correct demonstrations.")] = 3,
    mediocre: Annotated[int, typer.Option(min=0, help="Number of mediocre demonstrations.")] = 1500,
    learning_rate: float = 2e-3,
    batch_tokens: int = 4096,
    seed: int = 0,
) -> None:
    """Fit the embedded policy to demonstrations of one environment."""
    torch.manual_seed(seed)
    try:
        settings = dict({env_id: {}, **json.loads(env_settings)}[env_id])
        if json.loads(env_settings).keys() - {env_id}:
            raise ValueError(f"only {env_id} is played")
    except (ValueError, TypeError) as error:
        example = f'{{"{env_id}": {{"hops": 2}}}}'
        raise ConfigError(f"env_settings must be like {example}, got {env_settings!r} ({error})") from None
    environments = [(env_id, make(env_id, **{"split": "train", **settings, "seed": seed + n})) for n in range(worlds)]
    tokenizer = AutoTokenizer.from_pretrained(PATH)
    renderer, model = Renderer(tokenizer), Qwen3ForCausalLM.from_pretrained(PATH, dtype="float32")

    print(f"playing {demonstrations} correct demonstrations", flush=True)
    skilled = demonstrate(environments, renderer, demonstrations, seed, skilled=True)
    rename = Renaming(tokenizer, frequent_tokens(skilled, tokenizer))
    rows = partial(rows_of_epoch, skilled, rename, 0.5, seed)
    fit(model, rows, epochs=epochs, learning_rate=learning_rate, batch_tokens=batch_tokens, seed=seed)
    if mediocre:
        played = demonstrate(environments, renderer, mediocre, seed + 1)
        correct = sum(bool(trajectory.score.success) for trajectory in played)
        print(f"{mediocre} mediocre demonstrations, {correct} of them correct", flush=True)
        drawn = [as_row(trajectory, observed=False) for trajectory in played]
        fit(model, lambda _: drawn, epochs=1, learning_rate=learning_rate / 3, batch_tokens=batch_tokens, seed=seed)

    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for _, env in environments:
        env.close()
    by_id = shlex.quote(json.dumps({env_id: settings}))
    print(f"to see what it can do: toolrl eval {env_id} --model {folder} --env_settings {by_id}")
    print(f"to train it: toolrl train --model_name_or_path {folder} --envs {env_id} --env_settings {by_id} ...")


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # holds for the process: such small numbers slow a CPU down
    disable_progress_bar()
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"error: {error}")
