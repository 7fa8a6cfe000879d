"""Promises about the manual: the Python on each page runs from top to bottom, and its environments are short and sound.

Every block fenced as `python` runs, all blocks of a page in one module, in an empty folder. A block after the line
`<!-- not run: REASON -->` is skipped. Each `ToolEnv` that a block makes passes `toolrl check`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from toolrl import ToolEnv
from toolrl.audit import check_environment

ROOT = Path(__file__).parent.parent
MAX_LINES = 40  # of a block that makes an environment, not counting empty ones

BLOCK = re.compile(r"(?P<skip><!-- not run: .+ -->\n+)?^```python\b.*\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)


def blocks_of(page: Path) -> Iterator[tuple[int, str]]:
    """The blocks of a page that run, each with the number of lines before it."""
    text = page.read_text("utf-8")
    for block in BLOCK.finditer(text):
        if not block["skip"]:
            yield text.count("\n", 0, block.start("code")), block["code"]


PAGES = [page for page in sorted((ROOT / "docs").rglob("*.md")) if any(blocks_of(page))]


def run(page: Path, blocks: Iterable[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run blocks in one module, and check the environments that each makes."""
    module = ModuleType(f"docs_{page.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    checked: list[ToolEnv] = []
    try:
        for line, code in blocks:
            exec(compile("\n" * line + code, str(page), "exec"), vars(module))
            made = [value for value in vars(module).values() if isinstance(value, ToolEnv)]
            for env in [env for env in made if not any(env is other for other in checked)]:
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
