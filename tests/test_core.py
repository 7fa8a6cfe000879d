"""Promises about `pip install toolrl` without extras: what it does, and what says which extra is missing."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from toolrl.errors import EXTRA_OF

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Runs the command line where no package of an extra can be imported.
WITHOUT = """
import sys

BLOCKED = set({blocked!r})

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
ENVIRONMENT = """
from toolrl import Task, ToolEnv, call, say, tool

@tool
def double(number: int) -> int:
    \"\"\"Double a number.

    Args:
        number: Any.
    \"\"\"
    return 2 * number

env = ToolEnv(
    tasks=[Task(f"t{n}", f"What is {n} doubled?", str(2 * n)) for n in range(30, 60)],
    tools=[double],
    reward=lambda task, episode: float(episode.answer == task.answer),
    oracle=lambda task: [call("double", number=int(task.answer) // 2), say(task.answer)],
)
"""


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower()


def closure(names: set[str]) -> set[str]:
    """Distributions that these bring, themselves among them."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            required = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        waiting += [name_of(one) for one in required if "extra ==" not in one]
    return found


def modules_without_extras() -> set[str]:
    """Top-level modules of installed distributions that the core does not bring."""
    core = closure({name_of(one) for one in PROJECT["dependencies"]}) | {"toolrl"}
    by_module = importlib.metadata.packages_distributions()
    return {
        module
        for module, owners in by_module.items()
        if not {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners} & core
        and module.isidentifier()
        and module not in sys.stdlib_module_names
        and not module.startswith("_")
    }


def run(code: str, *arguments: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=sorted(modules_without_extras())) + code, *arguments],
        capture_output=True, text=True, cwd=folder, timeout=100, input=stdin,
    )  # fmt: skip


def command(*arguments: str, folder: Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return run("from toolrl.cli import main; main(sys.argv[1:])", *arguments, folder=folder, stdin=stdin)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doubling.py").write_text(ENVIRONMENT)
    return tmp_path


def test_the_core_is_small_and_has_no_torch() -> None:
    assert len(PROJECT["dependencies"]) <= 10
    brought = closure({name_of(one) for one in PROJECT["dependencies"]})
    assert not brought & {"torch", "transformers", "pandas", "pyarrow", "scipy"}
    assert len(brought) < 40


def test_each_package_is_in_the_extra_that_is_named() -> None:
    extras = PROJECT["optional-dependencies"]
    distribution = {"yaml": "pyyaml"}
    for package, extra in EXTRA_OF.items():
        assert distribution.get(package, package) in {name_of(one) for one in extras[extra]}, package
    trained = {name_of(one) for one in extras["train"]} | {name_of(one) for one in extras["view"]}
    assert {"torch", "trl", "pandas"} <= trained
    for extra in ("dev", "vllm", "lora", "gguf", "ray"):
        assert any("train" in one for one in extras[extra]), extra


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["check", "doubling.py"], "", "passed  oracle"),
        (["audit", "doubling.py", "--tasks", "3"], "", "PASSED"),
        (["eval", "doubling.py", "--policy", "oracle", "--tasks", "4", "--out", "x.jsonl"], "", "1.00"),
        (["play", "doubling.py"], "/call double number=4\n8\n", "tool double: 8"),
        (["envs", "PythonMath"], "", "Arithmetic"),
        (["check", "toolrl/PythonMath-v0", "--tasks", "2"], "", "passed  oracle"),
    ],
)
def test_what_the_core_does(folder: Path, arguments: list[str], stdin: str, said: str) -> None:
    done = command(*arguments, folder=folder, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert said.casefold() in done.stdout.casefold()


@pytest.mark.parametrize(
    ("arguments", "extra"),
    [
        (["eval", "doubling.py"], "train"),
        (["train", "--config", "tiny"], "train"),
        (["view", "x.jsonl"], "view"),
        (["sandbox", "serve"], "view"),
        (["check", "toolrl/DocsSearch-v0"], "search"),
    ],
)
def test_what_it_does_not_names_the_extra(folder: Path, arguments: list[str], extra: str) -> None:
    (folder / "x.jsonl").write_text("")
    done = command(*arguments, folder=folder)
    assert done.returncode == 2
    assert f"pip install 'toolrl[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_python_names_the_extra_too(folder: Path) -> None:
    code = """
import json, toolrl
from toolrl.errors import MissingExtra
found = {}
for name, use in {
    "load": lambda: toolrl.load("x"),
    "train": lambda: __import__("toolrl.training").training.train,
    "bm25": lambda: __import__("toolrl.search").search.BM25Retriever,
    "model": lambda: __import__("toolrl.policy").policy.load_model,
}.items():
    try:
        use()
    except MissingExtra as error:
        found[name] = str(error).partition("[")[2].partition("]")[0]
print(json.dumps(found))
"""
    done = run(code, folder=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "load": "view", "train": "train", "bm25": "search", "model": "train",
    }  # fmt: skip
