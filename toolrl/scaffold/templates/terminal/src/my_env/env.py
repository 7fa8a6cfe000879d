"""Tasks in a shell, each a folder in harbor's format in `data/tasks`.

- `instruction.md`: what the model is told.
- `environment/`: the files that it finds.
- `tests/test.sh`: exits with 0 if the task is solved. The model never sees it.
- `solution/solve.sh`: solves it.
- `task.toml`: its category, and how long the tests may take.
"""

from __future__ import annotations

from pathlib import Path

from toolrl import Limits
from toolrl.interop import HarborEnv

TASKS = Path(__file__).parent / "data" / "tasks"


class MyEnv(HarborEnv):
    """Tasks in a shell, graded by their tests on the files that are left."""

    def __init__(self, split: str = "train", *, render_mode: str | None = None):
        """Make the environment.

        Args:
            split: "train" or "test"; about a fifth of the tasks is held out, and at least one.
            render_mode: See `ToolEnv`.
        """
        super().__init__(
            TASKS,
            # What a task takes: a shell that needs many commands needs more of all three.
            limits=Limits(turns=10, tool_calls=10, completion_tokens=4096),
            render_mode=render_mode,
        )
        self.tasks = self.tasks.of_split(split)
