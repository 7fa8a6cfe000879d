"""The embedded policy: what ships, and that the script can make it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from toolrl import HermesDialect, Renderer, call, make
from toolrl.models import load_model, load_tokenizer
from toolrl.tiny import PATH
from toolrl.tiny.demonstrations import NEEDED, NEEDLESS, Demonstrator, break_call, demonstrate
from toolrl.tiny.make import fit, make_model


def test_shipped_model_is_small_and_of_the_qwen3_architecture() -> None:
    model = load_model("tiny")
    assert model.config.model_type == "qwen3"
    assert 1e6 <= model.num_parameters() <= 3e6
    assert sum(path.stat().st_size for path in PATH.iterdir()) < 5e6


def test_a_name_has_the_same_tokens_wherever_it_stands() -> None:
    tokenizer = load_tokenizer("tiny")
    for name in ("heapq.nlargest", "SQLITE_SAVEPOINT", "18902532"):
        ids = tokenizer.encode(name, add_special_tokens=False)
        for text in (f" {name}", f'"{name}"', f"({name}", f"What is {name}?"):
            found = tokenizer.encode(text, add_special_tokens=False)
            assert any(found[i : i + len(ids)] == ids for i in range(len(found))), (name, text)


@pytest.mark.parametrize(
    "text", ["naïve 日本語 🎉", "\x00\t\n  x", "1,000.5e-3", '{"name": "x", "arguments": {"y": "z"}}']
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = load_tokenizer("tiny")
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_template_and_dialect_write_the_same_call() -> None:
    renderer = Renderer(load_tokenizer("tiny"))
    message = call("python", code='print("a")\n1')
    rendered = renderer.tokenizer.apply_chat_template(
        [{"role": "user", "content": "q"}, message.to_dict()], tokenize=False
    )
    assert HermesDialect().format(message) in rendered


def test_demonstrations_are_mediocre() -> None:
    env = make("toolrl/PythonMath-v0", size=200)
    renderer = Renderer(load_tokenizer("tiny"))
    played = demonstrate([("toolrl/PythonMath-v0", env)], renderer, 120, seed=0)
    success = sum(bool(t.score.success) for t in played) / len(played)
    assert 0.2 < success < 0.7
    assert any(r.failure == "malformed" for t in played for r in t.tool_results)
    assert any(not t.tool_results for t in played if t.info == {})
    assert abs(sum(NEEDED.values()) - 1) < 1e-9
    assert abs(sum(NEEDLESS.values()) - 1) < 1e-9


def test_every_broken_call_is_refused_by_the_environment() -> None:
    env = make("toolrl/PythonMath-v0", size=20)
    for seed in range(20):
        env.reset(seed=0)
        _, _, terminated, _, info = env.step(break_call(call("python", code="1+1"), random.Random(seed)))
        assert info["failures"]
        assert not terminated


def test_demonstrator_follows_the_oracle_when_skilled() -> None:
    env = make("toolrl/DocsSearch-v0", size=20)
    renderer = Renderer(load_tokenizer("tiny"))
    task = env.tasks[0]
    turns = Demonstrator(env, renderer, skilled=True).turns(task, random.Random(0))
    assert turns == [renderer.assistant_ids(message) for message in env.oracle(task)]


def test_fitting_lowers_the_loss_and_the_model_saves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    env = make("toolrl/PythonMath-v0", size=20)
    tokenizer = load_tokenizer("tiny")
    played = demonstrate([("e", env)], Renderer(tokenizer), 24, seed=0, skilled=True)
    model = make_model(len(tokenizer))
    fit(model, played, pad=tokenizer.pad_token_id, epochs=4, learning_rate=2e-3, batch_tokens=600, seed=0)
    losses = [float(line.split("loss")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0]
    model.to(torch.float16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).dtype == torch.float32
