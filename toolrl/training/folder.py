"""The folder of a run: used by one run at a time, with checkpoints to resume from and settings to repeat the run."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open
from transformers import TrainerCallback, TrainerState, TrainingArguments

from toolrl.errors import ConfigError, ToolrlError
from toolrl.support.outputs import FULL, writing
from toolrl.support.secret_values import without_secrets

STAMP = "toolrl.json"
_RESULTS = ("trajectories.jsonl", "metrics.jsonl", "report.json", "model", "best")
# Deleted too, but not a sign of an earlier run. config.yaml stays: the user may have put it there.
_FURTHER = ("curves.png", "README.md", "trajectories.index.arrow", "best.old", "best.partial")
_INDEX = ".safetensors.index.json"
_ALMOST_NOTHING = 2**20  # bytes left on a full disk
_ELSEWHERE = "pass another --output_dir"
_FREE = "free some space, and resume with --resume_from_checkpoint true"


@contextmanager
def run_folder(args: TrainingArguments, checkpoint: Path | None, *, overwrite: bool = False) -> Iterator[Path]:
    """Reserve `args.output_dir` for a run until it ends.

    Args:
        args: The run's settings.
        checkpoint: Where the run resumes.
        overwrite: Whether to delete the results of an earlier run.

    Raises:
        ConfigError: The folder holds another run, or cannot be written to.
    """
    folder = Path(str(args.output_dir or ""))
    if not args.output_dir:
        raise ConfigError(f"output_dir is {args.output_dir!r}; pass --output_dir FOLDER")
    if args.process_index:
        args.distributed_state.wait_for_everyone()
        yield folder
        return
    with writing(folder, _ELSEWHERE):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{os.getpid()}.probe"
        try:
            with probe.open("wb") as file:
                file.write(bytes(65_536))
                file.flush()
                os.fsync(file.fileno())
        finally:
            probe.unlink(missing_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        found = [path for path in (*_checkpoints(folder), *(folder / name for name in _RESULTS)) if _is_filled(path)]
        if overwrite and checkpoint is None:
            with writing(folder, _ELSEWHERE):
                for path in (*found, *(folder / name for name in _FURTHER)):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    else:
                        path.unlink(missing_ok=True)
        elif found and checkpoint is None:
            raise ConfigError(
                f"output_dir {str(folder)!r} holds an earlier run ({found[0].name}), and two runs must not mix: resume "
                "it (--resume_from_checkpoint true), pass another --output_dir, or delete it first "
                "(--overwrite_output_dir true)"
            )
        elif found and checkpoint is not None and folder.resolve() not in checkpoint.resolve().parents:
            raise ConfigError(
                f"output_dir {str(folder)!r} holds another run than the checkpoint {str(checkpoint)!r}; {_ELSEWHERE}"
            )
        args.distributed_state.wait_for_everyone()
        with writing(folder, _FREE, FULL), _full_disk(folder):
            yield folder
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """Recognise a full disk in the errors of PyTorch and safetensors."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        # safetensors removes the file it could not finish.
        full = re.search(r"os error (28|122)\b", str(error)) or shutil.disk_usage(folder).free < _ALMOST_NOTHING
        if isinstance(error, ToolrlError) or not full:
            raise
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"the disk of {str(folder)!r} is full ({reason}); {_FREE}") from error


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is writing into {str(folder)!r}; {_ELSEWHERE}") from None
    except OSError:
        pass  # a file system without locks


def _is_filled(path: Path) -> bool:
    """Whether a result holds anything; a failed start leaves empty files."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def write_config(path: Path, *parts: Any) -> None:
    """Write the settings (data classes) that differ from their defaults, so that `--config` repeats the run.

    A secret is replaced by the name of an environment variable.
    """
    settings: dict[str, Any] = {}
    for part in parts:
        for entry in dataclasses.fields(part):
            value = getattr(part, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            plain = getattr(value, "value", value)  # of an enum
            if entry.init and value != default and _is_yaml(plain):
                settings[entry.name] = plain
    # TRL derives generation_batch_size from other settings, and refuses both.
    for name in ("resume_from_checkpoint", "overwrite_output_dir", "generation_batch_size"):
        settings.pop(name, None)
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(without_secrets(settings), sort_keys=True, allow_unicode=True))
    partial.replace(path)


def _is_yaml(value: Any) -> bool:
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


class StampCallback(TrainerCallback):
    """Records in each checkpoint when it was made (copying loses a file's time), and with which optimiser."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """After each checkpoint."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / STAMP).write_text(json.dumps({"time": time.time(), "optim": _optimizer(args)}))


def find_checkpoint(args: TrainingArguments) -> Path | None:
    """The checkpoint to resume from: a path, or `true` for the newest complete one in `output_dir`.

    Raises:
        ConfigError: There is no complete checkpoint, or it does not fit the settings.
    """
    wanted = str(args.resume_from_checkpoint or "")
    if wanted.lower() in ("", "false", "none"):
        return None
    if wanted.lower() != "true":
        if problem := checkpoint_problem(Path(wanted), args.world_size):
            raise ConfigError(f"--resume_from_checkpoint: cannot resume from {wanted!r}: {problem}")
        return _fitting(Path(wanted), args)
    found = _checkpoints(Path(str(args.output_dir)))
    problems = {path: checkpoint_problem(path, args.world_size) for path in found}
    complete = sorted(
        (path for path in found if not problems[path]), key=lambda path: (_made(path), int(path.name[11:]))
    )
    if complete:
        return _fitting(complete[-1], args)
    reasons = "".join(f"; {path.name}: {problems[path]}" for path in found[-3:])
    raise ConfigError(
        f"--resume_from_checkpoint: no complete checkpoint in {args.output_dir!r}{reasons}. "
        "Check --output_dir, or start a new run in another one"
    )


def skipped_checkpoints(checkpoint: Path, world_size: int) -> list[str]:
    """The incomplete checkpoints next to this one, each with its problem."""
    others = [path for path in _checkpoints(checkpoint.parent) if path != checkpoint]
    return [f"{path.name}: {problem}" for path in others if (problem := checkpoint_problem(path, world_size))]


def checkpoint_problem(checkpoint: Path, world_size: int = 1) -> str:
    """Why training cannot resume from a checkpoint as if it had never stopped; empty if it can.

    Without the states of the optimiser, the schedule and the random numbers transformers would silently reset them.
    DeepSpeed and FSDP check their own files.
    """
    if not checkpoint.is_dir():
        return "no such folder"
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text())
        if not isinstance(state.get("global_step"), int):
            return "trainer_state.json has no step"
    except (OSError, ValueError, AttributeError):
        return "trainer_state.json is missing or damaged; it is written last, so saving was interrupted"
    if (checkpoint / "latest").is_file() or any(checkpoint.glob("pytorch_model_fsdp*")):
        return ""
    if problem := _weights_problem(checkpoint):
        return problem
    ranks = [""] if world_size == 1 else [f"_{rank}" for rank in range(world_size)]
    if world_size == 1 and (checkpoint / "rng_state_0.pth").is_file():
        return "several processes wrote it; resume with the same number"
    for name in ("optimizer.pt", "scheduler.pt", *(f"rng_state{rank}.pth" for rank in ranks)):
        if not (checkpoint / name).is_file():
            hint = " (saved with save_only_model?)" if name == "optimizer.pt" else ""
            return f"{name} is missing{hint}; without it, training would not continue where it stopped"
        try:
            with zipfile.ZipFile(checkpoint / name) as parts:
                damaged = parts.testzip()  # reads the whole file, as loading will
        except (OSError, zipfile.BadZipFile):
            damaged = name
        if damaged:
            return f"{name} is damaged"
    return ""


def _weights_problem(checkpoint: Path) -> str:
    files: list[str] = []
    for kind in ("model", "adapter_model"):
        if (checkpoint / f"{kind}{_INDEX}").is_file():
            try:
                files = sorted(set(json.loads((checkpoint / f"{kind}{_INDEX}").read_text())["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                return f"{kind}{_INDEX} is damaged"
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


def _fitting(checkpoint: Path, args: TrainingArguments) -> Path:
    """The checkpoint, if it fits the settings."""
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    if step > args.max_steps > 0:
        raise ConfigError(f"{str(checkpoint)!r} is at step {step}, beyond --max_steps {args.max_steps}; raise it")
    if (optimizer := _stamp(checkpoint).get("optim", _optimizer(args))) != _optimizer(args):
        raise ConfigError(
            f"{str(checkpoint)!r} holds the state of --optim {optimizer}, not of {_optimizer(args)}; pass --optim "
            f"{optimizer}, or start a new run from its weights (--model_name_or_path) in another --output_dir"
        )
    return checkpoint


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit())


def _optimizer(args: TrainingArguments) -> str:
    return str(getattr(args.optim, "value", args.optim))


def _stamp(checkpoint: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((checkpoint / STAMP).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _made(checkpoint: Path) -> tuple[float, int]:
    """When a checkpoint was made, and its step."""
    made = _stamp(checkpoint).get("time")
    when = made if isinstance(made, float) else os.stat(checkpoint / "trainer_state.json").st_mtime
    return when, int(checkpoint.name[11:])
