"""Promises about naming an environment by where it is written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolrl import ConfigError, make
from toolrl.cli import app
from toolrl.errors import EnvironmentNotFound
from toolrl.evaluation import short_name
from toolrl.training.arguments import ToolrlArguments

README = Path(__file__).parents[2] / "README.md"
NOTEBOOK = README.parent / "notebooks" / "01_first_environment.ipynb"

SOURCE = '''
from __future__ import annotations
from toolrl import Task, ToolEnv, say

def answer(task, episode):
    return float(episode.answer == task.answer)

def tasks(size=20):
    return [Task(f"t{n}", f"Say {n}.", str(n)) for n in range(size)]

def solve(task):
    return [say(task.answer)]

shop = ToolEnv(tasks=tasks(), reward=answer, oracle=solve)

class Counting(ToolEnv):
    """Says numbers."""
    def __init__(self, size: int = 20, split: str = "train"):
        super().__init__(tasks=tasks(size), reward=answer, oracle=solve, split=split)

def counting(size: int = 20) -> ToolEnv:
    return ToolEnv(tasks=tasks(size), reward=answer, oracle=solve)

def helper():
    return 1

number = 7
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "naming_many.py").write_text(SOURCE)
    (tmp_path / "naming_one.py").write_text(SOURCE.split("class Counting")[0])
    return tmp_path


@pytest.mark.parametrize("place", ["naming_many.py", "./naming_many.py", "naming_many"])
@pytest.mark.parametrize("name", ["shop", "Counting", "counting"])
def test_objects_classes_and_functions_are_made(folder: Path, place: str, name: str) -> None:
    train, test = make(f"{place}:{name}", split="train"), make(f"{place}:{name}", split="test")
    both = {task.id for task in train.tasks}, {task.id for task in test.tasks}
    assert both[0]
    assert both[1]
    assert not both[0] & both[1]
    assert len(both[0] | both[1]) == 20
    train.close()
    assert test.oracle(test.tasks[0])  # closing one does not close the other
    test.close()


def test_settings_go_to_what_takes_them(folder: Path) -> None:
    assert len(make("naming_many.py:counting", size=6).tasks) == 6
    with pytest.raises(ConfigError, match=r"naming_many.py:shop does not take these settings: 'size'; it takes: none"):
        make("naming_many.py:shop", size=3)
    with pytest.raises(ConfigError, match=r"'speed'; it takes: size"):
        make("naming_many.py:counting", speed=3)


def test_a_file_with_one_environment_needs_no_name(folder: Path) -> None:
    env = make("naming_one.py", split="test")
    assert env.made_from == (str(folder / "naming_one.py"), {"split": "test"})


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("naming_many.py", ConfigError, "several environments: Counting, counting, shop; write naming_many.py:NAME"),
        ("naming_many.py:nothing", EnvironmentNotFound, "has no 'nothing'; its environments: Counting, counting, shop"),
        ("naming_many.py:number", ConfigError, "number in naming_many.py is a int, not a ToolEnv"),
        ("naming_many.py:helper", ConfigError, "naming_many.py:helper is a int, not a toolrl.ToolEnv"),
        ("missing.py:x", EnvironmentNotFound, "there is no such file"),
        ("no_such_module:Shop", EnvironmentNotFound, "there is no module 'no_such_module'"),
    ],
)
def test_what_is_no_environment_is_one_clear_error(
    folder: Path, name: str, kind: type[Exception], message: str
) -> None:
    for settings in ({}, {"split": "train"}):
        with pytest.raises(kind, match=message):
            make(name, **settings)


def test_a_file_of_a_package_is_imported_as_a_part_of_it(folder: Path) -> None:
    package = folder / "naming_package" / "inner"
    package.mkdir(parents=True)
    for place in (package, package.parent):
        (place / "__init__.py").touch()
    (package / "words.py").write_text("ANSWER = 'yes'\n")
    (package / "env.py").write_text(
        "from .words import ANSWER\nfrom toolrl import Task, ToolEnv, say\n"
        "env = ToolEnv(tasks=[Task('t', '?', ANSWER)], reward=lambda task, episode: 1.0)\n"
    )
    env = make(str(package / "env.py"))
    assert env.tasks[0].answer == "yes"
    assert sys.modules["naming_package.inner.env"].env.tasks[0].answer == "yes"


def test_a_mistake_in_the_file_is_shown_as_it_is(folder: Path) -> None:
    (folder / "naming_broken.py").write_text("import no_such_package_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_at_all"):
        make("naming_broken.py")


def test_a_file_does_not_hide_a_module_of_the_same_name(folder: Path) -> None:
    import queue

    (folder / "queue.py").write_text(SOURCE.split("class Counting")[0])
    make("queue.py").close()
    import queue as again

    assert again is queue


@pytest.mark.parametrize(
    ("entry", "name", "weight"),
    [
        ("my_env.py:Shopping:2", "my_env.py:Shopping", 2.0),
        ("a/b/my_env.py:Shopping", "a/b/my_env.py:Shopping", 1.0),
        ("a/b/my_env.py", "a/b/my_env.py", 1.0),
        ("my_envs:mine/Shopping-v0", "my_envs:mine/Shopping-v0", 1.0),
        ("toolrl/PythonMath-v0@hard:0.5", "toolrl/PythonMath-v0@hard", 0.5),
    ],
)
def test_a_weight_follows_the_name(entry: str, name: str, weight: float) -> None:
    assert ToolrlArguments(envs=[entry]).weighted_envs() == {name: weight}
    with pytest.raises(ConfigError, match="'heavy' is not a number"):
        ToolrlArguments(envs=["toolrl/PythonMath-v0:heavy"]).weighted_envs()


def test_one_environment_with_several_settings_is_a_mixture() -> None:
    arguments = ToolrlArguments(
        envs=["toolrl/PythonMath-v0@short", "toolrl/PythonMath-v0@long:2"],
        env_settings=json.dumps({"toolrl/PythonMath-v0@short": {"size": 7}, "toolrl/PythonMath-v0@long": {"size": 9}}),
    )
    made = arguments.make_envs("train")
    assert {name: len(env.tasks) for name, env in made.items()} == {
        "toolrl/PythonMath-v0@short": 7,
        "toolrl/PythonMath-v0@long": 9,
    }
    for env in made.values():
        env.close()


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("toolrl/PythonMath-v0", "PythonMath"),
        ("toolrl/PythonMath-v0@hard", "PythonMath@hard"),
        ("my_env.py:Shopping", "Shopping"),
        ("a/b/my_env.py", "my_env"),
        ("my_envs:mine/Shop-vault-v2", "Shop-vault"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short


def written_in_the_readme() -> str:
    return README.read_text().split("```python\n", 1)[1].split("```", 1)[0]


def written_in_the_notebook() -> str:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return "\n\n".join(text for text in code if "import random" in text or "class Shopping" in text)


@pytest.mark.parametrize(
    ("written", "name"),
    [(written_in_the_readme, "of_readme.py"), (written_in_the_notebook, "of_notebook.py:Shopping")],
)
def test_the_first_environment_of_a_reader_goes_the_whole_way(
    folder: Path, written: Callable[[], str], name: str
) -> None:
    """As it stands there: checked, audited and evaluated by the file's name."""
    (folder / name.partition(":")[0]).write_text(written())
    commands = (["check"], ["audit"], ["eval", "--policy", "oracle", "--tasks", "5"], ["eval", "--tasks", "3"])
    for command in commands:
        done = CliRunner().invoke(app, [command[0], name, *command[1:]], catch_exceptions=False)
        assert done.exit_code == 0, done.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "name"),
    [(written_in_the_readme, "of_readme.py"), (written_in_the_notebook, "of_notebook.py:Shopping")],
)
def test_the_first_environment_of_a_reader_trains(folder: Path, written: Callable[[], str], name: str) -> None:
    (folder / name.partition(":")[0]).write_text(written())
    trained = ["--max_steps=2", "--num_generations=4", "--per_device_train_batch_size=8", "--eval_tasks=4"]
    quiet = ["--use_cpu=true", "--bf16=false", "--gradient_checkpointing=false", "--report_to=none"]
    command = ["train", "--envs", name, "--model_name_or_path=tiny", "--output_dir=run", *trained, *quiet]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert (folder / "run" / "report.json").exists()
