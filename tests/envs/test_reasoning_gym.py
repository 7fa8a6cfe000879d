"""Promises about `toolrl/ReasoningGym-v0`: any generator, its own scorer, and no evaluation of what a model wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from toolrl import ConfigError, ToolEnv, make
from toolrl_envs.reasoning_gym.guards import EVALUATE_FORMULAS, EVALUATE_LITERALS, is_safe_to_score

ENV_ID = "toolrl/ReasoningGym-v0"
needs_package = pytest.mark.usefixtures("package")


@pytest.fixture
def package() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning-gym` is not installed")


def answer(env: ToolEnv, index: int, text: str) -> tuple[float, dict[str, Any]]:
    env.reset(options={"task": index})
    _, reward, _, _, info = env.step(f"<answer>{text}</answer>")
    return reward, info["score"]["parts"]


# A cross-section: formulas, lists, boards, words, puzzles with many solutions.
GENERATORS = [
    "basic_arithmetic", "countdown", "puzzle24", "simple_integration", "intermediate_integration",
    "polynomial_multiplication", "spiral_matrix", "binary_matrix", "string_insertion", "n_queens", "number_sorting",
    "leg_counting", "knights_knaves", "word_sorting", "shortest_path", "mini_sudoku",
    "gsm_symbolic", "zebra_puzzles", "syllogism",
]  # fmt: skip


@needs_package
@pytest.mark.parametrize("name", GENERATORS)
def test_a_generators_own_answers_are_right_and_others_are_not(name: str) -> None:
    env = make(ENV_ID, dataset=name, size=5)
    assert len(env.tasks) == 5
    for index, task in enumerate(env.tasks):
        env.reset(options={"task": index})
        info = env.step(env.oracle(task)[0].content)[4]
        assert info["score"]["parts"]["correct"] == 1.0, task
        assert answer(env, index, "surely not")[0] == 0.0
        assert answer(env, index, "")[0] == 0.0


@needs_package
def test_several_generators_alternate_each_with_its_settings() -> None:
    config = {"chain_sum": {"min_terms": 2, "max_terms": 2}}
    env = make(ENV_ID, dataset=["chain_sum", "gcd"], config=config, size=8)
    assert sorted(task.kind for task in env.tasks) == ["chain_sum"] * 4 + ["gcd"] * 4
    sums = [task for task in env.tasks if task.kind == "chain_sum"]
    assert all(task.prompt.count(" + ") + task.prompt.count(" - ") == 1 for task in sums)


@needs_package
def test_a_generator_with_few_questions_yields_each_once() -> None:
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    splits = [
        make(ENV_ID, split=split, dataset="chain_sum", config=config, size=5000).tasks for split in ("train", "test")
    ]
    questions = [{task.prompt for task in tasks} for tasks in splits]
    assert [len(tasks) for tasks in splits] == [len(each) for each in questions]
    assert not questions[0] & questions[1]
    assert sum(map(len, questions)) < 500


@needs_package
def test_a_text_containing_the_answer_earns_partial_credit_only_on_request() -> None:
    index = 0
    for partial, cost, share in ((False, 0.1, 0.0), (True, 0.0, 1.0), (True, 0.1, 0.5)):
        env = make(ENV_ID, dataset="leg_counting", partial_credit=partial, call_cost=cost, size=3)
        reward, parts = answer(env, index, f"{env.tasks[index].answer} or 99999")
        assert 0 < parts["credit"] < 1
        assert parts["correct"] == 0.0
        assert reward == pytest.approx(parts["credit"] * share)


@needs_package
def test_the_python_tool_can_be_left_out() -> None:
    assert list(make(ENV_ID, size=2).toolbox.tools) == ["python"]
    assert list(make(ENV_ID, size=2, python=False).toolbox.tools) == []


@needs_package
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "no_such"}, "reasoning-gym has no generator 'no_such'; it has: ab, acre"),
        ({"config": {"colour": 1}}, "basic_arithmetic rejects the settings {'colour': 1}"),
        ({"config": {"min_terms": -1}}, "basic_arithmetic rejects the settings {'min_terms': -1}"),
        ({"dataset": ["gcd", "gcd"]}, "dataset must name generators, each once"),
        ({"dataset": ["gcd", "lcm"], "config": {"min_value": 1}}, "config must map their names to settings"),
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"split": "dev"}, "split must be 'train' or 'test'"),
    ],
)
def test_the_error_names_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(ENV_ID, **settings)


ATTACKS = [
    "__import__('os').system('touch {path}')",
    "[open('{path}', 'w')]",
    "[__import__('pathlib').Path('{path}').touch()]",
    "(lambda: open('{path}', 'w'))()",
    "x.__class__",
    "exec(chr(49))",
    "9**9**9**9",
    "9**(9**9)",
    "9**999999999",
    "factorial(99999999)",
    "Integral(1)",
    "[i for i in f'{{open(1)}}']",
]


@needs_package
@pytest.mark.parametrize("name", sorted(EVALUATE_LITERALS | EVALUATE_FORMULAS))
def test_an_answer_is_never_run_as_code(name: str, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    env = make(ENV_ID, dataset=name, size=1)
    for attack in ATTACKS:
        assert answer(env, 0, attack.format(path=target))[0] == 0.0
    assert not target.exists()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["spiral_matrix", "countdown"])
def test_code_does_not_reach_a_scorer_that_evaluates_answers(name: str, attack: str) -> None:
    assert not is_safe_to_score(name, attack)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("simple_integration", "3*x**2/2 - x**(1/2) + C"),
        ("intermediate_integration", "exp(x)*sin(2*x)/5 + (x + 1)**3/3 + log(x) + C"),
        ("countdown", "(99 - 3)*4/2"),
        ("polynomial_multiplication", "x**12*y**3 - 7*x"),
        ("n_queens", "_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _"),
        ("n_queens", "[['_', 'Q'], ['Q', '_']]"),
        ("string_insertion", "['A', 'B']"),
        ("leg_counting", "anything (at all)"),
    ],
)
def test_honest_answers_reach_their_scorer(name: str, text: str) -> None:
    assert is_safe_to_score(name, text)


@needs_package
def test_the_guards_know_every_scorer_that_evaluates_answers() -> None:
    """A new version of the package may add one."""
    import inspect
    import re

    from reasoning_gym.factory import DATASETS

    evaluating = {
        name
        for name, (dataset, _) in DATASETS.items()
        if re.search(r"\b(eval|exec|(sympy\.|sp\.)?parse_expr|sympify)\(", inspect.getsource(dataset.score_answer))
    }
    assert evaluating - {"propositional_logic"} <= EVALUATE_LITERALS | EVALUATE_FORMULAS


def test_environments_are_listed_without_the_package_and_making_it_names_the_extra() -> None:
    program = """
import sys
sys.modules["reasoning_gym"] = None
import toolrl, toolrl_envs
assert "toolrl/ReasoningGym-v0" in toolrl_envs.ENTRY_POINTS
try:
    toolrl.make("toolrl/ReasoningGym-v0")
except toolrl.MissingExtra as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout == "reasoning-gym is not installed. Run: pip install 'toolrl[reasoning-gym]'\n"
