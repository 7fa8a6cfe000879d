"""The environment of the guide, with the server of the guide, as their readers would run them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from toolrl import RolloutEngine, RolloutRequest, ToolEnv
from toolrl.policy import ScriptedChatPolicy

GUIDE = Path(__file__).parents[3] / "docs" / "mcp.md"


def test_the_environment_of_the_guide_is_solved_by_its_oracle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment, server = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)
    assert len([line for line in environment.splitlines() if line.strip()]) <= 40
    (tmp_path / "shop_server.py").write_text(server)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(environment, names)
    env = names["make_env"]()  # type: ignore[operator]
    assert isinstance(env, ToolEnv)
    assert list(env.toolbox.tools) == ["count", "sell"]
    task = env.tasks[0]
    engine = RolloutEngine(ScriptedChatPolicy(env.oracle(task)), None, retries=0)
    (trajectory,) = engine.run([RolloutRequest(env, task)])
    assert [result.content for turn in trajectory.turns for result in turn.results] == ["5", "sold"]
    assert trajectory.score.value == 1.0
    env.close()
