"""Promises about files of trajectories: whole lines only, even if several processes write or one is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from toolrl import Message, Score, StopReason, TaskError, Trajectory, TrajectoryWriter, read_trajectories


def make_trajectory(id: str, answer: str = "") -> Trajectory:
    score = Score(1.0, {"correct": 1.0}, answer)
    return Trajectory(id, "toolrl/PythonMath-v0", "t", (Message("user", "q?"),), [1], (), score, StopReason.ANSWER)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "trajectories.jsonl"


def write(path: Path, *written: Trajectory) -> None:
    with TrajectoryWriter(path) as writer:
        for trajectory in written:
            writer.write(trajectory)


def ids(path: Path) -> list[str]:
    return [trajectory.id for trajectory in read_trajectories(path)]


def test_a_line_that_a_killed_run_left_unfinished_is_not_read_and_is_cut_at_the_next_start(path: Path) -> None:
    write(path, make_trajectory("a"), make_trajectory("b"))
    whole = path.read_bytes()
    for torn in (b"{", b'{"id": "c", "task', whole.splitlines()[0], b"x" * 200_000):
        path.write_bytes(whole + torn)
        assert ids(path) == ["a", "b"]
        TrajectoryWriter(path).close()
        assert path.read_bytes() == whole
    path.write_bytes(b"x" * 200_000)
    TrajectoryWriter(path).close()
    assert path.read_bytes() == b""


def test_a_writer_is_not_affected_by_another_that_was_killed(path: Path) -> None:
    with TrajectoryWriter(path) as writer:
        writer.write(make_trajectory("a"))
        with path.open("ab") as other:
            other.write(b'{"id": "b", "ta')
        writer.write(make_trajectory("c"))
    assert ids(path) == ["a", "c"]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"5", b"not JSON", b'{"schema_version": 99}', b"\xff\xfe"])
def test_a_broken_line_in_the_middle_is_named(path: Path, line: bytes) -> None:
    write(path, make_trajectory("a"))
    with path.open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(TaskError, match=r"trajectories\.jsonl, line 2: not a trajectory"):
        ids(path)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(TaskError, match=r"no trajectories at '.*trajectories\.jsonl'"):
        ids(path)


def test_closing_twice_does_nothing(path: Path) -> None:
    writer = TrajectoryWriter(path)
    writer.close()
    writer.close()


# ---- several writers

LONG = "x" * 20_000


@pytest.fixture
def short_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system writes a little at a time, as it may: without locks, lines would mix."""
    write_all = os.write

    def write_some(descriptor: int, data: bytes | memoryview) -> int:
        written = write_all(descriptor, data[:4096])
        time.sleep(0)
        return written

    monkeypatch.setattr(os, "write", write_some)


def append(path: Path, name: str, count: int) -> None:
    with TrajectoryWriter(path) as writer:
        for number in range(count):
            writer.write(make_trajectory(f"{name}{number}", LONG))


def assert_complete(path: Path, names: str, count: int) -> None:
    written = ids(path)
    assert sorted(written) == sorted(f"{name}{number}" for name in names for number in range(count))
    for name in names:
        assert [id for id in written if id[0] == name] == [f"{name}{number}" for number in range(count)]


@pytest.mark.usefixtures("short_writes")
def test_several_processes_append_whole_lines(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append, args=(path, name, 20)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert_complete(path, "abc", 20)


@pytest.mark.usefixtures("short_writes")
def test_several_threads_append_whole_lines_with_one_writer(path: Path) -> None:
    with TrajectoryWriter(path) as writer:

        def write_all(name: str) -> None:
            for number in range(20):
                writer.write(make_trajectory(f"{name}{number}", LONG))

        threads = [threading.Thread(target=write_all, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_complete(path, "abc", 20)


ENDLESS_WRITER = """
import dataclasses, sys
from toolrl import TrajectoryWriter, read_trajectories
template = next(iter(read_trajectories(sys.argv[1])))
with TrajectoryWriter(sys.argv[2]) as writer:
    while True:
        writer.write(template)
        print(flush=True)
"""


@pytest.fixture
def endless_writer(tmp_path: Path, path: Path) -> list[str]:
    """The command of a process that writes until it is killed, and prints a line for each trajectory."""
    template = tmp_path / "template.jsonl"
    write(template, make_trajectory("template", LONG * 25))
    return [sys.executable, "-c", ENDLESS_WRITER, str(template), str(path)]


def test_a_killed_writer_leaves_whole_lines_once_the_file_is_opened_again(
    path: Path, endless_writer: list[str]
) -> None:
    kept = 0
    for lines_before_the_kill in (1, 2, 3, 5, 8):
        with subprocess.Popen(endless_writer, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(lines_before_the_kill):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        TrajectoryWriter(path).close()
        assert path.read_bytes().endswith(b"\n")
        lines = len(ids(path))
        assert lines >= kept + lines_before_the_kill, "a trajectory that was written is not lost"
        kept = lines
