"""Promises about generated requests and IFEval's files: all can be followed, none by an empty response."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from toolrl import ConfigError, MissingExtra, TaskError, call
from toolrl.chat import HermesDialect
from toolrl.rewards.instructions import instruction_kinds, make_instruction
from toolrl_envs.instruction_following import InstructionFollowingEnv
from toolrl_envs.instruction_following.requests import ABOUT_LANGUAGE, KINDS, NEARLY_FREE
from toolrl_envs.instruction_following.topics import topics_of
from toolrl_envs.instruction_following.writer import write

HAS_LANGDETECT = importlib.util.find_spec("langdetect") is not None
ROW = {"key": 1, "prompt": "Hi. No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def play(env: InstructionFollowingEnv, task: Any, *actions: str) -> tuple[float, dict[str, Any]]:
    env.reset(options={"task": task})
    for action in actions:
        _, reward, *_, info = env.step(action)
    return reward, info


def write_rows(path: Path, count: int = 20) -> Path:
    path.write_text("\n".join(json.dumps({**ROW, "key": n, "prompt": f"Hi {n}. No commas."}) for n in range(count)))
    return path


# ---- generated requests


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_oracle_follows_every_generated_request(split: Any) -> None:
    env = InstructionFollowingEnv(split, size=300, seed=3)
    for task in env.tasks:
        reward, info = play(env, task, env.oracle(task)[-1].content)
        assert (reward, info["score"]["reason"]) == (1.0, "all followed"), task


@pytest.mark.parametrize("mode", ["strict", "loose"])
def test_saying_nothing_earns_nothing(mode: Any) -> None:
    env = InstructionFollowingEnv("train", size=60, mode=mode)
    for task in env.tasks:
        for text in ("", "I do not know.", "Sure!", task.prompt, f"{task.prompt}\n{task.prompt}", task.prompt.upper()):
            assert play(env, task, text)[0] == 0.0, (task, text)


def test_requests_cover_every_kind_and_combine_several() -> None:
    tasks = list(InstructionFollowingEnv("train", size=400).tasks)
    assert set(KINDS) == set(instruction_kinds()) >= set(ABOUT_LANGUAGE)
    assert {task.kind for task in tasks} == set(KINDS) - set(ABOUT_LANGUAGE) - set(NEARLY_FREE)
    assert min(Counter(task.metadata["instructions"] for task in tasks)[n] for n in (2, 3)) > 20
    for task in tasks:
        assert len(task.answer["instruction_id_list"]) == task.metadata["instructions"]
        assert json.loads(json.dumps(task.answer)) == task.answer
    pairs = {pair for task in tasks for pair in itertools.combinations(sorted(task.answer["instruction_id_list"]), 2)}
    assert len(pairs) > 60


def test_the_splits_are_about_different_topics() -> None:
    train, test = ({topic.name for topic in topics_of(split)} for split in ("train", "test"))  # type: ignore[arg-type]
    assert min(len(train), len(test)) >= 6
    assert not train & test


def test_a_selected_kind_is_in_every_request_and_an_unknown_one_is_refused() -> None:
    env = InstructionFollowingEnv("train", size=8, kinds=["detectable_format:title"])
    assert {tuple(task.answer["instruction_id_list"]) for task in env.tasks} == {("detectable_format:title",)}
    for kinds in ([], ["no:such"]):
        with pytest.raises(ConfigError, match="kinds must be among keywords:existence"):
            InstructionFollowingEnv("train", kinds=kinds)
    with pytest.raises(ConfigError, match=r"only 54 requests .*lower size=60"):
        InstructionFollowingEnv("train", size=60, kinds=["detectable_format:title"])
    with pytest.raises(ConfigError, match=r"only 0 requests .* or add kinds"):
        InstructionFollowingEnv("train", size=1, kinds=["punctuation:no_comma"])
    with pytest.raises(ConfigError, match=r"kinds=.* applies to generated tasks; remove it"):
        InstructionFollowingEnv("train", data="google/IFEval", kinds=["punctuation:no_comma"])


def test_requests_about_languages_are_followed_or_name_the_extra() -> None:
    if not HAS_LANGDETECT:
        with pytest.raises(MissingExtra, match=r"toolrl\[instructions\]"):
            InstructionFollowingEnv("train", size=6, kinds=ABOUT_LANGUAGE)
        return
    env = InstructionFollowingEnv("train", size=9, kinds=ABOUT_LANGUAGE)
    for task in env.tasks:
        assert play(env, task, env.oracle(task)[-1].content)[0] == 1.0, task


# ---- reward and tool


def test_the_tool_counts_words_as_the_instructions_do_and_costs() -> None:
    env = InstructionFollowingEnv("train", size=5)
    task = env.tasks[0]
    action = HermesDialect().format(call("word_count", text="It's a well-known fact."))
    env.reset(options={"task": task})
    assert env.step(action)[0] == "6"
    right = env.oracle(task)[-1].content
    assert [play(env, task, *[action] * n, right)[0] for n in range(3)] == pytest.approx([1.0, 0.9, 0.8])
    assert play(env, task, action, "Sure!")[0] == 0.0


def test_partial_and_mode_reach_the_reward(tmp_path: Path) -> None:
    ids, kwargs = ["punctuation:no_comma", "detectable_format:title"], [{}, {}]
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({**ROW, "instruction_id_list": ids, "kwargs": kwargs}))
    data = tmp_path / "{split}.jsonl"
    half, framed = "No title", "Sure, here:\n<<a>> text"
    rewards = {
        settings: [play(InstructionFollowingEnv("train", data=data, call_cost=0, **dict(settings)), 0, text)[0]
                   for text in (half, framed)]
        for settings in ((), (("partial", True),), (("mode", "loose"),))
    }  # fmt: skip
    assert list(rewards.values()) == [[0.0, 0.0], [0.5, 0.5], [0.0, 1.0]]


# ---- IFEval's files


def test_about_every_fifth_request_of_a_file_is_held_out(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "input_data.jsonl")
    train, test = ({task.id for task in InstructionFollowingEnv(split, data=path).tasks} for split in ("train", "test"))  # type: ignore[arg-type]
    assert not train & test
    assert len(train | test) == 20
    assert 0 < len(test) < len(train)
    assert len(InstructionFollowingEnv("train", data=path, size=3).tasks) == 3
    assert list(InstructionFollowingEnv("train", data=path).tasks) == list(
        InstructionFollowingEnv("train", data=path).tasks
    )


def test_a_file_per_split_is_read_completely(tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", 9)
    env = InstructionFollowingEnv("test", data=tmp_path / "{split}.jsonl")
    assert len(env.tasks) == 9
    assert play(env, "3", env.oracle(env.tasks.by_id("3"))[-1].content)[0] == 1.0


def test_a_data_set_in_the_hubs_format_is_loaded_from_its_train_split(tmp_path: Path) -> None:
    import datasets

    facts = {"kwargs": [{"num_words": None, "relation": None}]}
    rows = [{**ROW, **facts, "key": n, "prompt": f"{ROW['prompt']} ({n})"} for n in range(20)]
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "set" / "train.parquet")
    env = InstructionFollowingEnv("train", data=tmp_path / "set")
    assert 0 < len(env.tasks) < 20
    assert env.tasks[0].answer == {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def test_the_error_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="no data file at"):
        InstructionFollowingEnv("train", data=tmp_path / "none.jsonl")
    path = write_rows(tmp_path / "one.jsonl", 1)
    empty: Any = [split for split in ("train", "test") if split != _split_of(path)]
    with pytest.raises(ConfigError, match=f"has nothing for split='{empty[0]}'"):
        InstructionFollowingEnv(empty[0], data=path)
    path.write_text(json.dumps({**ROW, "instruction_id_list": ["punctuation:no_coma"]}))
    with pytest.raises(TaskError, match=r"one.jsonl, line 1: .*did you mean punctuation:no_comma"):
        InstructionFollowingEnv("train", data=path)


def _split_of(path: Path) -> str:
    try:
        InstructionFollowingEnv("train", data=path)
    except ConfigError:
        return "test"
    return "train"


# ---- the writer


def test_the_writer_avoids_what_is_forbidden_and_refuses_contradictions() -> None:
    avoid = [
        make_instruction("keywords:letter_frequency", {"letter": "y", "let_frequency": 1, "let_relation": "less than"}),
        make_instruction("keywords:frequency", {"keyword": "day", "frequency": 1, "relation": "less than"}),
        make_instruction("length_constraints:number_words", {"num_words": 50, "relation": "at least"}),
    ]
    assert all(one.check(write(avoid)) for one in avoid)
    forbidden = make_instruction("keywords:forbidden_words", {"forbidden_words": ["tea"]})
    wanted = make_instruction("keywords:existence", {"keywords": ["tea"]})
    with pytest.raises(TaskError, match="cannot write a text that follows ForbiddenWords"):
        write([forbidden, wanted])
