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

# When a checkpoint was made (a file's own time is lost when it is copied), and with which optimiser.
STAMP = "toolrl.json"
WEIGHTS = ("model", "adapter_model")
INDEX = ".safetensors.index.json"


class StampCallback(TrainerCallback):
    """Stamps each checkpoint."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After each checkpoint."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / STAMP).write_text(json.dumps({"time": time.time(), "optim": _optimizer(args)}))


def find_checkpoint(args: transformers.TrainingArguments) -> Path | None:
    """The checkpoint to resume from: a path, or `true` for the newest whole one in `output_dir`.

    Raises:
        ConfigError: There is none, the one asked for lacks something, or it does not fit the settings.
    """
    wanted = str(args.resume_from_checkpoint or "")
    if wanted.lower() in ("", "false", "none"):
        return None
    if wanted.lower() != "true":
        if problem := what_is_missing(Path(wanted), args.world_size):
            raise ConfigError(f"--resume_from_checkpoint: {wanted!r} cannot be gone on from: {problem}")
        return _fitting(Path(wanted), args)
    found = [path for path in Path(str(args.output_dir)).glob("checkpoint-*") if path.name[11:].isdigit()]
    problems = {path: what_is_missing(path, args.world_size) for path in found}
    whole = sorted((path for path in found if not problems[path]), key=lambda path: (_made(path), int(path.name[11:])))
    if whole:
        return _fitting(whole[-1], args)
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


def _fitting(checkpoint: Path, args: transformers.TrainingArguments) -> Path:
    """The checkpoint, if the settings go on with it."""
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    if step > args.max_steps > 0:
        raise ConfigError(f"{str(checkpoint)!r} is at step {step}, beyond --max_steps {args.max_steps}; raise it")
    if (optimizer := _stamp(checkpoint).get("optim", _optimizer(args))) != _optimizer(args):
        raise ConfigError(
            f"{str(checkpoint)!r} holds the state of --optim {optimizer}, which is none of {_optimizer(args)}'s; pass "
            f"--optim {optimizer}, or train its weights in another --output_dir (--model_name_or_path)"
        )
    return checkpoint


def _optimizer(args: transformers.TrainingArguments) -> str:
    return str(getattr(args.optim, "value", args.optim))


def _stamp(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / STAMP).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _made(checkpoint: Path) -> float:
    made = _stamp(checkpoint).get("time")
    return made if isinstance(made, float) else os.stat(checkpoint / "trainer_state.json").st_mtime
