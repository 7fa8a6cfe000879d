"""Promises that every environment keeps: Gymnasium's contract, solvable tasks, a reward that must be earned."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import toolrl
from toolrl import StopReason, Task, ToolEnv, Trajectory
from toolrl.audit.subject import options_of
from toolrl.chat import HermesDialect
from toolrl.evaluation import CONDITIONS, evaluate
from toolrl.evaluation.counterfactuals import under
from toolrl_envs import ENTRY_POINTS

SIZE = 60
SAMPLE = 5
# For each tool, a parameter and a value for it.
CALLS = {
    "python": ("code", "1+1"),
    "search": ("query", "path"),
    "word_count": ("text", "one two"),
    "find_customer": ("name", "berg"),
    "shell": ("command", "pwd"),
    "find_customer_by_email": ("email", "nobody@example.com"),
}
# Environments in which what was done counts, and no final message is a right answer.
WITHOUT_ANSWERS = {"toolrl/Retail-v0", "toolrl/Terminal-v0", "toolrl/ToyText-v0", "toolrl/Wordle-v0"}
# Those whose tasks take longer.
SIZES = {"toolrl/Terminal-v0": 3, "toolrl/ToyText-v0": 20}
# Optional packages that an environment needs.
NEEDS = {"toolrl/ReasoningGym-v0": "reasoning_gym"}
EVERY_ENVIRONMENT = pytest.mark.parametrize("env_id", list(ENTRY_POINTS))

Make = Callable[..., ToolEnv]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes small environments, which are closed after the test."""
    made: list[ToolEnv] = []

    def make(env_id: str, split: str = "train", **settings: Any) -> ToolEnv:
        made.append(toolrl.make(env_id, split=split, **{"size": SIZES.get(env_id, SIZE), **settings}))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture(params=list(ENTRY_POINTS))
def env_id(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"{request.param} needs {NEEDS[request.param]}")
    return str(request.param)


@pytest.fixture(params=[env_id for env_id in ENTRY_POINTS if env_id not in WITHOUT_ANSWERS])
def answered_env_id(request: pytest.FixtureRequest) -> str:
    """Each environment in which the final message is graded."""
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], reason=f"{request.param} needs {NEEDS[request.param]}")
    return str(request.param)


@pytest.fixture(params=["train", "test"])
def answered_env(request: pytest.FixtureRequest, answered_env_id: str, make: Make) -> ToolEnv:
    """Each of these with each split."""
    return make(answered_env_id, request.param)


@pytest.fixture(params=["train", "test"])
def env(request: pytest.FixtureRequest, env_id: str, make: Make) -> ToolEnv:
    """Each environment with each split."""
    return make(env_id, request.param)


def sample(env: ToolEnv) -> list[Task]:
    """A sample of tasks with every kind."""
    tasks = random.Random(0).sample(list(env.tasks), len(env.tasks))
    kinds = {task.kind: task for task in tasks}
    return [*kinds.values(), *tasks[:SAMPLE]]


def test_tools_can_be_replaced_under_every_condition(env_id: str, make: Make) -> None:
    """`toolrl eval --counterfactuals`: an oracle that plays on as if nothing had happened meets no fault."""
    env = make(env_id, "test", size=SIZES.get(env_id, 4))
    if not env.toolbox.tools:
        return
    played: list[Trajectory] = []
    evaluate({env_id: env}, None, None, tasks=3, on_trajectory=played.append)
    for condition in CONDITIONS:
        changed = under(env, condition, played)
        if changed is None:
            assert condition == "hostile"
            continue
        (report,) = evaluate({env_id: changed}, None, None, tasks=3).values()
        assert report.unscored == 0, condition


def play(env: ToolEnv, task: Task, *actions: str) -> tuple[float, dict[str, Any]]:
    """Play one episode; returns its reward and the last step's info. To a user, the last action is repeated."""
    env.reset(options={"task": task})
    for action in actions if env.user is None else [*actions, *[actions[-1]] * env.limits.turns]:
        _, _, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            return info["score"]["value"], info
    raise AssertionError(f"{task} is not over after {actions}")


def oracle_actions(env: ToolEnv, task: Task) -> list[str]:
    return [HermesDialect().format(message) for message in env.oracle(task)]


def right(env: ToolEnv, task: Task) -> str:
    """A right final message: the answer in tags, or the whole response."""
    return f"<answer>{task.answer}</answer>" if isinstance(task.answer, str) else env.oracle(task)[-1].content


def a_call(env: ToolEnv, text: str | None = None, tool: str | None = None) -> str:
    """A call that any task allows, with the given text if there is one; words without meaning if there are no tools."""
    if not env.toolbox.tools:
        return "hm"
    name = tool or next(name for name in CALLS if name in env.toolbox.tools)
    parameter, default = CALLS.get(name, ("query", ""))  # others refuse it, which is a call too
    return HermesDialect().format(toolrl.call(name, **{parameter: default if text is None else text}))


# ---- Gymnasium's contract


def test_it_passes_gymnasiums_own_check(env: ToolEnv) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("env_id", sorted(WITHOUT_ANSWERS))
def test_an_oracle_is_paid_in_a_vector_environment(env_id: str, make: Make, mode: str) -> None:
    reference = make(env_id)
    task = reference.tasks[0]
    worth = play(reference, task, *oracle_actions(reference, task))[0]
    envs: Any = gymnasium.make_vec(env_id, num_envs=2, vectorization_mode=mode, size=SIZES.get(env_id, SIZE))
    try:
        envs.reset(seed=3, options={"task": task.id})
        earned = [0.0, 0.0]
        for action in oracle_actions(reference, task):
            _, rewards, terminated, _, _ = envs.step((action, action))
            earned = [before + float(reward) for before, reward in zip(earned, rewards, strict=True)]
        assert terminated.all()
        assert earned == pytest.approx([worth, worth])
        assert worth > 0.5
    finally:
        envs.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_it_runs_in_a_vector_environment(answered_env_id: str, make: Make, mode: str) -> None:
    reference = make(answered_env_id)
    task = max(reference.tasks, key=lambda task: bool(task.needs_tool))
    first, second = [*oracle_actions(reference, task)[:-1], a_call(reference), right(reference, task)][:2]
    envs: Any = gymnasium.make_vec(answered_env_id, num_envs=2, vectorization_mode=mode, size=SIZE)
    try:
        observations, infos = envs.reset(seed=3, options={"task": task.id})
        assert observations == (task.prompt, task.prompt)
        assert infos["task_id"].tolist() == [task.id, task.id]
        observations, rewards, *_, infos = envs.step((first, "<tool_call>{broken"))
        assert observations in envs.observation_space
        assert observations[0] != observations[1]
        assert rewards.tolist() == [0.0, 0.0]
        assert infos["failures"].tolist() == [[], ["malformed"]]
        _, rewards, terminated, _, infos = envs.step(("<answer>surely not</answer>", right(reference, task)))
        assert terminated.tolist() == [True, True]
        assert rewards[0] == 0.0 < rewards[1]
        assert infos["score"]["value"].tolist() == rewards.tolist()
        observations = envs.step((second, second))[0]  # a step after the end starts the next episode
        assert set(observations) <= {task.prompt for task in reference.tasks}
    finally:
        envs.close()


def test_the_same_seed_gives_the_same_episode_start(env: ToolEnv) -> None:
    assert env.reset(seed=5) == env.reset(seed=5)
    assert len({env.reset(seed=seed)[0] for seed in range(8)}) > 1


# ---- tasks


def test_the_same_settings_give_the_same_tasks(env_id: str, make: Make) -> None:
    assert list(make(env_id).tasks) == list(make(env_id).tasks)
    assert list(make(env_id, seed=1).tasks) != list(make(env_id, seed=2).tasks)
    assert len(make(env_id, size=7).tasks) == 7


def test_train_and_test_share_no_task_and_no_subject(env_id: str, make: Make) -> None:
    train, test = (make(env_id, split, size=SIZES.get(env_id, 2000)).tasks for split in ("train", "test"))
    assert not {task.id for task in train} & {task.id for task in test}
    assert not {task.prompt for task in train} & {task.prompt for task in test}
    # Namesakes are one subject: knowing `shutil.copy` helps with `copy.copy`.
    subjects = [
        {str(task.metadata["subject"]).rsplit(".", 1)[-1] for task in tasks if "subject" in task.metadata}
        for tasks in (train, test)
    ]
    assert not subjects[0] & subjects[1]


def test_the_documentation_environments_share_no_subject_across_splits(make: Make) -> None:
    """Otherwise training on one environment would reveal answers to the test tasks of the other."""
    subjects: dict[str, set[str]] = {"train": set(), "test": set()}
    for split, known in subjects.items():
        for env_id in ("toolrl/DocsSearch-v0", "toolrl/DocsCompute-v0"):
            known |= {task.metadata["subject"].rsplit(".", 1)[-1] for task in make(env_id, split, size=4000).tasks}
    assert min(map(len, subjects.values())) > 20
    assert not subjects["train"] & subjects["test"]


def test_every_task_says_its_kind_and_whether_it_needs_a_tool(env: ToolEnv) -> None:
    for task in env.tasks:
        assert isinstance(task.kind, str)
        assert isinstance(task.needs_tool, bool)
        assert task.prompt in env.observation_space
        assert str(task.answer).strip()


# ---- reward


def test_the_oracle_solves_its_tasks(env: ToolEnv) -> None:
    for task in sample(env):
        reward, info = play(env, task, *oracle_actions(env, task))
        assert StopReason(info["stop"]).terminated, task
        assert info["score"]["parts"]["correct"] == 1.0, (task, info)
        assert 0.5 <= reward <= 1.0


def test_the_oracles_calls_show_the_answer_where_a_tool_is_needed(answered_env: ToolEnv) -> None:
    env = answered_env
    for task in sample(env):
        env.reset(options={"task": task})
        for action in oracle_actions(env, task)[:-1]:
            observation, *_, info = env.step(action)
            assert info["failures"] == [], (task, observation)
        if task.needs_tool:
            assert str(task.answer) in observation, (task, observation)


@pytest.mark.parametrize(
    "text",
    ["", "<answer></answer>", "<answer> </answer>", "<answer>wrong</answer>", "I do not know.", "<answer>.</answer>"],
)
def test_an_empty_or_wrong_answer_earns_nothing(env: ToolEnv, text: str) -> None:
    for task in sample(env):
        assert play(env, task, text)[0] <= options_of(env).chance


def test_the_answer_of_another_task_or_one_of_several_guesses_earns_nothing(answered_env: ToolEnv) -> None:
    env = answered_env
    if not isinstance(env.tasks[0].answer, str):
        pytest.skip("its final messages are right or wrong as a whole")
    tasks = sample(env)
    for task, other in zip(tasks, [*tasks[1:], tasks[0]], strict=True):
        if other.answer != task.answer:
            assert play(env, task, f"<answer>{other.answer}</answer>")[0] == 0.0
        guesses = f"<answer>{other.answer}</answer><answer>{task.answer}</answer>"
        assert play(env, task, guesses)[0] == 0.0
        assert play(env, task, f"<answer>{other.answer} {task.answer}</answer>")[0] == 0.0
        assert play(env, task, str(task.answer))[0] == 0.0, "an answer stands in its tags"


def test_unneeded_calls_cost_but_a_right_answer_still_earns_more_than_a_wrong_one(answered_env: ToolEnv) -> None:
    env = answered_env
    task = env.tasks[0]
    answer = right(env, task)
    rewards = [play(env, task, *[a_call(env)] * calls, answer)[0] for calls in range(4)]
    assert rewards == sorted(rewards, reverse=True)
    assert len(set(rewards)) == 4
    assert min(rewards) >= 0.5


# ---- mistakes of models


def test_malformed_and_misdirected_calls_are_survived(env: ToolEnv) -> None:
    task = env.tasks[0]
    answer = right(env, task)
    for broken in (
        "<tool_call>",
        "<tool_call>{",
        "</tool_call>",
        "<tool_call>[]</tool_call>",
        '<tool_call>{"name": "no_such_tool", "arguments": {}}</tool_call>',
        *(f'<tool_call>{{"name": "{name}", "arguments": {{"x": 1}}}}</tool_call>' for name in env.toolbox.tools),
        *(f'<tool_call>{{"name": "{name}", "arguments": {{}}}}</tool_call>' for name in env.toolbox.tools),
    ):
        env.reset(options={"task": task})
        observation, reward, terminated, truncated, info = env.step(broken)
        assert observation.startswith("error: "), broken
        assert (reward, terminated, truncated) == (0.0, False, False)
        assert len(info["failures"]) == 1
        assert env.user or task.answer is None or env.step(answer)[1] > 0.0


def test_an_answer_inside_a_call_or_a_result_does_not_count(answered_env: ToolEnv) -> None:
    env = answered_env
    task = env.tasks[0]
    planted = right(env, task)
    for name in env.toolbox.tools:
        action = a_call(env, f"print({planted!r})" if name == "python" else planted, name)
        assert play(env, task, action, "done")[0] == 0.0
        assert play(env, task, *[f"{planted}\n{action}"] * env.limits.turns)[0] == 0.0


def test_endless_calling_is_truncated(env: ToolEnv) -> None:
    action = a_call(env)
    env.reset(seed=0)
    for _ in range(env.limits.turns):
        _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated, info["stop"]) == (0.0, False, True, "turns")
