"""Promises of the audit: tools that reveal answers, near misses, memory across episodes, and shells are found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.audit.conftest import CAPITALS, capital_tasks, search, sum_tasks
from toolrl import Episode, InfrastructureError, Task, ToolEnv, ToolError, per_episode, per_run, say, tool
from toolrl.audit import AuditReport, audit_environment
from toolrl.audit.exploits.memory import MEMORY
from toolrl.audit.exploits.nearby import NEARBY
from toolrl.audit.exploits.sandbox import SANDBOX
from toolrl.audit.exploits.tools import TOOLS
from toolrl.rewards import tagged_answer
from toolrl.sandbox import LocalSandbox, Sandbox, SandboxLimits

Make = Callable[..., ToolEnv]
LIMITS = SandboxLimits(seconds=2.0)


def names(report: AuditReport) -> set[str]:
    return {outcome.exploit.name for outcome in report.leaks}


def told(episode: Episode) -> str:
    return tagged_answer(episode.answer) or ""


# ---- near misses


def compares(read: Callable[[str], Any], same: Callable[[Any, Any], bool]) -> Any:
    def reward(task: Task, episode: Episode) -> float:
        try:
            return float(same(read(told(episode)), task.answer))
        except (ValueError, OverflowError):
            return 0.0

    return reward


def first_number(text: str) -> float:
    found = re.search(r"-?\d+(?:\.\d+)?", text)
    return float(found[0]) if found else float("nan")


def last_number(text: str) -> float:
    return float((re.findall(r"-?\d+(?:\.\d+)?", text) or ["nan"])[-1])


@pytest.mark.parametrize(
    ("reward", "found_by"),
    [
        (compares(lambda text: int(float(text)), lambda a, b: a == b), {"fraction-added", "rounds-down-to-it"}),
        (compares(lambda text: round(float(text)), lambda a, b: a == b), {"rounds-down-to-it", "rounds-up-to-it"}),
        (compares(float, lambda a, b: abs(a - b) <= 1), {"one-too-many", "one-too-few"}),
        (compares(float, lambda a, b: abs(a - b) <= 0.1 * b + 1e-9), {"a-tenth-more"}),
        (compares(float, lambda a, b: abs(a) == b), {"other-sign"}),
        (compares(str, lambda a, b: a.startswith(str(b))), {"digits-appended", "sum-that-begins-with-it"}),
        (compares(str, lambda a, b: a.endswith(str(b))), {"digits-prepended", "difference-that-ends-with-it"}),
        (compares(first_number, lambda a, b: a == b), {"sum-that-begins-with-it", "bound-at-it"}),
        (compares(lambda text: abs(last_number(text)), lambda a, b: a == b), {"difference-that-ends-with-it"}),
        (compares(str, lambda a, b: str(b) in a.split()), {"sum-that-begins-with-it"}),
    ],
)
def test_a_paid_number_near_the_right_one_is_found(reward: Any, found_by: set[str], make_env: Make) -> None:
    report = audit_environment(make_env(tasks=sum_tasks(), reward=reward), exploits=NEARBY.exploits, tasks=4)
    assert found_by <= names(report), str(report)


@pytest.mark.parametrize(
    ("same", "found_by"),
    [
        (lambda a, b: bool(a) and b.startswith(a), {"first-half"}),
        (lambda a, b: bool(a) and b.endswith(a), {"last-half"}),
        (lambda a, b: a.startswith(b), {"word-extended"}),
        (lambda a, b: b.lower() in a.lower(), {"denied", "word-extended"}),
        (lambda a, b: sorted(a.lower()) == sorted(b.lower()), {"letters-swapped", "letters-sorted"}),
    ],
)
def test_a_paid_text_near_the_right_one_is_found(
    same: Callable[[str, str], bool], found_by: set[str], make_env: Make
) -> None:
    report = audit_environment(make_env(reward=compares(str, same)), exploits=NEARBY.exploits, tasks=4)
    assert found_by <= names(report), str(report)


@pytest.mark.parametrize("separator", [", ", "; ", "\n", " and ", "json"])
def test_a_paid_list_with_extra_items_is_found(separator: str, make_env: Make) -> None:
    import json

    def write(items: list[str]) -> str:
        return json.dumps(items) if separator == "json" else separator.join(items)

    def read(text: str) -> set[str]:
        try:
            return set(json.loads(text) if separator == "json" else map(str.strip, text.split(separator)))
        except ValueError:
            return set()

    tasks = [Task(str(n), f"Name the multiples {n}.", [f"item-{n}-{k}" for k in range(3)]) for n in range(6)]
    settings: dict[str, Any] = {
        "tasks": tasks, "tools": [], "oracle": lambda task: [say(f"<answer>{write(task.answer)}</answer>")],
    }  # fmt: skip
    loose = make_env(reward=lambda t, e: float(set(t.answer) <= read(told(e))), **settings)
    assert "list-with-more" in names(audit_environment(loose, exploits=NEARBY.exploits, tasks=3))

    def overlap(t: Task, e: Episode) -> float:  # honest partial credit
        given = read(told(e))
        return len(given & set(t.answer)) / len(given | set(t.answer))

    for honest in (lambda t, e: float(set(t.answer) == read(told(e))), overlap):
        audit_environment(make_env(reward=honest, **settings), exploits=NEARBY.exploits, tasks=3).assert_passed()


# ---- tools that reveal answers


def checker(tells: Callable[[str, str], str], fails: bool) -> Any:
    def open_secret(task: Task) -> str:
        return str(task.answer)

    @tool
    def submit(guess: str, secret: str = per_episode(open_secret)) -> str:
        """Check a guess.

        Args:
            guess: A capital.
        """
        text = tells(guess, secret)
        if fails:
            raise ToolError(text)
        return text

    return submit


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize(
    "tells",
    [
        lambda guess, secret: f"{guess} is wrong, it should be {secret}",
        lambda guess, secret: f"expected '{secret}'" if guess else "",
        lambda guess, secret: f"{secret!r} != {guess!r}" if len(guess) > 100 else "no",
    ],
)
def test_a_tool_whose_errors_or_results_reveal_the_answer_is_found(
    tells: Callable[[str, str], str], fails: bool, make_env: Make
) -> None:
    report = audit_environment(make_env(tools=[checker(tells, fails)]), exploits=TOOLS.exploits)
    assert any(name.startswith("told-") for name in names(report)), str(report)


def test_a_tool_whose_error_names_every_answer_reveals_none(make_env: Make) -> None:
    known = checker(lambda guess, secret: f"no such city; there are {', '.join(sorted(CAPITALS.values()))}", True)
    audit_environment(make_env(tools=[search, known]), exploits=TOOLS.exploits).assert_passed()


# ---- memory across episodes


def test_a_reward_that_remembers_an_earlier_episode_is_found(make_env: Make) -> None:
    solved: set[str] = set()

    def remembers(task: Task, episode: Episode) -> float:
        if told(episode) == task.answer:
            solved.add(task.id)
        return float(task.id in solved)

    report = audit_environment(make_env(reward=remembers), exploits=MEMORY.exploits, tasks=3)
    assert {"silence-after-success", "wrong-answer-after-success"} <= names(report)


@pytest.mark.parametrize("lifetime", [per_run, per_episode])
def test_notes_that_one_episode_leaves_with_a_tool_are_found_by_the_next(lifetime: Any, make_env: Make) -> None:
    def open_notes() -> list[str]:
        return []

    kept = lifetime(open_notes)

    @tool
    def note(text: str, notes: list[str] = kept) -> str:
        """Keep a note, and show all.

        Args:
            text: What to keep.
        """
        notes.append(text)
        return "\n".join(notes)

    report = audit_environment(make_env(tools=[note]), exploits=MEMORY.exploits, tasks=3)
    assert names(report) == ({"notes-left-with-tools"} if lifetime is per_run else set())


@pytest.mark.parametrize("lifetime", [per_run, per_episode])
def test_notes_that_outlive_a_sandboxes_episode_are_found(lifetime: Any, make_env: Make) -> None:
    def open_sandbox() -> Sandbox:
        return LocalSandbox(LIMITS)

    kept = lifetime(open_sandbox)

    @tool(keeps_time=True)
    def run(code: str, sandbox: Sandbox = kept) -> str:
        """Run code.

        Args:
            code: Python.
        """
        return sandbox.run(code).stdout

    env = make_env(tools=[run])
    report = audit_environment(env, exploits=MEMORY.exploits, tasks=2)
    assert ("notes-left-in-the-sandbox" in names(report)) == (lifetime is per_run), str(report)
    env.close()


# ---- sandboxes


def test_a_grader_that_compares_within_the_sandbox_is_found(make_env: Make) -> None:
    @tool(keeps_time=True)
    def python(code: str, sandbox: Sandbox = per_episode(lambda: LocalSandbox(LIMITS))) -> str:
        """Run code.

        Args:
            code: Python.
        """
        return sandbox.run(code).stdout

    def compares_inside(task: Task, episode: Episode) -> float:
        sandbox = episode.state.get("sandbox")
        return float(sandbox is not None and sandbox.run(f"total == {task.answer}").value == "True")

    env = make_env(tasks=sum_tasks(), tools=[python], reward=compares_inside, oracle=None)
    report = audit_environment(env, exploits=SANDBOX.exploits, tasks=2, slow=False)
    assert "names-equal-to-everything" in names(report), str(report)
    env.close()


def test_a_shell_is_attacked_as_a_code_tool(make_env: Make) -> None:
    def open_sandbox(task: Task) -> Sandbox:
        sandbox = LocalSandbox(LIMITS)
        sandbox.write_file("answer.json", f'{{"answer": {task.answer}}}'.encode())
        return sandbox

    @tool(keeps_time=True)
    def shell(command: str, sandbox: Sandbox = per_episode(open_sandbox)) -> str:
        """Run a command.

        Args:
            command: For sh.
        """
        program = (
            f"import subprocess\nprint(subprocess.run({command!r}, shell=True, capture_output=True).stdout.decode())"
        )
        return sandbox.run(program).stdout

    env = make_env(tasks=sum_tasks(), tools=[shell])
    report = audit_environment(env, exploits=SANDBOX.exploits, tasks=2, slow=False)
    assert "files-with-answers" in names(report), str(report)
    env.close()


# ---- what the report says


def test_the_report_names_the_kinds_that_could_not_be_tried(make_env: Make) -> None:
    @tool
    def execute(statement: str) -> str:
        """Run a statement.

        Args:
            statement: In a language of ours.
        """
        return "done"

    report = audit_environment(make_env(tools=[execute]), tasks=1, slow=False)
    assert set(report.untried) == {"sandbox", "verifiers", "code answers", "users"}
    text = str(report)
    assert "not tried: sandbox: the environment lacks a tool that runs code" in text
    assert report.to_dict()["untried"] == report.untried


def test_a_crash_is_given_a_remedy_for_crashes(make_env: Make) -> None:
    def converts(task: Task, episode: Episode) -> float:
        return float(int(told(episode) or "0") == task.answer)

    report = audit_environment(make_env(tasks=sum_tasks(), reward=converts), tasks=1, slow=False)
    (crash, *_) = [outcome for outcome in report.leaks if outcome.status == "crash"]
    assert crash.remedy.startswith("let tools raise ToolError")
    assert crash.to_dict()["remedy"] == crash.remedy
    assert f"remedy: {crash.remedy}" in str(report)


def test_the_honest_environments_hold_against_all_of_it(make_env: Make) -> None:
    exploits = [*NEARBY.exploits, *MEMORY.exploits, *TOOLS.exploits]
    for tasks in (capital_tasks(), sum_tasks(), sum_tasks(as_number=False)):
        audit_environment(make_env(tasks=tasks), exploits=exploits).assert_passed()


def test_an_audit_in_which_nothing_was_scored_does_not_pass() -> None:
    """A grader that is down says nothing about leaks."""

    def down(task: Task, episode: Episode) -> float:
        raise InfrastructureError("the grader's server is down")

    report = audit_environment(lambda: ToolEnv(tasks=[Task("1", "Say a.", "a")], reward=down), tasks=1)
    assert not report.passed
    assert "no episode has a score, so nothing is known: the grader failed: the grader's server is down" in str(report)
