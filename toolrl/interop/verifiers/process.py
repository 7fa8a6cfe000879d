"""The bridge as seen from here: a process that is started when it is needed, and again after it has died."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from toolrl.errors import ConfigError, InfrastructureError
from toolrl.support.keeper import GRACE_SECONDS, under_keeper
from toolrl.support.waiting import in_thread

Json = dict[str, Any]

BRIDGE = Path(__file__).with_name("bridge.py")
LEAVING_SECONDS = 10.0  # to stop what verifiers has started
CANCEL_SECONDS = 60.0  # to stop an episode; a bridge that takes longer hangs
_LAST_WORDS_CHARACTERS = 4000


@dataclass(frozen=True)
class BridgeSettings:
    """How the bridge is run.

    Attributes:
        python: The Python that has verifiers.
        taskset: The taskset's configuration, with its `id`.
        agent: The agent's configuration.
        most: The most tasks.
        paths: Folders in which it looks for tasksets that are not installed.
        seconds: The longest episode.
        start_seconds: The longest that it may take to load the tasks.
        program: The bridge itself.
    """

    python: str
    taskset: Mapping[str, Any]
    agent: Mapping[str, Any] = field(default_factory=dict)
    most: int | None = None
    paths: Sequence[str] = ()
    seconds: float = 3600.0
    start_seconds: float = 600.0
    program: Path = BRIDGE

    @property
    def command(self) -> list[str]:
        """The command line."""
        settings = {"taskset": dict(self.taskset), "agent": dict(self.agent), "most": self.most}
        return [self.python, "-P", str(self.program), json.dumps(settings)]

    @property
    def environment(self) -> dict[str, str]:
        """This process's variables, except those that name its own packages."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "VIRTUAL_ENV")}
        folder = os.path.dirname(self.python)  # verifiers looks for `uv` on the path
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join(self.paths),
            "PATH": f"{folder}{os.pathsep}{kept.get('PATH', '')}",
        }


@dataclass(frozen=True)
class Outcome:
    """What an episode was worth.

    Attributes:
        reward: None if the taskset gave none.
        metrics: Rewards and metrics by name.
        error: What went wrong; empty if nothing did.
        stop: What stopped the episode, in verifiers' words.
    """

    reward: float | None
    metrics: Mapping[str, float]
    error: str = ""
    stop: str = ""


class Bridge:
    """Any number of episodes of one taskset. Safe to use from several threads and event loops."""

    def __init__(self, settings: BridgeSettings):
        """Describe the bridge; the first request starts it."""
        self.settings = settings
        self._process: BridgeProcess | None = None
        self._users = 1
        self._starting = threading.Lock()

    def tasks(self) -> list[Json]:
        """The tasks: `index`, `key`, `id`, `name` and `prompt` of each.

        Raises:
            ConfigError: There is no such taskset, or the settings are wrong.
            InfrastructureError: It does not load, or not in time.
        """
        seconds = self.settings.start_seconds
        process = self._running()
        try:
            answer = process.ask({"do": "tasks"})[1].result(seconds)
        except TimeoutError:
            process.end()
            raise InfrastructureError(f"{self._name} has not been loaded within {seconds:g} seconds") from None
        if "failed" in answer:
            message = f"{self._name} cannot be loaded by {self.settings.python}: {answer['failed']}"
            raise ConfigError(message) if answer["settings"] else InfrastructureError(message)
        return list(answer["tasks"])

    async def run(self, index: int, key: str, *, base_url: str, api_key: str, model: str) -> Outcome:
        """Play a task.

        Args:
            index: Of the task.
            key: Its content, as `tasks` gave it.
            base_url: Where the model is.
            api_key: The episode's.
            model: The model's name there.

        Raises:
            InfrastructureError: The episode failed, and the model did not cause it.
        """
        request = {"do": "run", "index": index, "key": key, "base_url": base_url, "api_key": api_key, "model": model}
        process = await in_thread(self._running)
        id, future = await in_thread(lambda: process.ask(request))
        try:
            async with asyncio.timeout(self.settings.seconds) as limit:
                answer = await asyncio.wrap_future(future)
        except BaseException as error:
            if not future.done():  # nobody waits for this: the pipe may be full
                threading.Thread(target=process.cancel, args=(id,), name="toolrl-cancel", daemon=True).start()
            if isinstance(error, TimeoutError) and limit.expired():
                message = f"an episode of {self._name} has not ended within {self.settings.seconds:g} seconds"
                raise InfrastructureError(message) from None
            raise
        if "failed" in answer or answer["fault"] == "environment":
            raise InfrastructureError(f"{self._name} failed: {answer.get('failed') or answer['error']}")
        return Outcome(answer["reward"], answer["metrics"], answer["error"], answer.get("stop", ""))

    def share(self) -> None:
        """Count another user, which closes it too."""
        self._users += 1

    def close(self) -> None:
        """End the process, with everything that it started, if this is the last user."""
        self._users -= 1
        if self._users > 0:
            return
        with self._starting:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    @property
    def _name(self) -> str:
        return f"the taskset {self.settings.taskset['id']!r}"

    def _running(self) -> BridgeProcess:
        """The process, started if need be.

        Raises:
            RuntimeError: The bridge is closed.
            ConfigError: It cannot be started.
        """
        with self._starting:
            if self._users <= 0:
                raise RuntimeError(f"{self._name} cannot be played: its environment is closed")
            if self._process is None or self._process.failure:
                self._process = BridgeProcess(self.settings.command, self.settings.environment)
            return self._process


class BridgeProcess:
    """One process of the bridge.

    Attributes:
        failure: Why it can no longer be asked; empty as long as it can.
    """

    def __init__(self, command: list[str], environment: dict[str, str]):
        """Start it under a keeper, so that nothing of it survives this process."""
        self.failure = ""
        command, environment = under_keeper(command, environment)
        pipe = subprocess.PIPE
        self._process: subprocess.Popen[bytes] = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, bufsize=0, start_new_session=True
        )
        self._writing, self._changing = threading.Lock(), threading.Lock()
        self._waiting: dict[int, Future[Json]] = {}
        self._asked = 0
        self._said = b""
        self._threads = [
            threading.Thread(target=work, name="toolrl-bridge", daemon=True) for work in (self._read, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def ask(self, request: Json) -> tuple[int, Future[Json]]:
        """Send a request, and return its number and its answer to come.

        Raises:
            InfrastructureError: The process has ended.
        """
        future: Future[Json] = Future()
        future.set_running_or_notify_cancel()  # from now on it cannot be cancelled, only answered
        with self._changing:
            if self.failure:
                raise InfrastructureError(self.failure)
            self._asked += 1
            id = self._asked
            self._waiting[id] = future
        data = memoryview(json.dumps({"id": id, **request}).encode() + b"\n")
        with self._writing, contextlib.suppress(OSError, ValueError):  # it has ended, which `_read` finds out too
            assert self._process.stdin is not None
            while data:
                data = data[self._process.stdin.write(data) or 0 :]
        return id, future

    def cancel(self, id: int) -> None:
        """Stop an episode; a process that does not do so is ended."""
        with contextlib.suppress(InfrastructureError):
            try:
                self.ask({"do": "cancel", "run": id})[1].result(CANCEL_SECONDS)
            except TimeoutError:
                self.end()

    def end(self) -> None:
        """End the process, with everything that it started."""
        self._fail("the bridge to verifiers was closed")
        if self._close_input():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LEAVING_SECONDS)
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(GRACE_SECONDS + 6.0)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(1.0)

    def _close_input(self) -> bool:
        """Whether it can see that there is no more to do; not if it does not read."""
        if not self._writing.acquire(timeout=1.0):
            return False
        try:
            assert self._process.stdin is not None
            self._process.stdin.close()
        finally:
            self._writing.release()
        return True

    def _read(self) -> None:
        """Pass on the answers, until there are no more."""
        assert self._process.stdout is not None
        reason = ""
        for line in _lines(self._process.stdout):
            try:
                answer = json.loads(line)
                id = answer.pop("id")
            except (ValueError, LookupError, AttributeError, TypeError):
                reason = f"the bridge to verifiers wrote {line[:100]!r}, which is not an answer"
                self._process.terminate()
                continue
            with self._changing:
                future = self._waiting.pop(id, None)
            if future is not None:
                future.set_result(answer)
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = self._process.wait(GRACE_SECONDS + 6.0)
            self._threads[1].join(1.0)
            said = self._said.decode(errors="replace").strip()
            reason = reason or f"the bridge to verifiers ended with status {status}{': ' * bool(said)}{said}"
        self._fail(reason or "the bridge to verifiers closed its output")
        self._process.stdout.close()
        self._close_input()

    def _listen(self) -> None:
        """Keep the end of what is printed."""
        assert self._process.stderr is not None
        while data := self._process.stderr.read(1 << 16):
            self._said = (self._said + data)[-_LAST_WORDS_CHARACTERS:]
        self._process.stderr.close()

    def _fail(self, reason: str) -> None:
        with self._changing:
            self.failure = self.failure or reason
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            future.set_exception(InfrastructureError(self.failure))


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of an unbuffered pipe: a thread in a buffered one would hold its lock when Python ends."""
    begun: list[bytes] = []
    while data := stream.read(1 << 16):
        first, *rest = data.split(b"\n")
        begun.append(first)
        for line in rest:
            yield b"".join(begun)
            begun = [line]
