"""Promises about what `toolrl init` writes: a package of each kind is sound as it is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterator
from pathlib import Path

import nbformat
import pytest
import typer
import yaml
from rich.console import Console

from tests.scaffold.packages import imported
from toolrl import read_trajectories
from toolrl.audit import CHECKS, audit_environment, check_environment
from toolrl.cli import app
from toolrl.scaffold import KINDS, Names, make_package
from toolrl.training import train

ROOT = Path(__file__).parents[2]
PLACEHOLDER = re.compile(r"my[-_]env|MyEnv|my-about|my-extras")


def kinds(quick: Collection[str]) -> pytest.MarkDecorator:
    """Run a test for each kind, marked slow for all but these."""
    marked = [pytest.param(kind, marks=() if kind in quick else pytest.mark.slow) for kind in KINDS]
    return pytest.mark.parametrize("made", marked, indirect=True)


@pytest.fixture(scope="module")
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Names]]:
    """A package of a kind, which can be imported."""
    folder = tmp_path_factory.mktemp(request.param)
    with imported(folder, request.param) as names:
        yield folder, names


def run(folder: Path, *command: str) -> str:
    """Run a Python module in a package's folder."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["shop-a", "a-shop-with-an-unusually-long-name"])
def test_its_code_is_clean_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    _, written = make_package(name, kind, tmp_path / "made")
    with (ROOT / "pyproject.toml").open("rb") as file:
        rules = ",".join(tomllib.load(file)["tool"]["ruff"]["lint"]["select"])
    rules = rules.replace("D,", "")  # its own settings have no convention for docstrings
    run(tmp_path / "made", "ruff", "check", "--no-cache", f"--extend-select={rules}", "--ignore=RUF001,SIM108", ".")
    run(tmp_path / "made", "ruff", "format", "--no-cache", "--check", ".")
    for path in written:
        text = path.read_text("utf-8")
        assert not PLACEHOLDER.search(f"{path.relative_to(tmp_path)}\n{text}"), path
        if path.suffix == ".py":
            compile(text, str(path), "exec")


@kinds(quick=KINDS)
def test_it_passes_the_check_and_the_audit(made: tuple[Path, Names]) -> None:
    _, names = made
    # What is left behind is looked for by its own tests, in a process that nothing else runs in.
    report = check_environment(names.env_id, tasks=4, only=[name for name in CHECKS if name != "resources"])
    report.assert_passed()
    assert [result.name for result in report.results if result.findings] == []  # no warning either
    audit_environment(names.env_id, tasks=1, slow=False).assert_passed()


@kinds(quick=["tools", "conversation"])  # a process each
def test_its_own_tests_pass(made: tuple[Path, Names]) -> None:
    folder, _ = made
    assert re.search(r"\d+ passed", run(folder, "pytest", "-q", "-p", "no:cacheprovider"))


@kinds(quick=["tools"])
def test_it_trains_two_steps_with_its_settings(made: tuple[Path, Names], tmp_path: Path) -> None:
    folder, names = made
    settings = {"max_steps": 2, "eval_tasks": 2, "per_device_train_batch_size": 4, "output_dir": str(tmp_path)}
    reports = train(config=str(folder / "train.yaml"), console=Console(quiet=True), **settings)
    assert reports["after"][names.env_id].samples > 0
    trained = [t for t in read_trajectories(tmp_path / "trajectories.jsonl") if t.info["mode"] == "train"]
    assert len(trained) == 8
    assert all(trajectory.score.value is not None for trajectory in trained)


@kinds(quick=KINDS)
def test_its_files_say_what_they_should(made: tuple[Path, Names]) -> None:
    folder, names = made
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["name"] == names.distribution
    assert len(project["dependencies"]) == 1
    assert re.fullmatch(r"toolrl(\[\w+\])?", project["dependencies"][0])
    assert project["entry-points"]["gymnasium.envs"] == {names.module: f"{names.module}:register"}
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    assert {"run": "pytest"} in workflow["jobs"]["test"]["steps"]
    notebook = nbformat.read(folder / "notebooks" / "explore.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)


def test_the_commands_in_its_readme_exist(tmp_path: Path) -> None:
    make_package("my-shop", "tools", tmp_path / "made")
    text = (tmp_path / "made" / "README.md").read_text("utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"(?:^|`)toolrl (\w+)([^`\n]*)", text, re.MULTILINE)
    assert len(lines) >= 8
    for command, rest in lines:
        assert command in commands
        if command != "train":  # takes TRL's flags
            options = {option for parameter in commands[command].params for option in parameter.opts}
            assert {*re.findall(r"--[\w-]+", rest)} <= options
