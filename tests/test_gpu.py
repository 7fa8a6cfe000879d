"""Promises about `make test-gpu` where there is no GPU: it says so, and has not failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: make test-gpu runs")
def test_without_a_gpu_it_says_that_it_skips() -> None:
    command = [sys.executable, "-m", "tests.gpu"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0
    assert "skipped, no GPU is here" in done.stdout
