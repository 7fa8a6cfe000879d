"""Promises of sending weights by file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from toolrl import ConfigError, PolicyFault
from toolrl.policy.vllm.weights_sender import FileSender, folder_for, open_sender


class Engine:
    """Loads the weights that it is sent."""

    def __init__(self) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.calls: list[str] = []
        self.version: str | None = None
        self.path = ""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self.calls.append("init")

    def start_weight_update(self) -> None:
        self.calls.append("start")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.calls.append("update")
        self.path = update_info["path"]
        self.weights = load_file(self.path)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.calls.append("finish")
        self.version = weight_version


def test_an_engine_gets_the_weights_as_they_are_and_their_version(tmp_path: Path) -> None:
    engine, base = Engine(), torch.arange(6.0).reshape(2, 3)
    weights = {"whole": base, "turned": base.T, "half": base[:1].bfloat16()}
    sender = FileSender(engine, lambda: iter(weights.items()), folder=str(tmp_path))
    for version in (1, 2):
        base.add_(1)
        sender.send(version)
        assert engine.calls == ["start", "update", "finish"] * version
        assert engine.version == str(version)
        assert engine.weights["half"].dtype is torch.bfloat16
        assert torch.equal(engine.weights["whole"], base)
        assert torch.equal(engine.weights["turned"], base.T)
        assert len(list(tmp_path.glob("*/*"))) == 1  # the previous file is gone
    sender.close()
    sender.close()
    assert not list(tmp_path.iterdir())


def test_a_restarted_engine_is_sent_the_last_weights(tmp_path: Path) -> None:
    weight = torch.zeros(2)
    sender = FileSender(Engine(), lambda: iter([("weight", weight)]), folder=str(tmp_path))
    fresh = Engine()
    assert not sender.send_again(fresh)
    sender.send(1)
    weight.add_(1)  # not sent yet
    assert sender.send_again(fresh)
    assert (fresh.version, fresh.weights["weight"].tolist()) == ("1", [0.0, 0.0])
    sender.close()


def test_only_the_first_process_sends_but_all_gather(tmp_path: Path) -> None:
    engine, gathered = Engine(), []

    def weights() -> Any:
        gathered.append(1)
        return iter([("weight", torch.zeros(1))])

    sender = open_sender("file", engine, weights, rank=1)
    sender.send(1)
    sender.close()
    assert (engine.calls, gathered) == ([], [1])


def test_the_file_of_a_killed_process_is_removed_at_the_next_start(tmp_path: Path) -> None:
    code = f"""
import os, torch
from toolrl.policy.vllm.weights_sender import FileSender
class Engine:
    start_weight_update = finish_weight_update = update_weights = lambda *_: None
sender = FileSender(Engine(), lambda: iter([("weight", torch.zeros(9))]), folder={str(tmp_path)!r})
sender.send(1)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -9
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1
    sender = FileSender(Engine(), lambda: iter(()), folder=str(tmp_path))
    sender.send(1)
    assert len(list(tmp_path.iterdir())) == 1
    sender.close()


def test_weights_that_cannot_be_written_are_a_fault(tmp_path: Path) -> None:
    sender = FileSender(Engine(), lambda: iter([("weight", torch.zeros(1))]), folder=str(tmp_path))
    sender.send(1)
    shutil.rmtree(next(tmp_path.iterdir()))
    with pytest.raises(PolicyFault, match="the weights cannot be written to"):
        sender.send(2)


def test_memory_is_used_only_where_two_files_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"weight": torch.zeros(1000)}
    for free, place in ((4000 * 3, "/dev/shm"), (4000 * 2, None)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        assert folder_for(tensors) == place


def test_an_unknown_transfer_is_refused() -> None:
    with pytest.raises(ConfigError, match="not by 'pigeon'"):
        open_sender("pigeon", Engine(), lambda: iter(()))  # type: ignore[arg-type]
