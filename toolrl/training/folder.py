"""The folder of a run: one run's alone, writable, and with what is needed to repeat the run."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
import yaml
from safetensors import SafetensorError

from toolrl.errors import ConfigError, ToolrlError
from toolrl.support.outputs import FULL, writing
from toolrl.support.secret_values import without_secrets

# What a run leaves. A lone config.yaml is no run: it may be what the user wrote for this one.
ALMOST_NOTHING = 2**20
RESULTS = ("trajectories.jsonl", "metrics.jsonl", "report.json", "model")
FURTHER = ("config.yaml", "curves.png", "README.md", "trajectories.index.arrow")
ADVICE = "pass another --output_dir"
FREE = "free some space, and go on with --resume_from_checkpoint true"


@contextmanager
def run_folder(
    args: transformers.TrainingArguments, checkpoint: Path | None, *, overwrite: bool = False
) -> Iterator[Path]:
    """Take `args.output_dir` for a run, and keep others out of it until the run ends.

    Args:
        args: Of the run.
        checkpoint: What the run goes on from.
        overwrite: Whether what an earlier run left there may go.

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
    with writing(folder, ADVICE):
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
        found = [path for path in results(folder) if _is_filled(path)]
        if overwrite and checkpoint is None:
            with writing(folder, ADVICE):
                for path in (*found, *(folder / name for name in FURTHER if name != "config.yaml")):
                    _remove(path)
        elif found and checkpoint is None:
            raise ConfigError(
                f"output_dir {str(folder)!r} holds an earlier run ({found[0].name}), and two runs must not mix: go on "
                "with it (--resume_from_checkpoint true), name another --output_dir, or delete it first "
                "(--overwrite_output_dir true)"
            )
        elif found and checkpoint is not None and folder.resolve() not in checkpoint.resolve().parents:
            raise ConfigError(
                f"output_dir {str(folder)!r} holds another run than the checkpoint {str(checkpoint)!r} is of; name "
                "another --output_dir"
            )
        args.distributed_state.wait_for_everyone()
        with writing(folder, FREE, FULL), _full_disk(folder):
            yield folder
    finally:
        os.close(descriptor)


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    """PyTorch and safetensors have errors of their own for a disk that is full."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        # safetensors removes what it could not finish.
        full = re.search(r"os error (28|122)\b", str(error)) or shutil.disk_usage(folder).free < ALMOST_NOTHING
        if isinstance(error, ToolrlError) or not full:
            raise
        raise ConfigError(
            f"the disk of {str(folder)!r} is full ({' '.join(str(error).split())[:200]}); {FREE}"
        ) from error


def results(folder: Path) -> list[Path]:
    """What a run may have left in its folder."""
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name[11:].isdigit()]
    return [*sorted(checkpoints), *(folder / name for name in RESULTS)]


def _is_filled(path: Path) -> bool:
    """A start that failed leaves empty files."""
    return path.is_dir() or (path.is_file() and path.stat().st_size > 0)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"another run is writing into {str(folder)!r}; name another --output_dir") from None
    except OSError:
        pass  # a file system without locks


def write_config(path: Path, *parts: Any) -> None:
    """Write the settings (data classes) that differ from their defaults, so that `--config` repeats the run.

    In the place of a secret stands the name of an environment variable.
    """
    settings: dict[str, Any] = {}
    for part in parts:
        for entry in dataclasses.fields(part):
            value = getattr(part, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            if entry.init and value != default and _is_plain(value):
                settings[entry.name] = value.value if hasattr(value, "value") else value
    for unrepeatable in ("resume_from_checkpoint", "overwrite_output_dir"):
        settings.pop(unrepeatable, None)
    settings.pop("generation_batch_size", None)  # TRL derives it from the others, and refuses both
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(without_secrets(settings), sort_keys=True, allow_unicode=True))
    partial.replace(path)


def _is_plain(value: Any) -> bool:
    if hasattr(value, "value"):  # an enum
        value = value.value
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True
