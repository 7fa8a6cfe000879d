"""Writes the files of the tasks that are generated: `python -m toolrl_envs.terminal.make`.

A task's own `tests/check.py` draws its environment, and computes what is right from the same draw. For the tasks that
ask for a program, both are in `toolrl_envs.terminal.programs`.
"""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from types import ModuleType

from toolrl_envs.terminal.programs.cases import cases_text

TASKS = Path(__file__).parent / "tasks"


def generated(task: Path) -> dict[str, bytes]:
    """The generated files of a task folder, by path."""
    cases = {}
    if (task / "tests" / "cases.json").exists():
        module = importlib.import_module(f"toolrl_envs.terminal.programs.{task.name.replace('-', '_')}")
        cases["tests/cases.json"] = cases_text(module.PROGRAM, module.sessions()).encode()
    else:
        module = _load(task / "tests" / "check.py")
    files = module.environment()
    return {**{f"environment/files/{name}": content for name, content in files.items()}, **cases}


def _load(path: Path) -> ModuleType:
    """Run a file as a module, without leaving bytecode next to it."""
    module = ModuleType("check")
    exec(compile(path.read_text("utf-8"), path, "exec"), vars(module))
    return module


def main() -> None:
    """Write them all."""
    for task in sorted(TASKS.iterdir()):
        shutil.rmtree(task / "environment" / "files", ignore_errors=True)
        for name, content in generated(task).items():
            (task / name).parent.mkdir(parents=True, exist_ok=True)
            (task / name).write_bytes(content)


if __name__ == "__main__":
    main()
