"""Promises of the check: an environment that breaks a promise fails, with a finding that says what to do."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from tests.audit.conftest import capital_tasks, search, sum_tasks
from toolrl import ConfigError, Episode, Task, TaskSet, ToolEnv, per_episode, say, tool
from toolrl.audit import AuditOptions, CheckReport, EnvironmentCheckFailed, EnvironmentTests, check_environment
from toolrl.errors import EnvironmentNotFound
from toolrl.rewards import answer_reward

Make = Callable[..., ToolEnv]


class Poller:
    """A resource with a thread that is never stopped."""

    over = threading.Event()

    def __init__(self) -> None:
        threading.Thread(target=self.over.wait, name="poller", daemon=True).start()


def failed(report: CheckReport) -> set[str]:
    return {result.name for result in report.results if result.status == "failed"}


def test_an_honest_environment_passes(make_env: Make) -> None:
    for environment in (make_env, make_env()):
        report = check_environment(environment)
        report.assert_passed()
        assert report.tasks == 6
        assert report.findings == []


def test_a_reset_that_ignores_its_seed_is_found(make_env: Make) -> None:
    class Random(ToolEnv):
        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            index = random.SystemRandom().randrange(len(self.tasks))
            return super().reset(seed=seed, options=options or {"task": index})

    report = check_environment(lambda: Random(tasks=sum_tasks(), reward=answer_reward()))
    assert "determinism" in failed(report)


def test_tasks_that_differ_when_made_again_are_found(make_env: Make) -> None:
    made: list[int] = []

    def make() -> ToolEnv:
        made.append(1)
        return make_env(tasks=[Task(f"{len(made)}-{n}", f"What is {n}?", str(n + 100)) for n in range(6)])

    assert failed(check_environment(make)) == {"determinism"}


def test_duplicate_ids_are_found(make_env: Make) -> None:
    class Careless(TaskSet):
        def __init__(self, tasks: list[Task]):
            super().__init__(tasks[:1])
            self._tasks = tuple(tasks)

        def __iter__(self) -> Iterator[Task]:
            return iter(self._tasks)

    tasks = [Task("same", f"What is {n}?", str(n + 100)) for n in range(4)]
    assert "tasks" in failed(check_environment(make_env(tasks=Careless(tasks), tools=[])))
    # A TaskSet rejects them itself, which is a finding too.
    report = check_environment(lambda: make_env(tasks=tasks))
    assert failed(report) == {"construction"}
    assert "'same'" in str(report)


def test_an_oracle_that_fails_is_found(make_env: Make) -> None:
    report = check_environment(make_env(oracle=lambda task: [say("<answer>Atlantis</answer>")]))
    assert failed(report) == {"oracle"}
    finding = report.findings[0]
    assert finding.task_id in {task.id for task in capital_tasks()}
    assert "reward 0" in finding.message


def test_a_missing_oracle_is_a_warning(make_env: Make) -> None:
    report = check_environment(make_env(oracle=None))
    assert report.passed
    assert [finding.severity for finding in report.findings] == ["warning"]


def test_a_thread_that_stays_is_found(make_env: Make) -> None:
    @tool
    def poll(poller: Poller = per_episode(Poller)) -> str:
        """Poll."""
        return "nothing"

    try:
        report = check_environment(lambda: make_env(tools=[search, poll]), only=["resources"])
        assert failed(report) == {"resources"}
        assert "threads behind: poller" in str(report)
    finally:
        Poller.over.set()


def test_a_file_that_stays_open_is_found(make_env: Make) -> None:
    kept: list[Any] = []

    @tool
    def read(path: str) -> str:
        """Read.

        Args:
            path: A file.
        """
        kept.append(open("/dev/null"))  # noqa: SIM115 - that it stays open is the point
        return kept[-1].read()

    try:
        assert failed(check_environment(make_env(tools=[search, read]), only=["resources"])) == {"resources"}
    finally:
        for file in kept:
            file.close()


def test_a_prompt_that_reveals_the_answer_is_found(make_env: Make) -> None:
    told = capital_tasks("What is the capital of {country}? (The answer is {capital})")
    assert failed(check_environment(make_env(tasks=told))) == {"prompts"}
    listed = capital_tasks("Which word is the capital of {country}: {capital} or Springfield?")
    env = make_env(tasks=listed)
    assert failed(check_environment(env)) == {"prompts"}
    env.audit_options = AuditOptions(answer_in_prompt="two options are listed")  # type: ignore[attr-defined]
    report = check_environment(env)
    assert report.passed
    assert "two options are listed" in report.findings[0].message


def test_a_choice_of_a_few_fixed_answers_in_the_prompt_is_a_warning(make_env: Make) -> None:
    tasks = [Task(str(n), f"Is {n} even? Say yes or no.", ("yes", "no")[n % 2]) for n in range(10)]
    report = check_environment(make_env(tasks=tasks))
    assert report.passed
    assert report.findings[0].severity == "warning"


def test_a_reward_for_nothing_is_found(make_env: Make) -> None:
    def kind(task: Task, episode: Episode) -> float:
        return 1.0 if episode.answer and task.answer in episode.answer else 0.1

    assert {"worthless", "broken_calls"} <= failed(check_environment(make_env(reward=kind)))


def test_a_tool_that_raises_on_odd_arguments_is_found(make_env: Make) -> None:
    @tool
    def first(items: list[str]) -> str:
        """Give the first.

        Args:
            items: Some texts.
        """
        return items[0]

    report = check_environment(make_env(tools=[search, first], oracle=None))
    assert failed(report) == {"broken_calls"}
    assert "IndexError" in str(report)


def test_splits_that_overlap_are_found(make_env: Make) -> None:
    def make(split: str = "train") -> ToolEnv:
        return make_env()

    assert failed(check_environment(make)) == {"splits"}
    assert next(r for r in check_environment(make_env()).results if r.name == "splits").status == "skipped"


def test_a_failing_report_raises_and_has_a_json_form(make_env: Make) -> None:
    report = check_environment(make_env(oracle=lambda task: [say("no")]))
    with pytest.raises(EnvironmentCheckFailed, match="oracle fails"):
        report.assert_passed()
    row = json.loads(json.dumps(report.to_dict()))
    assert row["passed"] is False
    assert {check["name"] for check in row["checks"] if check["status"] == "failed"} == {"oracle"}


def test_wrong_use_is_reported_at_once(make_env: Make) -> None:
    with pytest.raises(ConfigError, match="no check is named"):
        check_environment(make_env(), only=["speed"])
    with pytest.raises(EnvironmentNotFound):
        check_environment("toolrl/Nothing-v0")
    with pytest.raises(ConfigError, match="already made"):
        check_environment(make_env(), settings={"size": 1})


class Capitals(ToolEnv):
    def __init__(self, reward: Any = None, split: str | None = None) -> None:
        super().__init__(tasks=capital_tasks(), reward=reward or answer_reward(), tools=[search], split=split)


class TestEnvironmentTests(EnvironmentTests):
    """The ready-made class, as an author uses it."""

    environment = Capitals


def test_the_ready_made_class_fails_where_the_environment_does() -> None:
    class Kind(EnvironmentTests):
        environment = Capitals
        settings: ClassVar[dict[str, Any]] = {"reward": lambda task, episode: 1.0}

    with pytest.raises(EnvironmentCheckFailed):
        Kind().test_worthless_answers_earn_nothing()
    with pytest.raises(EnvironmentCheckFailed):
        Kind().test_no_exploit_is_paid()
    Kind().test_the_same_seed_gives_the_same_episode()


def test_a_pool_that_stops_growing_is_not_a_leak(make_env: Make) -> None:
    pool: list[Any] = []

    @tool
    def read(path: str) -> str:
        """Read.

        Args:
            path: A file.
        """
        if len(pool) < 12:
            pool.append(open("/dev/null"))  # noqa: SIM115 - kept for the next call
        return ""

    try:
        check_environment(make_env(tools=[search, read]), only=["resources"]).assert_passed()
        assert len(pool) == 12
    finally:
        for file in pool:
            file.close()
