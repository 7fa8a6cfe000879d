"""Task folders in harbor's format."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from toolrl import Message, Score, StopReason, ToolEnv
from toolrl.support.event_loop import run_sync

MakeTask = Callable[..., Path]

TEST = """#!/bin/bash
set -e
tests="$(dirname "$0")"
test "$(cat count.txt)" = "$(cat "$tests/expected")"
echo 1 > "$tests/../logs/verifier/reward.txt"
"""


@pytest.fixture
def make_task(tmp_path: Path) -> MakeTask:
    """Writes a task folder: counting the lines of `data.txt`, unless told otherwise."""

    def make(files: Mapping[str, str | bytes] | None = None, name: str = "count", toml: str = "") -> Path:
        folder = tmp_path / "tasks" / name
        content: dict[str, str | bytes] = {
            "task.toml": f'schema_version = "1.4"\n[metadata]\ncategory = "files"\ndifficulty = "easy"\n{toml}',
            "instruction.md": "Write the number of lines of data.txt into count.txt.\n",
            "environment/Dockerfile": "FROM ubuntu:24.04\nWORKDIR /app\nCOPY data.txt .\n",
            "environment/data.txt": "a\nb\nc\n",
            "tests/test.sh": TEST,
            "tests/expected": "3\n",
            "solution/solve.sh": "#!/bin/bash\nwc -l < data.txt > count.txt\n",
        }
        content |= files or {}
        for path, text in content.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(text if isinstance(text, bytes) else text.encode())
        return folder

    return make


@pytest.fixture
def play() -> Iterator[Callable[..., Score]]:
    """Plays an episode with these messages and returns its score; nothing may be left open."""
    envs: list[ToolEnv] = []

    def play(env: ToolEnv, messages: Sequence[Message], task: int = 0, results: list[Any] | None = None) -> Score:
        envs.append(env)
        session = env.open_episode(env.tasks[task])
        try:
            stop = None
            for message in messages:
                step = run_sync(session.advance(message))
                stop = step.stop
                if results is not None:
                    results += step.results
            return run_sync(session.score(stop or StopReason.TURNS))
        finally:
            run_sync(session.close())

    yield play
    for env in envs:
        env.close()
