"""Packages that `toolrl init` wrote, for the tests to import."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gymnasium

from toolrl.scaffold import Names, make_package


@contextmanager
def imported(folder: Path, kind: str) -> Iterator[Names]:
    """Write a package of a kind to a folder, make it importable, and forget it afterwards."""
    names, _ = make_package(f"sample-{kind}", kind, folder)
    source = str(folder / "src")
    sys.path.insert(0, source)
    try:
        __import__(names.module)
        yield names
    finally:
        sys.path.remove(source)
        gymnasium.registry.pop(names.env_id, None)
        for module in [module for module in sys.modules if module.split(".")[0] == names.module]:
            del sys.modules[module]
