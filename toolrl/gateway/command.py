"""A command that plays an episode in a process of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from toolrl.errors import ConfigError, ProgramFault
from toolrl.support.keeper import GRACE_SECONDS, under_keeper

_MAX_ANSWER_BYTES, _MAX_WORDS = 1 << 20, 2000
_ENDING_SECONDS = GRACE_SECONDS + 6.0  # of the keeper
# What a command inherits of this process's environment.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a program.

    Attributes:
        answer: What it printed or returned; None if it failed.
        failure: How it failed, with the end of what a command wrote to stderr; empty if it did not.
    """

    answer: str | None
    failure: str = ""

    @classmethod
    def of(cls, status: int, printed: str, words: str) -> Outcome:
        """The outcome of a command that has ended.

        Args:
            status: Its exit status.
            printed: What it wrote to stdout.
            words: What it wrote to stderr.
        """
        if status == 0:
            return cls(printed.strip())
        return cls(None, f"ended with status {status}: {words.strip()[-_MAX_WORDS:] or 'it wrote nothing to stderr'}")


async def run_command(command: Sequence[str], variables: Mapping[str, str]) -> Outcome:
    """Run a command. When it ends, is cancelled, or this process ends in any way, so does all that it started.

    Args:
        command: With its arguments.
        variables: Of its environment, beside the few that it inherits.

    Raises:
        ConfigError: There is no such command.
        ProgramFault: The machine could not start it.
    """
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ} | dict(variables)
    if shutil.which(command[0], path=environment.get("PATH")) is None:
        raise ConfigError(f"the program {command[0]!r} cannot be started: there is no such command")
    kept, environment = under_keeper(list(command), environment)
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *kept, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
        )
    except OSError as error:  # no process, memory or descriptor is left
        raise ProgramFault(f"the program {command[0]!r} could not be started: {error}") from error
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        printed, words = await asyncio.gather(_beginning(process.stdout), _end(process.stderr))
        status = await process.wait()
    finally:
        await _stop(process)
    return Outcome.of(status, printed, words)


async def _stop(process: asyncio.subprocess.Process) -> None:
    for end in (process.terminate, process.kill):
        with suppress(ProcessLookupError):
            end()
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _ENDING_SECONDS)
            return


async def _beginning(stream: asyncio.StreamReader) -> str:
    """The beginning of what is printed; the rest is read and dropped."""
    kept = bytearray()
    while chunk := await stream.read(1 << 16):
        kept += chunk[: _MAX_ANSWER_BYTES - len(kept)]
    return kept.decode("utf-8", "replace")


async def _end(stream: asyncio.StreamReader) -> str:
    """The end of what is printed."""
    kept = b""
    while chunk := await stream.read(1 << 16):
        kept = (kept + chunk)[-4 * _MAX_WORDS :]
    return kept.decode("utf-8", "replace")
