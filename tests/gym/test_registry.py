"""Promises about third-party environments by id: made, split, listed, trained and evaluated as ours are."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import gymnasium
import pytest
from typer.testing import CliRunner

import toolrl
from toolrl import ConfigError, Task, TaskError, TaskSet, ToolEnv, say
from toolrl.audit import check_environment
from toolrl.cli import app
from toolrl.errors import EnvironmentNotFound
from toolrl.gym.registry import environment_ids
from toolrl.training.arguments import ToolrlArguments

AUTHORS = """
import gymnasium
from toolrl import Task, TaskSet, ToolEnv, say

def tasks(count=40):
    return TaskSet(Task(f"t{n}", f"What is {n} plus {n}?", str(2 * n), difficulty=n % 3) for n in range(count))

class Forwards(ToolEnv):
    def __init__(self, reward=None, **settings):
        super().__init__(
            tasks=tasks(),
            reward=reward or (lambda task, episode: float(episode.answer == task.answer)),
            oracle=lambda task: [say(task.answer)],
            **settings,
        )

class Plain(Forwards):
    def __init__(self):
        super().__init__()

class OwnSplits(Forwards):
    def __init__(self, split="train"):
        super().__init__()
        self.tasks = TaskSet([task for task in self.tasks if (int(task.id[1:]) < 30) == (split == "train")])

def made():
    return Plain()

for name in ("Forwards", "Plain", "OwnSplits"):
    gymnasium.register(f"{NAMESPACE}/{name}-v0", entry_point=f"{__name__}:{name}")
gymnasium.register(f"{NAMESPACE}/Function-v0", entry_point=made)
gymnasium.register(f"{NAMESPACE}/Lost-v0", entry_point="nowhere_to_be_found:Env")
gymnasium.register(f"{NAMESPACE}/Misnamed-v0", entry_point=f"{__name__}:Missing")
"""
_count = itertools.count()


@pytest.fixture
def authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module that registers environments in a namespace of the same name, not yet imported."""
    name = f"authors_{next(_count)}"
    (tmp_path / f"{name}.py").write_text(f"NAMESPACE = {name!r}\n{AUTHORS}")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    for env_id in [env_id for env_id in gymnasium.registry if env_id.startswith(name)]:
        del gymnasium.registry[env_id]
    sys.modules.pop(name, None)


@pytest.mark.parametrize("kind", ["Forwards", "Plain", "OwnSplits", "Function"])
def test_any_environment_can_be_made_for_both_splits_which_share_no_task(authors: str, kind: str) -> None:
    train, test = (toolrl.make(f"{authors}:{authors}/{kind}-v0", split=split) for split in ("train", "test"))
    assert not {task.prompt for task in train.tasks} & {task.prompt for task in test.tasks}
    assert len(train.tasks) + len(test.tasks) == 40
    assert len(train.tasks) > len(test.tasks) > 3
    assert (kind == "OwnSplits") == (len(test.tasks) == 10 and test.tasks[0].id == "t30")


def test_an_environment_without_splits_says_that_it_was_divided(authors: str, caplog: pytest.LogCaptureFixture) -> None:
    env = toolrl.make(f"{authors}:{authors}/Plain-v0", split="test")
    assert f"{authors}/Plain-v0 has no splits of its own" in caplog.text
    assert f"'test' has {len(env.tasks)} of 40" in caplog.text
    caplog.clear()
    assert len(toolrl.make(f"{authors}/Plain-v0").tasks) == 40
    toolrl.make(f"{authors}/OwnSplits-v0", split="test")
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["Forwards", "Plain"])
def test_a_split_that_does_not_exist_is_refused(authors: str, kind: str) -> None:
    with pytest.raises(ConfigError, match="split must be 'train' or 'test', got 'dev'"):
        toolrl.make(f"{authors}:{authors}/{kind}-v0", split="dev")


def test_settings_that_are_not_taken_are_named_without_their_values(authors: str) -> None:
    with pytest.raises(ConfigError, match=r"does not take these settings: 'api_key'; it takes: split") as caught:
        toolrl.make(f"{authors}:{authors}/OwnSplits-v0", api_key="s3cret", split="test")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("no_such_module:ns/X-v0", "no module 'no_such_module' here or installed"),
        ("no_such_module.py:ns/X-v0", "there is no such file"),
        ("{0}:{0}/Plan-v0", "did you mean {0}/Plain-v0"),
        ("{0}/Plain-v0", "if a module of yours registers it, write MODULE:{0}/Plain-v0"),
        (":ns/X-v0", "no module ''"),
    ],
)
def test_an_id_that_leads_nowhere_says_what_to_write(authors: str, env_id: str, message: str) -> None:
    with pytest.raises(EnvironmentNotFound) as caught:
        toolrl.make(env_id.format(authors))
    assert message.format(authors) in str(caught.value)


@pytest.mark.parametrize("kind", ["Lost", "Misnamed"])
def test_an_entry_point_that_cannot_be_loaded_is_named(authors: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"{kind}-v0 is registered with entry_point='\w+:\w+', which cannot be"):
        toolrl.make(f"{authors}:{authors}/{kind}-v0")


def test_a_mistake_inside_a_module_keeps_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "imports_what_is_missing.py").write_text("import numpyy")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="numpyy"):
        toolrl.make("imports_what_is_missing:ns/X-v0")


def test_third_party_environments_are_listed_and_gymnasiums_are_not(authors: str) -> None:
    assert f"{authors}/Plain-v0" not in environment_ids()
    output = CliRunner().invoke(app, ["envs", "--module", authors], catch_exceptions=False).output
    lines = {line.split()[0]: line.split(maxsplit=3) for line in output.splitlines()}
    assert lines[f"{authors}/Plain-v0"][1:] == [authors]
    assert lines[f"{authors}/Function-v0"][1:] == [authors]
    assert lines["toolrl/PythonMath-v0"][1:3] == ["toolrl", version("toolrl")]
    assert lines["toolrl/PythonMath-v0"][3].startswith("Arithmetic and number problems")
    assert "CartPole" not in output


def test_environments_are_found_by_a_part_of_their_names() -> None:
    found = json.loads(CliRunner().invoke(app, ["envs", "docs", "--json"], catch_exceptions=False).output)
    assert [one["env_id"] for one in found] == ["toolrl/DocsCompute-v0", "toolrl/DocsSearch-v0"]
    with pytest.raises(EnvironmentNotFound, match=r"has 'PythonMaths' in its name; there are toolrl/PythonMath-v0"):
        CliRunner().invoke(app, ["envs", "PythonMaths"], catch_exceptions=False)


def test_a_plugin_that_fails_hides_no_other_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    from toolrl.gym.registry import load_plugins

    broken = importlib.metadata.EntryPoint("broken", "no_such_plugin:register", "gymnasium.envs")
    module = importlib.metadata.EntryPoint("module", "toolrl_envs", "gymnasium.envs")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [broken, module])
    load_plugins.cache_clear()
    with pytest.warns(UserWarning, match="the environments of 'no_such_plugin:register' are skipped"):
        assert "toolrl/PythonMath-v0" in environment_ids()


def test_every_command_accepts_an_id_with_its_module(authors: str, tmp_path: Path) -> None:
    env_id, out = f"{authors}:{authors}/Forwards-v0", tmp_path / "played.jsonl"

    def run(*arguments: object) -> str:
        result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run("eval", env_id, "--policy", "oracle", "--tasks", 3, "--split", "train", "--out", out)
    row = json.loads(out.read_text().splitlines()[0])
    assert row["env_id"] == env_id
    assert json.loads(row["info"])["difficulty"] in (0, 1, 2)
    run("regrade", out)
    run("demonstrations", out, "--env", env_id, "--tasks", 2, "--out", tmp_path / "demonstrations.jsonl")
    run("check", env_id, "--tasks", 2)
    assert run("show", out, "--where", "info('difficulty') >= 0")


@pytest.mark.parametrize(
    ("entries", "weights"),
    [
        (["ns/A-v0"], {"ns/A-v0": 1.0}),
        (["ns/A-v0:2", "mod:ns/A-v0"], {"ns/A-v0": 2.0, "mod:ns/A-v0": 1.0}),
        (["pkg.mod:ns/A-v0:0.5"], {"pkg.mod:ns/A-v0": 0.5}),
        (["mod:A-v0", "B-v0:3"], {"mod:A-v0": 1.0, "B-v0": 3.0}),
    ],
)
def test_envs_of_training_take_modules_and_weights(entries: list[str], weights: dict[str, float]) -> None:
    assert ToolrlArguments(envs=entries).weighted_envs() == weights


@pytest.mark.parametrize("weight", ["0", "-1", "inf", "nan", "1e999"])
def test_an_invalid_weight_is_refused(weight: str) -> None:
    with pytest.raises(ConfigError, match=r"the weight must be a positive number"):
        ToolrlArguments(envs=[f"ns/A-v0:{weight}"]).weighted_envs()


# ---- what check finds of an author's splits and seeds


def env_of(tasks: list[Task]) -> ToolEnv:
    return ToolEnv(
        tasks=tasks, reward=lambda task, episode: float(episode.answer == task.answer), oracle=lambda t: [say(t.answer)]
    )


def test_a_split_that_is_taken_and_ignored_is_found() -> None:
    def ignores(**settings: object) -> ToolEnv:
        return env_of([Task(str(n), f"p{n}", "x") for n in range(5)])

    report = check_environment(ignores, only=["splits"])
    assert "5 of 5 test tasks have the id of a train task" in str(report)


@pytest.mark.parametrize("field", ["id", "answer", "metadata"])
def test_tasks_that_differ_in_anything_are_not_deterministic(field: str) -> None:
    count = itertools.count()

    def changes() -> ToolEnv:
        facts = {"id": "t", "answer": "a", "metadata": "m"}
        facts[field] += str(next(count))
        return env_of([Task(facts["id"], "always the same prompt", facts["answer"], {"fact": facts["metadata"]})])

    report = check_environment(changes, only=["determinism"])
    assert f"its tasks differ: {field} " in str(report)


def test_a_reset_that_changes_the_answer_alone_is_not_deterministic() -> None:
    class Redraws(ToolEnv):
        count = itertools.count()

        def __init__(self) -> None:
            super().__init__(tasks=[Task("t", "p", "a"), Task("u", "q", "a")], reward=lambda task, episode: 0.0)

        def reset(self, *, seed: int | None = None, options: dict[str, object] | None = None):  # type: ignore[no-untyped-def]
            return super().reset(seed=seed, options={"task": Task("t", "p", str(next(self.count)))})

    assert "two tasks with the same prompt: answer" in str(check_environment(Redraws, only=["determinism"]))


# ---- dividing


@pytest.mark.parametrize("count", [2, 3, 4, 10, 300])
def test_both_sides_have_tasks_however_few_there_are(count: int) -> None:
    tasks = TaskSet(Task(str(n), f"question {n}", n) for n in range(count))
    train, test = tasks.of_split("train"), tasks.of_split("test")
    assert sorted(task.id for task in (*train, *test)) == sorted(task.id for task in tasks)
    assert not {task.id for task in train} & {task.id for task in test}


def test_a_task_keeps_its_side_when_others_are_added_and_equal_prompts_are_on_one_side() -> None:
    few = TaskSet(Task(str(n), f"question {n}", n) for n in range(50))
    many = TaskSet([*few, *(Task(f"more-{n}", f"another {n}", n) for n in range(500))])
    assert {t.id for t in few.of_split("test")} <= {t.id for t in many.of_split("test")}
    doubled = TaskSet([*few, *(Task(f"again-{n}", f" Question  {n} ", n) for n in range(50))])
    test = {t.id for t in doubled.of_split("test")}
    assert {f"again-{id}" for id in test if "-" not in id} == {id for id in test if "-" in id}


def test_tasks_with_the_same_prompt_cannot_be_split() -> None:
    same = TaskSet(Task(str(n), "the same", n) for n in range(5))
    assert len(same.of_split("train")) == 5
    with pytest.raises(TaskError, match="no task is left for split='test': all 5 have the same prompt"):
        same.of_split("test")
