"""Verdicts of test scripts on the files that a model left, as harbor's tasks have them.

The model's processes are ended. Its files are copied, as data, into a fresh sandbox whose processes have never run
anything of the model's; the tests are put there, read-only, only now. They run in a clean environment, with an empty
home folder, and what they started is ended before their verdict is read.

What this cannot prevent: tests that execute the model's program run it as their own user. It can read the tests, and
write a verdict before or after them. So a verdict above zero counts only if the script exits with 0, which no other
process can bring about: let failing tests exit with another code. Nor is a verdict file read that the tests do not
name.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolrl.errors import SandboxFault
from toolrl.sandbox import ExecResult, FileTree, Mount, Sandbox, SandboxFactory, SandboxLimits, open_sandbox
from toolrl.tools import Shell
from toolrl.types import Score

VERDICTS = ("reward.json", "reward.txt")  # the first that exists counts
VERDICT_FOLDER = "logs/verifier"
TESTS_FOLDER = "tests"
_ATTEMPTS = 3  # of which all but the last may end with a fault
_PASSED = "the tests passed"
_MAX_VERDICT_BYTES = 1 << 16
_MAX_LOG_CHARACTERS = 200
_ENVIRONMENT = {"TERM": "dumb", "PYTHONNOUSERSITE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Verifier:
    """Grades the files in a shell's folder with a test script.

    The script `test.sh` starts in the folder with the model's files. Its own folder is read-only, and next to it is
    `logs/verifier`, where it writes `reward.json` (a number, or numbers by name) or else `reward.txt` (a number). If
    nothing in its folder mentions such a file, its exit code decides.

    Attributes:
        tests: The folder with `test.sh`.
        seconds: Time limit of the script.
        environment: Environment variables of the script.
        sandbox: The backend, as for `shell_tool`.
        limits: Limits of its sandbox.
        in_root: Names of folders to have in the root too: those of the tests, of the verdict and of the files. Their
            paths then begin with "/".
    """

    tests: Path
    seconds: float = 60.0
    environment: Mapping[str, str] = field(default_factory=dict)
    sandbox: str | SandboxFactory = "local"
    limits: SandboxLimits = field(default_factory=lambda: SandboxLimits(processes=64))
    in_root: Sequence[str] = ()

    def score(self, shell: Shell | None) -> Score:
        """End what runs in a shell, and grade its files; 0 for a shell that was never opened (None).

        Raises:
            SandboxFault: Sandboxes failed repeatedly, for a reason that the model's files did not cause.
        """
        if shell is None:
            return _zero("the shell was never used")
        shell.end()
        try:
            tree = FileTree.of_sandbox(shell.sandbox, shell.folder, max_bytes=self.limits.disk_mb << 20)
        except OSError as error:
            return _zero(f"the files cannot be read: {error}")
        folder = shell.folder if shell.folder != "." else "app"
        for _ in range(_ATTEMPTS - 1):
            with contextlib.suppress(SandboxFault):
                return self._score_of(tree, folder)
        return self._score_of(tree, folder)

    def _score_of(self, tree: FileTree, folder: str) -> Score:
        """Run the tests in a fresh sandbox, on files in a folder of it."""
        options: dict[str, Any] = {"in_root": self.in_root} if self.in_root else {}
        mounts, top = (Mount(self.tests, TESTS_FOLDER),), "/" if self.in_root else ""
        with open_sandbox(self.sandbox, self.limits, mounts=mounts, **options) as sandbox:
            FileTree(modes={VERDICT_FOLDER: 0o755}).write(sandbox)
            try:
                tree.write(sandbox, folder)
            except OSError as error:
                return _zero(f"the files cannot be copied: {error}")
            with sandbox.new_session() as session:
                environment = {**_ENVIRONMENT, **self.environment}
                code = _RUN.format(f"{top}{folder}", f"{top}{TESTS_FOLDER}/test.sh", environment)
                result = session.run(code, timeout_seconds=self.seconds)
            failure, log = _failure(result, self.seconds), _end_of(result.stdout)
            return _zero(f"{failure}{log}") if failure else self._verdict(sandbox, log)

    def _verdict(self, sandbox: Sandbox, log: str) -> Score:
        """The verdict of tests that passed, whose processes have ended."""
        names = self._verdicts_named()
        for name in names:
            try:
                return score_of(name, sandbox.read_file(f"{VERDICT_FOLDER}/{name}"))
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                return _zero(f"the verdict {name} cannot be read: {error}")
        return _zero(f"the tests wrote no verdict{log}") if names else Score(1.0, {"correct": 1.0}, reason=_PASSED)

    def _verdicts_named(self) -> list[str]:
        texts = [path.read_bytes() for path in self.tests.rglob("*") if path.is_file()]
        return [name for name in VERDICTS if any(name.encode() in text for text in texts)]


def score_of(name: str, content: bytes) -> Score:
    """The score that a verdict file states.

    Args:
        name: `reward.json` or `reward.txt`.
        content: A number from 0 to 1. In JSON also numbers by name: `reward`, else their mean, is the score, and the
            others are its parts.
    """
    if len(content) > _MAX_VERDICT_BYTES:
        return _zero(f"the verdict {name} has {len(content)} bytes")
    try:
        stated: Any = json.loads(content) if name.endswith(".json") else float(content)
    except (ValueError, RecursionError):
        return _zero(f"the verdict {name} is not a number: {content[:80]!r}")
    values = stated if isinstance(stated, dict) else {"reward": stated}
    if not values or not all(_is_reward(value) for value in values.values()):
        return _zero(f"the verdict {name} is not made of numbers from 0 to 1: {content[:80]!r}")
    parts = {key: float(value) for key, value in values.items()}
    value = parts.pop("reward") if "reward" in parts else sum(parts.values()) / len(parts)
    return Score(value, {**parts, "correct": float(value >= 1)}, reason=f"{name}: {value:g}")


def _is_reward(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and 0 <= value <= 1


def _zero(reason: str) -> Score:
    return Score(0.0, {"correct": 0.0}, reason=reason)


def _failure(result: ExecResult, seconds: float) -> str:
    """What is wrong with a run of the tests; empty if they passed."""
    if result.error is not None and "seconds" in result.limits_hit:
        return f"the tests did not finish within {seconds:g} seconds"
    if result.error is not None:
        return f"the tests were ended: {result.error.value}"
    return "" if result.value == "0" else f"the tests ended with exit code {result.value}"


def _end_of(log: str) -> str:
    end = " ".join(log.split())[-_MAX_LOG_CHARACTERS:]
    return f": {end}" if end else ""


# The script's exit code comes from the kernel: unlike anything that is written, its children cannot forge it.
_RUN = """
import os, signal
def _toolrl_run(folder, script, environment):
    script, home = os.path.abspath(script), os.getcwd()
    environment = {{**os.environ, **environment}}
    os.chdir(folder)
    pid = os.posix_spawn(
        "/bin/bash", ["bash", "--noprofile", "--norc", script], environment, setsid=True,
        setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ],
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in range(3, 100)),
        ],
    )
    os.chdir(home)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
_toolrl_run({!r}, {!r}, {!r})
"""
