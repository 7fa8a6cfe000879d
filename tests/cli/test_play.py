"""Promises of `toolrl play`: a person sees what a model sees, and what they type is an episode like any other."""

from __future__ import annotations

import os
import pty
import runpy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies
from typer.testing import CliRunner

from toolrl import ConfigError, ToolCall, make, read_trajectories
from toolrl.cli import app
from toolrl.view.person import completions, read_calls, written_call

ROOT = Path(__file__).parents[2]
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "price", "description": "Look up.", "parameters": {
        "properties": {"fruit": {"type": "string"}, "count": {"type": "integer"}}, "required": ["fruit"]}}},
    {"type": "function", "function": {"name": "python", "parameters": {"properties": {"code": {"type": "string"}}}}},
]  # fmt: skip


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    block = (ROOT / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    file = tmp_path / "shop_to_play.py"
    file.write_text(block)
    monkeypatch.chdir(tmp_path)
    return file


def played(*lines: str, further: tuple[str, ...] = ()) -> str:
    text = "".join(f"{line}\n" for line in lines)
    done = CliRunner().invoke(app, ["play", "shop_to_play.py", *further], input=text, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def solution(shop: Path) -> list[str]:
    env = make(str(shop), split="train")
    lines = []
    for message in env.oracle(env.tasks[0]):
        lines += [written_call(call) for call in message.tool_calls] or [message.content]
    return lines


def test_a_person_solves_a_task_and_it_becomes_a_demonstration(shop: Path) -> None:
    out = shop.with_name("played.jsonl")
    said = played("/help", "/tools", *solution(shop), further=("--save", str(out)))
    assert "user: What do one" in said
    assert "fruit (string): Its name, in the singular." in said
    assert "correct 1" in said
    (episode,) = read_trajectories(out)
    assert episode.score.success
    assert episode.info["model"] == "person"
    assert [result.failure for result in episode.tool_results] == [None, None]
    data = shop.with_name("data.jsonl")
    done = CliRunner().invoke(app, ["demonstrations", str(out), "--out", str(data)], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(data.read_text().splitlines()) == 1


def test_it_becomes_a_test(shop: Path) -> None:
    out = shop.with_name("test_played.py")
    played("/call price fruit=apple", "nonsense", further=("--save", str(out)))
    tests = [value for name, value in runpy.run_path(str(out)).items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()
    out.write_text(out.read_text().replace("== 0.0", "== 1.0"))
    (again,) = [value for name, value in runpy.run_path(str(out)).items() if name.startswith("test_")]
    with pytest.raises(AssertionError):
        again()
    with pytest.raises(ConfigError, match="exists; name another file"):
        played(further=("--save", str(out)))


def test_mistakes_are_said_and_the_episode_goes_on(shop: Path) -> None:
    said = played(
        "/call", "/call price apple", '/call price fruit="apple', "/bogus", "/oracle", "/tokens", *solution(shop),
        further=("--tokens", "tiny"),
    )  # fmt: skip
    for message in (
        "which tool? There are price", "write arguments as NAME=VALUE, got 'apple'", "close the quotes",
        "'/bogus' is not known here", " tokens", "correct 1",
    ):  # fmt: skip
        assert message in said


@pytest.mark.parametrize("lines", [["/quit"], ["/call price fruit=apple"], []])
def test_a_person_may_leave(shop: Path, lines: list[str]) -> None:
    assert "ended without an answer" in played(*lines)


def test_calls_are_read_by_the_schema() -> None:
    line = '/call price fruit="red apple" count=3 /call python code="""\nx = "a b"\nprint(x)\n"""'
    assert read_calls(line, TOOLS) == (
        ToolCall("price", {"fruit": "red apple", "count": 3}),
        ToolCall("python", {"code": 'x = "a b"\nprint(x)'}),
    )
    assert read_calls("/call price fruit=7 count=many", TOOLS)[0].arguments == {"fruit": "7", "count": "many"}


@given(strategies.dictionaries(strategies.sampled_from(["fruit", "code"]), strategies.text(max_size=30), max_size=2))
def test_what_is_written_is_read_back(arguments: dict[str, str]) -> None:
    safe = {name: text.replace('"""', "").strip() for name, text in arguments.items()}
    safe = {name: text for name, text in safe.items() if "\x00" not in text and "\ue000" not in text}
    tools = [{"type": "function", "function": {"name": "t", "parameters": {"properties": {
        "fruit": {"type": "string"}, "code": {"type": "string"}}}}}]  # fmt: skip
    call = ToolCall("t", safe)
    assert read_calls(written_call(call), tools) == (call,)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/ca", ["/call "]),
        ("/call p", ["price ", "python "]),
        ("/call price fr", ["fruit="]),
        ("/call price fruit=x /call python ", ["code="]),
        ("hello wor", []),
    ],
)
def test_completion(line: str, expected: list[str]) -> None:
    assert completions(line.rpartition(" ")[2], line, TOOLS) == expected


def test_ctrl_c_in_a_terminal_ends_it_cleanly(shop: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "toolrl", "play", "shop_to_play.py"]
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=shop.parent
    )
    os.close(theirs)
    seen = read_until(ours, b"> ")
    assert b"What do one" in seen
    os.write(ours, b"/call pri\t")  # completed by the terminal
    seen = read_until(ours, b"price ")
    until = time.monotonic() + 20
    while process.poll() is None:  # one that comes just before readline waits is noticed with the next
        assert time.monotonic() < until
        process.send_signal(2)
        time.sleep(0.5)
    assert process.returncode == 130
    os.close(ours)


def read_until(terminal: int, text: bytes, seconds: float = 30.0) -> bytes:
    seen, until = b"", time.monotonic() + seconds
    while text not in seen:
        assert time.monotonic() < until, seen
        seen += os.read(terminal, 4096)
    return seen
