"""Promises about flags: one spelling, that of settings in Python and YAML; dashes are understood too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from toolrl.cli import app


def commands(command: Any, name: str = "toolrl") -> Iterator[tuple[str, Any]]:
    if hasattr(command, "commands"):
        for inner, found in command.commands.items():
            yield from commands(found, f"{name} {inner}")
    else:
        yield name, command


ALL = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", ALL)
def test_flags_are_spelt_with_underscores(name: str) -> None:
    flags = [flag for parameter in ALL[name].params for flag in (*parameter.opts, *parameter.secondary_opts)]
    assert not [flag for flag in flags if "-" in flag.lstrip("-")]


@pytest.mark.parametrize("flag", ["--env_settings", "--env-settings"])
def test_dashes_are_the_same(flag: str, tmp_path: Path) -> None:
    command = ["eval", "toolrl/PythonMath-v0", "--policy", "oracle", "--tasks", "9", "--json"]
    done = CliRunner().invoke(app, [*command, flag, '{"toolrl/PythonMath-v0": {"size": 3}}'], catch_exceptions=False)
    assert done.exit_code == 0
    assert '"samples": 3' in done.stdout or '"tasks": 3' in done.stdout
    unknown = CliRunner().invoke(app, [*command, "--env_setting", "{}"])
    assert unknown.exit_code == 2
    assert "--env_settings" in unknown.output
