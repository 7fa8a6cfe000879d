"""Checkpoints to go on from: the newest, and only if nothing of it is missing."""

from __future__ import annotations

import json
import os
import time
import zipfile
from pathlib import Path
from typing import Any

import transformers
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from toolrl.errors import ConfigError

# When a checkpoint was made: a file's own time is lost when it is copied.
STAMP = "toolrl.json"
WEIGHTS = ("model", "adapter_model")
INDEX = ".safetensors.index.json"


class StampCallback(TrainerCallback):
    """Writes the time into each checkpoint."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each checkpoint."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / STAMP).write_text(json.dumps({"time": time.time()}))


def find_checkpoint(args: transformers.TrainingArguments) -> Path | None:
    """The checkpoint to resume from: a path, or `true` for the newest whole one in `output_dir`.

    Raises:
        ConfigError: There is none, or the one asked for lacks something.
    """
    wanted = str(args.resume_from_checkpoint or "")
    if wanted.lower() in ("", "false", "none"):
        return None
    if wanted.lower() != "true":
        if problem := what_is_missing(Path(wanted), args.world_size):
            raise ConfigError(f"--resume_from_checkpoint: {wanted!r} cannot be gone on from: {problem}")
        return Path(wanted)
    found = [path for path in Path(str(args.output_dir)).glob("checkpoint-*") if path.name[11:].isdigit()]
    problems = {path: what_is_missing(path, args.world_size) for path in found}
    whole = sorted((path for path in found if not problems[path]), key=lambda path: (_made(path), int(path.name[11:])))
    if whole:
        return whole[-1]
    reasons = "".join(f"; {path.name}: {problems[path]}" for path in sorted(found)[-3:])
    raise ConfigError(
        f"--resume_from_checkpoint: no whole checkpoint in {args.output_dir!r}{reasons or '; there is none at all'}. "
        "Check --output_dir, or start afresh with another one"
    )


def passed_over(checkpoint: Path, world_size: int) -> list[str]:
    """Checkpoints beside this one that are newer and lack something, with what."""
    newer = [path for path in checkpoint.parent.glob("checkpoint-*") if path.name[11:].isdigit() and path != checkpoint]
    return [f"{path.name}: {what}" for path in newer if (what := what_is_missing(path, world_size))]


def what_is_missing(checkpoint: Path, world_size: int = 1) -> str:
    """Why training cannot go on from a checkpoint as if it had never stopped; empty if it can.

    The optimiser's state, the schedule's and the random numbers' belong to it: without them transformers starts
    them afresh, and says nothing. What DeepSpeed and FSDP write is their own to check.
    """
    if not checkpoint.is_dir():
        return "there is no such folder"
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        if not isinstance(state.get("global_step"), int):
            return "trainer_state.json names no step"
    except (OSError, ValueError, AttributeError):
        return "trainer_state.json is missing or damaged; it is written last, so saving was cut short"
    if (checkpoint / "latest").is_file() or any(checkpoint.glob("pytorch_model_fsdp*")):
        return ""
    if problem := _weights_problem(checkpoint):
        return problem
    ranks = [""] if world_size == 1 else [f"_{rank}" for rank in range(world_size)]
    random_states = [f"rng_state{rank}.pth" for rank in ranks]
    if world_size == 1 and (checkpoint / "rng_state_0.pth").is_file():
        return "it was written by several processes; go on with as many"
    for name in ("optimizer.pt", "scheduler.pt", *random_states):
        path = checkpoint / name
        if not path.is_file():
            hint = " (saved with save_only_model?)" if name == "optimizer.pt" else ""
            return f"{name} is missing{hint}; without it, training would not go on where it stopped"
        try:
            with zipfile.ZipFile(path) as parts:
                damaged = parts.testzip()  # reads it whole, as loading will
        except (OSError, zipfile.BadZipFile):
            damaged = name
        if damaged:
            return f"{name} is damaged"
    return ""


def _weights_problem(checkpoint: Path) -> str:
    files: list[str] = []
    for kind in WEIGHTS:
        if (checkpoint / f"{kind}{INDEX}").is_file():
            try:
                files = sorted(set(json.loads((checkpoint / f"{kind}{INDEX}").read_text())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{kind}{INDEX} is damaged"
        elif (checkpoint / f"{kind}.safetensors").is_file():
            files = [f"{kind}.safetensors"]
    if not files:
        return "its weights are missing (model.safetensors or adapter_model.safetensors)"
    for name in files:
        try:
            with safe_open(checkpoint / name, "pt") as file:
                file.keys()
        except (OSError, SafetensorError):
            return f"{name} is missing or damaged"
    return ""


def _made(checkpoint: Path) -> float:
    try:
        return float(json.loads((checkpoint / STAMP).read_text())["time"])
    except (OSError, ValueError, KeyError, TypeError):
        return os.stat(checkpoint / "trainer_state.json").st_mtime
