"""Promises about the embedded policy: what ships, and that the script can make it."""

from __future__ import annotations

import json
import random
import shlex
from pathlib import Path

import pytest
import torch

from toolrl import (
    ConfigError,
    Limits,
    Renderer,
    RolloutEngine,
    RolloutRequest,
    SamplingParams,
    Task,
    ToolEnv,
    call,
    make,
    say,
)
from toolrl.chat import HermesDialect
from toolrl.policy import ScriptedChatPolicy, TransformersPolicy
from toolrl.policy.models import load_model, load_tokenizer
from toolrl.tiny import PATH, warm
from toolrl.tiny.demonstrations import CHANGING, NEEDED, NEEDLESS, Demonstrator, break_call, demonstrate
from toolrl.tiny.fitting import (
    IGNORED,
    Example,
    Renaming,
    as_row,
    batches,
    fit,
    orthogonal,
    predictions,
    share_exact,
)
from toolrl.tiny.make import fixed_tokens, held_out, main, make_model
from toolrl.users import ModelUser


def test_shipped_model_is_small_and_of_the_qwen3_architecture() -> None:
    model = load_model("tiny")
    assert model.config.model_type == "qwen3"
    assert 1e6 <= model.num_parameters() <= 3e6
    assert sum(path.stat().st_size for path in PATH.iterdir()) < 5e6


def test_a_name_has_the_same_tokens_everywhere() -> None:
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
    assert any(not t.tool_results for t in played)


def test_some_demonstrations_claim_a_change_they_did_not_make() -> None:
    env = make("toolrl/Database-v0", kinds=["cancel"], size=80)
    played = demonstrate([("toolrl/Database-v0", env)], Renderer(load_tokenizer("tiny")), 80, seed=0)
    changing = {task.id: task.answer for task in env.tasks if task.metadata["changes"]}
    claims = [t for t in played if t.score.answer is not None and t.score.answer == changing.get(t.task_id)]
    assert {bool(t.score.success) for t in claims} == {True, False}
    assert all(len(t.tool_results) == 1 for t in claims if not t.score.success)
    for habits in (NEEDED, NEEDLESS, CHANGING):
        assert sum(habits.values()) == pytest.approx(1)


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
    rows = [as_row(trajectory, observed=False) for trajectory in played]
    fit(model, lambda _: rows, epochs=4, learning_rate=2e-3, batch_tokens=600, seed=0)
    losses = [float(line.split("loss")[1].split()[0]) for line in capsys.readouterr().out.splitlines()]
    assert losses[-1] < losses[0]
    model.to(torch.float16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(str(tmp_path)).dtype == torch.float32


def test_renaming_replaces_names_and_numbers_consistently_and_keeps_the_rest() -> None:
    tokenizer = load_tokenizer("tiny")
    env = make("toolrl/DocsCompute-v0", size=60)
    played = demonstrate([("e", env)], Renderer(tokenizer), 60, seed=0, skilled=True)
    rows = [as_row(trajectory, observed=True) for trajectory in played]
    fixed = fixed_tokens(played, tokenizer)
    rename = Renaming(tokenizer, fixed)
    words = {token for token in fixed if tokenizer.decode([token]).isalpha()}
    assert {"What", "plus", "times", "search", "python", "query"} <= {tokenizer.decode([token]) for token in words}
    assert not {"sqlite", "SQLITE", "errno"} & {tokenizer.decode([token]) for token in words}
    for index, row in enumerate(rows):
        renamed = rename(row, random.Random(index))
        names = dict(zip(row.ids, renamed.ids, strict=True))
        assert renamed.ids != row.ids
        assert renamed.ids == [names[token] for token in row.ids], "each for the same one throughout"
        assert len(set(names.values())) == len(names), "two never become one"
        assert all(names[token] == token for token in words.intersection(row.ids))
        assert all(tokenizer.decode([old]).isdigit() == tokenizer.decode([new]).isdigit() for old, new in names.items())
        assert [t == IGNORED for t in renamed.labels] == [t == IGNORED for t in row.labels]


def test_batches_hold_every_row_once_and_padding_is_not_learnt() -> None:
    rows = [Example([n + 1] * n, [n + 1] * n) for n in range(1, 40)]
    seen = []
    for ids, labels in batches(rows, 100, random.Random(0)):
        assert ids.numel() <= 100 or len(ids) == 1
        for row, marks in zip(ids.tolist(), labels.tolist(), strict=True):
            seen.append([token for token, mark in zip(row, marks, strict=True) if mark != IGNORED])
    assert sorted(map(len, seen)) == list(range(1, 40))
    assert all(row == [len(row) + 1] * len(row) for row in seen)


@pytest.mark.parametrize("shape", [(16, 48), (48, 16)])
def test_orthogonal_brings_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape), steps=8))
    assert 0.5 < values.min() <= values.max() < 1.5


def test_share_exact_counts_rows_that_are_entirely_correct() -> None:
    torch.manual_seed(0)
    model = make_model(300).eval()
    ids = torch.randint(300, (1, 12))
    with torch.no_grad():
        best = model(input_ids=ids).logits[0].argmax(-1).tolist()
    prefix = ids[0].tolist()
    right = Example(prefix, [IGNORED, *best[:-1]])
    wrong = Example(prefix, [IGNORED, *best[:-2], (best[-2] + 1) % 300])
    assert share_exact(model, [right, wrong]) == 0.5


def test_some_of_each_environments_demonstrations_are_held_out() -> None:
    for env_id in ("toolrl/PythonMath-v0", "toolrl/DocsSearch-v0"):
        env = make(env_id, size=400)
        played = demonstrate([(env_id, env)], Renderer(load_tokenizer("tiny")), 200, seed=0, skilled=True)
        assert 0 < sum(map(held_out, played)) < 40


@pytest.mark.slow
def test_the_script_makes_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(tmp_path, scale=0.002)
    assert capsys.readouterr().out.count("epoch") == 4 + 3 + 1
    model, tokenizer = load_model(str(tmp_path)), load_tokenizer(str(tmp_path))
    assert model.config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_warm_start_fits_the_demonstrations_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"documents": 60, "results": 1, "snippet_characters": 120}
    by_id = json.dumps({"toolrl/WorldQA-v0": settings})
    warm.main("toolrl/WorldQA-v0", tmp_path, by_id, worlds=2, demonstrations=8, epochs=2, mediocre=2)
    command = next(line for line in capsys.readouterr().out.splitlines() if "toolrl eval" in line)
    assert json.loads(shlex.split(command)[-1]) == {"toolrl/WorldQA-v0": settings}
    env = make("toolrl/WorldQA-v0", **settings)
    played = demonstrate([("toolrl/WorldQA-v0", env)], Renderer(load_tokenizer("tiny")), 4, seed=0, skilled=True)
    losses = []
    for name in ("tiny", str(tmp_path)):
        model = load_model(name)
        rows = [as_row(trajectory, observed=False) for trajectory in played]
        pairs = [predictions(model, torch.tensor([row.ids]), torch.tensor([row.labels])) for row in rows]
        losses.append(sum(float(torch.nn.functional.cross_entropy(*pair).detach()) for pair in pairs))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("settings", ["[1]", "{", '{"hops": 2}'])
def test_settings_of_a_warm_start_that_are_not_an_object_are_refused(tmp_path: Path, settings: str) -> None:
    with pytest.raises(ConfigError, match="env_settings must be like"):
        warm.main("toolrl/WorldQA-v0", tmp_path, settings)


def test_it_can_play_a_user_and_is_left_as_it_was() -> None:
    renderer, model = Renderer(load_tokenizer("tiny")), load_model("tiny").train()
    policy = TransformersPolicy(model, stop_token_ids=renderer.stop_token_ids)
    user = ModelUser(policy, renderer, sampling=SamplingParams(temperature=0.0, max_tokens=8))
    task = Task("t", "My phone is dead.", metadata={"user": "You are Ada."})
    env = ToolEnv(tasks=[task], user=user, reward=lambda task, episode: 1.0, limits=Limits(turns=2))
    try:
        (played,) = RolloutEngine(ScriptedChatPolicy([say("Is it on?")]), None).run([RolloutRequest(env, task)])
    finally:
        env.close()
    assert all(turn.reply for turn in played.turns)
    assert played.usage["user_output_tokens"] > 0
    assert model.training
