"""Promises about the guides for contributors: every path they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PATH = re.compile(r"\b(?:toolrl|envs|tests|docs|notebooks)/[\w./-]*|\b[A-Z]+\.md\b")


@pytest.mark.parametrize("guide", ["AGENTS.md", "CONTRIBUTING.md"])
def test_every_path_in_a_guide_exists(guide: str) -> None:
    text = (ROOT / guide).read_text("utf-8")
    # The id of an environment looks like a path: toolrl/PythonMath-v0.
    named = {path.rstrip(".") for path in PATH.findall(text) if not re.fullmatch(r"toolrl/[A-Z]\w*-v\d", path)}
    assert len(named) > 10
    assert {path for path in named if not (ROOT / path).exists()} == set()
