"""`make test-gpu`: what only a GPU can show, as one table; at most ten minutes, without a network.

SmolLM2 is warmed up on demonstrations and trained in bfloat16, with the model as its own sampler and, where vLLM is
installed, with an engine that gets its weights through CUDA's shared memory; TRL's tool loop and float32 stand beside
them. `--cpu` tries the same on a CPU (some twenty minutes), to test this script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

MISMATCH_LIMIT = 0.05  # nats a token, of bfloat16


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cpu", action="store_true", help="run on a CPU where there is no GPU")
    parser.add_argument("--steps", type=int, default=6, help="steps of each run; the first is not timed")
    given = parser.parse_args()
    if not torch.cuda.is_available() and not given.cpu:
        print("test-gpu: skipped, no GPU is here (torch.cuda.is_available() is False)")
        return
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {
            "LANGUAGE_MODEL": str(warm_up(Path(folder))),
            "LANGUAGE_MODEL_STEPS": str(given.steps),
            "LANGUAGE_MODEL_SEEDS": "0",
            "HF_HUB_OFFLINE": "1",
        }
        from tests.benchmarks import language_model  # reads the settings

        rows = language_model.measure()
        print(language_model.report(rows))
    mismatches = [float(row[language_model.COLUMNS.index("mismatch")]) for row in rows if row[0] != "TRL"]
    print(f"torch {torch.__version__}, {time.monotonic() - started:.0f} s in all")
    if max(mismatches) > MISMATCH_LIMIT:
        sys.exit(f"sampler and trainer differ by {max(mismatches)} nats a token, more than {MISMATCH_LIMIT}")


def warm_up(folder: Path) -> Path:
    """Fine-tune SmolLM2 on a few demonstrations, as `make train-lm` does; the model's folder."""
    toolrl, data = [sys.executable, "-m", "toolrl"], folder / "demonstrations.jsonl"
    where = ["--use_cpu=false"] if torch.cuda.is_available() else []
    commands = [
        ["demonstrations", "--env", "toolrl/DocsSearch-v0", "--tasks", "96", "--out", str(data)],
        ["sft", "--config", "smollm2_sft", "--dataset", str(data), f"--output_dir={folder / 'sft'}", *where],
    ]
    for command in commands:
        subprocess.run([*toolrl, *command], check=True)
    return folder / "sft" / "model"


if __name__ == "__main__":
    main()
