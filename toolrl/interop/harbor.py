"""Terminal tasks in harbor's format, as an environment with a shell.

A task is a folder: `task.toml` (schema 1.4), `instruction.md`, `environment/`, `tests/test.sh` and `solution/solve.sh`.
Checked against harbor 0.25: https://harborframework.com/docs/tasks.

Sandboxes are not built from images. A task runs here if its `environment/Dockerfile` is absent, or only takes files
and variables to a plain base image: FROM, WORKDIR, COPY, ENV and LABEL.
"""

from __future__ import annotations

import base64
import logging
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from toolrl.env import ToolEnv, call, say
from toolrl.errors import ConfigError, TaskError
from toolrl.interop.dockerfile import BASE_IMAGE, WORKDIR, Image
from toolrl.interop.verifier import Verifier
from toolrl.sandbox import SandboxFactory, SandboxLimits, open_sandbox
from toolrl.tools import Shell, shell_tool
from toolrl.tools.shell import SHELL_LIMITS, write_task_files
from toolrl.types import Episode, Limits, Message, Score, Task

SYSTEM_PROMPT = (
    "You work in a Linux shell, with the tool `shell`. Do what the user asks for. When it is done, say so in one "
    "sentence, without a tool call."
)
TERMINAL_LIMITS = Limits(turns=24, tool_calls=32, completion_tokens=16_384, turn_tokens=2048, reward_seconds=1800.0)
_OWN_FOLDERS = ("tests", "logs", "solution")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HarborTask:
    """A task folder.

    Attributes:
        folder: The folder.
        config: The content of `task.toml`.
    """

    folder: Path
    config: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> HarborTask:
        """Read a task folder.

        Raises:
            TaskError: A file is missing, or `task.toml` is malformed.
        """
        for name in ("task.toml", "instruction.md", "tests/test.sh"):
            if not (folder / name).is_file():
                raise TaskError(f"{str(folder)!r} is not a task in harbor's format: it has no {name}")
        try:
            return cls(folder, tomllib.loads((folder / "task.toml").read_text("utf-8")))
        except ValueError as error:
            raise TaskError(f"{str(folder / 'task.toml')!r} cannot be read: {error}") from None

    def section(self, name: str) -> Mapping[str, Any]:
        """A table of `task.toml`; empty if it is absent."""
        found = self.config.get(name, {})
        if not isinstance(found, Mapping):
            raise TaskError(f"{str(self.folder / 'task.toml')!r}: [{name}] must be a table, got {found!r}")
        return found

    @cached_property
    def image(self) -> Image:
        """What the Dockerfile does, as far as it is understood."""
        path = self.folder / "environment" / "Dockerfile"
        copy = "COPY . ." if path.parent.is_dir() else ""
        text = path.read_text("utf-8") if path.is_file() else f"WORKDIR {WORKDIR}\n{copy}"
        return Image(path.parent, text, self.section("environment").get("workdir"))

    @property
    def needs(self) -> list[str]:
        """What it needs that a sandbox does not have; empty if it can run."""
        environment, verifier = self.section("environment"), self.section("verifier")
        needs = list(self.image.needs)
        unknown = environment.keys() & {"gpus", "tpu", "mcp_servers", "skills_dir", "healthcheck"}
        needs += [f"[environment] {name}" for name in sorted(unknown) if environment[name]]
        if not BASE_IMAGE.fullmatch(environment.get("docker_image") or "debian"):
            needs.append(f"the image {environment['docker_image']}")
        if environment.get("os", "linux").lower() != "linux":
            needs.append(f"the system {environment['os']}")
        network = environment.get("network_mode", "public" if environment.get("allow_internet") else "no-network")
        if network != "no-network":
            needs.append("a network")
        needs += [f"[verifier] {name}" for name in ("collect", "environment") if verifier.get(name)]
        needs += [f"the working directory {self.image.workdir}"] * (self.image.workdir.parts[1] in _OWN_FOLDERS)
        needs += ["more than one step"] * bool(self.config.get("steps"))
        needs += ["several services"] * any((self.folder / "environment").glob("*compose*.y*ml"))
        return needs

    @cached_property
    def in_root(self) -> list[str]:
        """Names of the folders it needs in the root; empty if its texts name none by its absolute path."""
        paths = [self.folder / "instruction.md", *sorted(self.folder.glob("tests/**/*"))]
        paths += sorted(self.folder.glob("solution/**/*"))
        text = b"\n".join(path.read_bytes() for path in paths if path.is_file()).decode("utf-8", "replace")
        names = (self.image.workdir.parts[1], *_OWN_FOLDERS)
        used = re.search(rf"(?<![\w.$}}~/*-])/({'|'.join(map(re.escape, names))})(?![\w.-])", text)
        return list(dict.fromkeys(names)) if used else []

    @property
    def workdir(self) -> str:
        """The folder of the shell, relative to the sandbox's working directory."""
        return str(self.image.workdir).strip("/")

    def environment(self, section: str) -> dict[str, str]:
        """Environment variables: those of the image, then those of `[environment]` and another section."""
        stated = {**self.section("environment").get("env", {}), **self.section(section).get("env", {})}
        if any("${" in str(value) for value in stated.values()):
            raise TaskError(f"task {self.folder.name!r}: variables of this machine are not passed on: {stated!r}")
        return {**self.image.variables, **{name: str(value) for name, value in stated.items()}}

    def task(self) -> Task:
        """The task as ours."""
        metadata = self.section("metadata")
        return Task(
            self.folder.name,
            (self.folder / "instruction.md").read_text("utf-8").strip(),
            kind=str(metadata.get("category", "")),
            difficulty=metadata.get("difficulty"),
            needs_tool=True,
        )

    def verifier(self, sandbox: str | SandboxFactory, limits: SandboxLimits) -> Verifier:
        """Its tests."""
        seconds = float(self.section("verifier").get("timeout_sec", 600.0))
        environment = self.environment("verifier")
        return Verifier(self.folder / "tests", seconds, environment, sandbox, limits, self.in_root)

    def open_shell(self, sandbox: str | SandboxFactory, limits: SandboxLimits) -> Shell:
        """Open a shell in its working directory.

        Raises:
            ConfigError: Code in the sandbox can read the tests.
            SandboxFault: The sandbox could not be opened.
        """
        options: dict[str, Any] = {"in_root": self.in_root} if self.in_root else {}
        opened = open_sandbox(sandbox, limits, **options)
        write_task_files(opened, self.image.tree(), self.workdir)
        script = str(self.folder / "tests" / "test.sh")
        # Without isolation, which has to be asked for, code can read what its user can.
        if getattr(opened, "level", "") != "none" and opened.run(f"open({script!r}).close()").error is None:
            opened.close()
            raise ConfigError(
                f"sandboxes can read {script!r}: it is in a folder of Python's, which they need, or this machine has "
                "no Landlock (`toolrl doctor`). Install the package with the tasks in a virtual environment, or move "
                "them to a folder that only you can read"
            )
        path = f"/{self.workdir}" if self.in_root else None
        return Shell(opened, folder=self.workdir, path=path, environment=self.environment("agent"))

    def solution(self) -> list[Message]:
        """Calls of the shell tool that run the solution.

        Raises:
            TaskError: It has none.
        """
        folder = self.folder / "solution"
        if not (folder / "solve.sh").is_file():
            raise TaskError(f"task {self.folder.name!r} has no solution/solve.sh")
        text = (folder / "solve.sh").read_text("utf-8")
        others = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "solve.sh"]
        if not others and not re.search(r"\$0|BASH_SOURCE", text):
            lines = text.removeprefix("#!/bin/bash").strip()
            ends = re.search(r"^\s*(set -|exit|exec)", lines, re.MULTILINE)  # what would change the shell itself
            return [call("shell", command=f"(\n{lines}\n)" if ends else lines), say("It is done.")]
        commands = ['mkdir -p "$HOME/solution" && cd "$HOME/solution"']
        for path in (folder / "solve.sh", *others):
            name = shlex.quote(path.relative_to(folder).as_posix())
            data = base64.b64encode(path.read_bytes()).decode()
            commands.append(f"mkdir -p $(dirname {name}) && base64 -d > {name} <<< '{data}'")
        run = 'cd "$OLDPWD" && bash "$HOME/solution/solve.sh"'
        return [call("shell", command="\n".join([*commands, run])), say("It is done.")]


def read_harbor_tasks(folder: str | Path, *, skip_unsupported: bool = False) -> list[HarborTask]:
    """Read a task folder, or the task folders in a folder.

    Args:
        folder: The folder.
        skip_unsupported: Leave out tasks that need an image, a network or the like, with a warning.

    Raises:
        TaskError: A task is broken, needs more than a sandbox, or there is none.
    """
    folder = Path(folder).absolute()
    folders = (
        [folder] if (folder / "task.toml").exists() else sorted(path.parent for path in folder.glob("*/task.toml"))
    )
    tasks = [HarborTask.read(path) for path in folders]
    unsupported = [task for task in tasks if task.needs]
    if unsupported and not skip_unsupported:
        task = unsupported[0]
        raise TaskError(
            f"task {task.folder.name!r} needs {', '.join(task.needs)}: a backend that builds images, such as Docker in "
            f"harbor. No sandbox does; skip_unsupported=True leaves such tasks out ({len(unsupported)} of {len(tasks)})"
        )
    if unsupported:
        _log.warning("%d of %d tasks in %s need more than a sandbox", len(unsupported), len(tasks), folder)
    tasks = [task for task in tasks if not task.needs]
    if not tasks:
        raise TaskError(f"{str(folder)!r} has no tasks in harbor's format that can run in a sandbox")
    return tasks


class HarborEnv(ToolEnv):
    """Terminal tasks in harbor's format: a shell, graded by each task's own tests.

    The shell starts in the task's WORKDIR below the sandbox's home folder. What is in that folder at the end is graded;
    see `toolrl.interop.verifier`.

    Args:
        folder: A task folder, or a folder of task folders.
        sandbox: Backend of the shell and of the tests; see `shell_tool`.
        sandbox_limits: Limits of both. `seconds` is the time of one command.
        skip_unsupported: Leave out tasks that need an image, a network or the like. Otherwise they are an error.
        max_output_characters: How much of a command's output the model sees.
        system_prompt: As for `ToolEnv`, with `limits`, `split` and `render_mode`.

    Raises:
        TaskError: A task is broken, or needs more than a sandbox.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        sandbox: str | SandboxFactory = "local",
        sandbox_limits: SandboxLimits = SHELL_LIMITS,
        skip_unsupported: bool = False,
        max_output_characters: int = 4000,
        system_prompt: str = SYSTEM_PROMPT,
        limits: Limits | None = None,
        split: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        found = {task.folder.name: task for task in read_harbor_tasks(folder, skip_unsupported=skip_unsupported)}

        named = next((task for task in found.values() if task.in_root), None)
        if named is not None and sandbox == "e2b":
            raise TaskError(
                f"task {named.folder.name!r} names a folder in the root ({', '.join(named.in_root)}), which only local "
                "sandboxes can have; name files relative to the working directory and to test.sh"
            )

        def open_shell(task: Task) -> Shell:
            return found[task.id].open_shell(sandbox, sandbox_limits)

        def reward(task: Task, episode: Episode) -> Score:
            return found[task.id].verifier(sandbox, sandbox_limits).score(episode.state.get("shell"))

        def oracle(task: Task) -> Sequence[Message]:
            return found[task.id].solution()

        super().__init__(
            tasks=[task.task() for task in found.values()],
            tools=[
                shell_tool(limits=sandbox_limits, max_output_characters=max_output_characters, open_shell=open_shell)
            ],
            reward=reward,
            oracle=oracle,
            system_prompt=system_prompt,
            limits=limits or TERMINAL_LIMITS,
            split=split,
            render_mode=render_mode,
        )
