"""The promise of the README: an environment takes at most forty lines, and runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from toolrl import ToolEnv
from toolrl.chat import HermesDialect

README = Path(__file__).parents[2] / "README.md"
MAX_LINES = 40


def test_the_readmes_environment_is_short_and_can_be_stepped_through() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    code = next(block for block in blocks if "ToolEnv" in block)
    assert len(code.splitlines()) <= MAX_LINES

    names: dict[str, Any] = {"__name__": "readme"}
    exec(compile(code, str(README), "exec"), names)
    env: ToolEnv = names["env"]
    assert env.reset(seed=0)[0] == env.reset(seed=0)[0]
    for name in env.toolbox.tools:
        observation = env.step(f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>')[0]
        assert isinstance(observation, str)
    env.reset(seed=0)
    _, reward, terminated, _, info = env.step("<answer>surely wrong</answer>")
    assert terminated
    assert reward <= 0.0
    assert info["score"]["value"] is not None
    task = env.tasks[0]
    env.reset(options={"task": task})
    for message in env.oracle(task):
        _, reward, terminated, _, _ = env.step(HermesDialect().format(message))
    assert terminated
    assert reward > 0.0
    env.close()
