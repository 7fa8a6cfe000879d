"""Promises about the settings that choose a sampler; they need no vLLM."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.training.commands import command
from toolrl import ConfigError, MissingExtra
from toolrl.policy import PolicySettings
from toolrl.training import GRPORun
from toolrl.training.arguments import ToolrlArguments


def test_addresses_of_servers_are_a_sampler() -> None:
    assert PolicySettings(sampler="http://a:1, https://b:2/v1").urls == ["http://a:1", "https://b:2/v1"]
    assert PolicySettings(sampler="vllm").urls == PolicySettings().urls == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "vlm"}, "sampler must be 'transformers', 'vllm' or addresses of vLLM servers, got 'vlm'"),
        ({"sampler": "http://a:1,b:2"}, "got 'http://a:1,b:2'"),
        ({"weight_transfer": "pigeon"}, "weight_transfer must be .* got 'pigeon'"),
        ({"sampler": "vllm", "weight_transfer": "nccl"}, "'nccl' is for servers"),
        ({"engine_settings": '{"max_num_seqs": 8}'}, "engine_settings are for sampler 'vllm'"),
        ({"sampler": "vllm", "engine_settings": "[1]"}, "engine_settings must be like"),
        ({"sampler": "vllm", "engine_settings": "{"}, "engine_settings is not valid JSON"),
    ],
)
def test_invalid_settings_are_refused(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ToolrlArguments(**arguments).sampler_settings()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_extra_is_named(
    grpo_run: Callable[..., GRPORun], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'toolrl\[vllm\]'"):
        grpo_run(sampler=PolicySettings(sampler="vllm"))
    assert command("eval", "toolrl/PythonMath-v0", "--sampler", "vllm") == 2
    assert "pip install 'toolrl[vllm]'" in capsys.readouterr().err


def test_a_server_that_is_down_at_the_start_ends_the_command_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("eval", "toolrl/PythonMath-v0", "--sampler", "http://127.0.0.1:9") == 2
    assert capsys.readouterr().err.count("\n") <= 2


def test_device_is_for_transformers(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("eval", "toolrl/PythonMath-v0", "--sampler", "vllm", "--device", "cpu") == 2
    assert "is for sampler 'transformers'" in capsys.readouterr().err
