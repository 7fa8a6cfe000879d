"""The `toolrl/Terminal-v0` environment."""

from __future__ import annotations

import random
from pathlib import Path

from toolrl import TaskSet, of_split
from toolrl.interop import HarborEnv
from toolrl.sandbox import SandboxFactory
from toolrl_envs.common import Split, check_split

TASKS = Path(__file__).parent / "tasks"


class TerminalEnv(HarborEnv):
    """Tasks in a shell that need Python, bash and coreutils, graded by their own tests on the files that are left."""

    def __init__(
        self,
        split: Split = "train",
        *,
        size: int | None = None,
        seed: int = 0,
        sandbox: str | SandboxFactory = "local",
        render_mode: str | None = None,
    ):
        """Make the environment.

        Args:
            split: "train" or "test".
            size: Maximum number of tasks; all by default.
            seed: Fixes which tasks are drawn, and their order.
            sandbox: Backend of the shell and of the tests.
            render_mode: See `ToolEnv`.

        Raises:
            ConfigError: A setting is out of range.
        """
        check_split(split, size)
        super().__init__(TASKS, sandbox=sandbox, render_mode=render_mode)
        tasks = list(of_split(self.tasks, lambda task: task.id, split))
        random.Random(seed).shuffle(tasks)
        self.tasks = TaskSet(tasks[:size])
