"""A folder that is expensive to build is built once, by one process, and whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from toolrl.support.build_cache import load_or_build

Want = Callable[[], "subprocess.Popen[str]"]

WANT = """
import os, sys, time
from pathlib import Path
from toolrl.support.build_cache import load_or_build
cache, marks = map(Path, sys.argv[1:])
def build(folder):
    (marks / str(os.getpid())).write_text("")
    (folder / "part").write_text("1")
    time.sleep(0.3)
    (folder / "whole").write_text("1")
print(load_or_build(cache, "thing", build, lambda folder: (folder / "whole").read_text()))
"""


@pytest.fixture
def want(tmp_path: Path) -> Want:
    """Starts a process that loads or builds a folder, and leaves a mark if it builds it."""
    (tmp_path / "marks").mkdir()
    command = [sys.executable, "-c", WANT, tmp_path / "cache", tmp_path / "marks"]
    return lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_many_processes_one_builds_it_and_all_load_it(tmp_path: Path, want: Want) -> None:
    processes = [want() for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["1\n"] * 4
    assert len(list((tmp_path / "marks").iterdir())) == 1
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".lock-thing", "thing"]


def test_threads_do_not_build_it_twice(tmp_path: Path) -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "whole").write_text("1")

    def get(_: int) -> str:
        return load_or_build(tmp_path, "thing", build, lambda folder: (folder / "whole").read_text())

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(get, range(16))) == {"1"}
    assert len(built) == 1


def test_what_a_killed_process_left_is_removed_and_built_again(tmp_path: Path, want: Want) -> None:
    cache = tmp_path / "cache"
    first = want()
    while not list(cache.glob(".thing-*/part")):
        time.sleep(0.01)
    first.kill()
    first.communicate()
    assert list(cache.glob(".thing-*"))
    assert want().communicate(timeout=60)[0] == "1\n"
    assert sorted(path.name for path in cache.iterdir()) == [".lock-thing", "thing"]
