"""Promises about the manual: its Python runs, its commands exist, its links lead somewhere, a term has one spelling.

Every block fenced as `python` runs, all blocks of a page in one module, in an empty folder. A block after the line
`<!-- not run: REASON -->` is skipped. Each `ToolEnv` that a block writes passes `toolrl check`. In blocks fenced as
`console` or `bash`, every command of toolrl is parsed by the command line, and not run.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml

from toolrl import ToolEnv
from toolrl.audit import check_environment
from toolrl.cli import app

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MAX_LINES = 40  # of a block that makes an environment, not counting empty ones
MAX_README_LINES = 150

# What typer's parser raises; typer has a copy of click of its own.
UsageError: Any = typer.BadParameter.__base__

# Everything that the site shows, and what is written for the repository only.
WRITTEN = [
    *sorted(DOCS.rglob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *sorted((ROOT / "envs" / "toolrl_envs").glob("*/README.md")),
]

BLOCK = re.compile(r"(?P<skip><!-- not run: .+ -->\n+)?^```python\b.*\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
FENCE = re.compile(r"^ *```(?P<language>\w*).*\n(?P<text>(?:.*\n)*?) *```$", re.MULTILINE)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)


def by_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[tuple[int, str]]:
    """The blocks of a page that run, each with the number of lines before it."""
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        if not block["skip"]:
            yield text.count("\n", 0, block.start("code")), block["code"]


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if any(blocks_of(page))]


def run(page: Path, blocks: Iterable[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run blocks in one module, and check the environments that each makes."""
    module = ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    checked: list[ToolEnv] = []
    try:
        for line, code in blocks:
            exec(compile("\n" * line + code, str(page), "exec"), vars(module))
            made = [value for value in vars(module).values() if isinstance(value, ToolEnv)]
            own = [env for env in made if env.made_from is None]  # others are checked where they come from
            for env in [env for env in own if not any(env is other for other in checked)]:
                checked.append(env)
                length = sum(bool(text.strip()) for text in code.splitlines())
                assert length <= MAX_LINES, f"{page.name}:{line}: the environment takes {length} lines"
                check_environment(env, tasks=3).assert_passed()
    finally:
        for env in checked:
            env.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_on_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, blocks_of(page), monkeypatch)


def test_the_readmes_environment_is_short_and_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = ROOT / "README.md"
    run(readme, [next(blocks_of(readme))], monkeypatch)


def test_the_readme_is_a_landing_page() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= MAX_README_LINES


# ---- links


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


def anchor(heading: str) -> str:
    """The id that Markdown gives a heading."""
    heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@cache
def anchors(page: Path) -> set[str]:
    found = {anchor(heading) for heading in HEADING.findall(FENCE.sub("", page.read_text("utf-8")))}
    if page == DOCS / "reference" / "cli.md":
        found |= {f"toolrl-{'-'.join(names)}" for names in commands()}
    return found


@pytest.mark.parametrize("page", WRITTEN, ids=by_name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text("utf-8"))
    broken = []
    for target in (match["target"] for match in LINK.finditer(text)):
        path, _, fragment = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = page if not path else page.parent / path
        if not found.exists() or (fragment and fragment not in anchors(found.resolve())):
            broken.append(target)
    assert broken == []


# ---- the site


@cache
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages_in(navigation: Any) -> Iterator[str]:
    if isinstance(navigation, str):
        yield navigation
    else:
        for entry in navigation.values() if isinstance(navigation, dict) else navigation:
            yield from pages_in(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    listed = list(pages_in(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    there |= {place for place in hooks().OUTSIDE if place.endswith(".md")}
    assert sorted(listed) == sorted(there)


def test_links_between_the_manual_and_the_rest_of_the_repository_hold_on_the_site() -> None:
    moved = hooks().with_site_links
    assert moved("[a](../README.md)", "quickstart.md") == "[a](index.md)"
    assert moved("[a](docs/tokens.md#text-is-text)", "index.md") == "[a](tokens.md#text-is-text)"
    assert moved("[a](../envs/toolrl_envs/retail/README.md)", "code.md") == "[a](environments/retail.md)"
    image = "![a](../../../notebooks/images/frozen_lake.png)"
    assert moved(image, "environments/toy_text.md") == "![a](../images/frozen_lake.png)"
    assert moved("[the notebooks](notebooks)", "index.md") == "the notebooks"
    assert moved("```\n[a](../README.md)\n```\n", "quickstart.md") == "```\n[a](../README.md)\n```\n"


@pytest.mark.slow
def test_the_site_builds_strictly_and_needs_no_network(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the extra docs is not installed")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    remote = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    found = {link for page in tmp_path.rglob("*.html") for link in remote.findall(page.read_text("utf-8"))}
    assert found == set()


# ---- commands


@cache
def commands() -> dict[tuple[str, ...], Any]:
    """Each command by its words, such as ("search", "serve")."""

    def walk(command: Any, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if not hasattr(command, "commands"):
            yield names, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*names, name))

    return dict(walk(typer.main.get_command(app), ()))


def shown_commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """The arguments of each command of toolrl in the blocks of a page, with its line."""
    text = page.read_text("utf-8")
    for block in FENCE.finditer(text):
        if block["language"] not in ("console", "bash"):
            continue
        number = text.count("\n", 0, block.start("text"))
        for line in re.sub(r"\\\n", "  ", block["text"]).splitlines():
            number += 1
            try:
                words = shlex.split(line, comments=True)
            except ValueError:
                continue  # a line within a quoted text
            for place, word in enumerate(words):
                if word == "toolrl" and (place == 0 or words[place - 1] in ("-m", "do", "&&", ";")):
                    yield number, words[place + 1 :]
                    break
                if word == "toolrl" and "srun" in words:
                    yield number, words[place + 1 :]
                    break


def settings_of(command: str) -> set[str]:
    """The names of the settings of `train` and `sft`."""
    pytest.importorskip("trl", reason="the extra train is not installed")
    from trl import GRPOConfig, ModelConfig, SFTConfig

    from toolrl.training import DemonstrationArguments, ToolrlArguments

    parts = (ToolrlArguments, GRPOConfig, ModelConfig)
    if command == "sft":
        parts = (DemonstrationArguments, SFTConfig, ModelConfig)
    return {"config", "help", *(field.name for part in parts for field in dataclasses.fields(part))}


def fault_of(words: list[str]) -> str:
    """What is wrong with a command, without running it."""
    names = next((names for names in commands() if tuple(words[: len(names)]) == names), None)
    if names is None:
        return "there is no such command"
    arguments = [word for word in words[len(names) :] if word != "..."]
    if names in (("train",), ("sft",)):
        flags = {re.sub("-", "_", word[2:].partition("=")[0]) for word in arguments if word.startswith("--")}
        known = settings_of(names[0])
        unknown = {flag for flag in flags if flag not in known and flag.removeprefix("no_") not in known}
        return f"unknown settings {sorted(unknown)}" if unknown else ""
    try:
        commands()[names].make_context(" ".join(names), arguments).close()
    except typer.Exit:  # after --help
        return ""
    except UsageError as error:
        return str(error.format_message())
    return ""


@pytest.mark.parametrize("page", [page for page in WRITTEN if any(shown_commands(page))], ids=by_name)
def test_every_command_on_a_page_exists_with_its_flags(page: Path) -> None:
    found = {f"{page.name}:{line}: toolrl {shlex.join(words)}": fault_of(words) for line, words in shown_commands(page)}
    assert {shown: fault for shown, fault in found.items() if fault} == {}


def test_every_target_of_make_on_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {
        (by_name(page), target)
        for page in WRITTEN
        if page.name != "CHANGELOG.md"
        for target in re.findall(r"(?:^|`)make ([a-z][\w-]*)", page.read_text("utf-8"), re.MULTILINE)
    }
    assert {(page, target) for page, target in named if target not in targets} == set()


# ---- completeness and words


def test_every_recipe_is_in_the_manual() -> None:
    text = (DOCS / "recipes.md").read_text("utf-8")
    recipes = {path.stem for path in (ROOT / "toolrl" / "training" / "recipes").glob("*.yaml")}
    assert {name for name in recipes if f"`{name}`" not in text} == set()


def test_every_environment_is_in_the_manual() -> None:
    from toolrl_envs import ENTRY_POINTS

    text = (DOCS / "ready_made.md").read_text("utf-8")
    assert {name for name in ENTRY_POINTS if f"`{name}`" not in text} == set()


def test_terms_have_the_spelling_of_the_glossary() -> None:
    glossary = DOCS / "glossary.md"
    refused = [
        word.strip()
        for words in re.findall(r"\*not:\* ([^|]+)", glossary.read_text("utf-8"))
        for word in words.split(",")
    ]
    assert len(refused) > 3
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, refused))})s?\b", re.IGNORECASE)
    found = {
        (by_name(page), match[0])
        for page in WRITTEN
        if page != glossary
        for match in pattern.finditer(without_code(page.read_text("utf-8")))
    }
    assert found == set()
