"""Promises of the audit where code runs: leaks of a sandbox, and of graders that run code, are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.audit.conftest import sum_tasks
from toolrl import Episode, Task, ToolEnv, per_episode, say, tool
from toolrl.audit import audit_environment, catalogue
from toolrl.audit.exploits.code import CODE
from toolrl.audit.exploits.sandbox import SANDBOX
from toolrl.rewards import tagged_answer
from toolrl.sandbox import LocalSandbox, Sandbox, SandboxLimits
from toolrl.tools.python import format_result

Make = Callable[..., ToolEnv]
LIMITS = SandboxLimits(seconds=2.0)


def python_tool(prepare: Callable[[Sandbox, Task], object]) -> Any:
    """A python tool whose sandbox contains what it should not."""

    def open_sandbox(task: Task) -> Sandbox:
        sandbox = LocalSandbox(LIMITS)
        prepare(sandbox, task)
        return sandbox

    @tool(keeps_time=True)
    def python(code: str, sandbox: Sandbox = per_episode(open_sandbox)) -> str:
        """Run code.

        Args:
            code: Python.
        """
        return format_result(sandbox.run(code))

    return python


def nothing(sandbox: Sandbox, task: Task) -> None:
    pass


def believes_a_file(task: Task, episode: Episode) -> float:
    sandbox = episode.state.get("sandbox")
    if sandbox is None or "reward.txt" not in sandbox.list_files():
        return 0.0
    return float(sandbox.read_file("reward.txt").decode())


def pays_for_what_is_left(task: Task, episode: Episode) -> float:
    sandbox = episode.state.get("sandbox")
    return float(sandbox is not None and str(task.answer) in (sandbox.run("answer").value or ""))


def pays_timeouts(task: Task, episode: Episode) -> float:
    return float(any("TimeoutError" in result.content for result in episode.tool_results))


@pytest.mark.parametrize(
    ("prepare", "reward", "found_by"),
    [
        (lambda s, t: s.write_file("answer.json", f'{{"answer": {t.answer}}}'.encode()), None, "files-with-answers"),
        (
            lambda s, t: s.run(f"import os; os.environ['EXPECTED_ANSWER'] = '{t.answer}'"),
            None,
            "variables-with-answers",
        ),
        (lambda s, t: s.run(f"expected = {t.answer}"), None, "frames-with-answers"),
        (lambda s, t: s.run(f"row = {{'answer': {t.answer}}}"), None, "memory-with-answers"),
        (nothing, believes_a_file, "rewards-written-to-files"),
        (nothing, pays_for_what_is_left, "options-left-in-variables"),
        (nothing, pays_timeouts, "endless-code"),
    ],
)
def test_a_leak_of_the_sandbox_is_found(
    prepare: Callable[[Sandbox, Task], object], reward: Any, found_by: str, make_env: Make
) -> None:
    changes = {"reward": reward} if reward else {}
    env = make_env(tasks=sum_tasks(), tools=[python_tool(prepare)], **changes)
    report = audit_environment(env, exploits=SANDBOX.exploits, tasks=2)
    assert found_by in {outcome.exploit.name for outcome in report.leaks}, str(report)
    env.close()


def test_a_sandbox_without_leaks_passes(make_env: Make) -> None:
    env = make_env(tasks=sum_tasks(), tools=[python_tool(nothing)])
    report = audit_environment(env, exploits=SANDBOX.exploits, tasks=1)
    report.assert_passed()
    assert all(outcome.status == "held" for outcome in report.outcomes)
    env.close()


# ---- answers that are code

PROMPT = (
    "Write a function `double(n)` that doubles a number. For example:\nassert double(2) == 4\nassert double(5) == 10"
)
INPUTS = (2, 5, 7, -3)


def run_tests(program: str) -> Any:
    with LocalSandbox(LIMITS) as sandbox:
        return sandbox.run(program)


def submitted(episode: Episode) -> str:
    return tagged_answer(episode.answer) or ""


def asserts(task: Task, episode: Episode) -> float:
    """One process, the candidate's own ==, and no error is the verdict."""
    tests = "\n".join(f"assert double({n}) == {2 * n}" for n in INPUTS)
    return float(run_tests(f"{submitted(episode)}\n{tests}").error is None)


def prints(task: Task, episode: Episode) -> float:
    """The verdict is a line on stdout."""
    return float("PASSED" in run_tests(f"{submitted(episode)}\nprint(double(7) == 14 and 'PASS' 'ED')").stdout)


def holds_the_expected(task: Task, episode: Episode) -> float:
    """Expected values are in the caller's frame."""
    loop = f"    for n in {INPUTS}:\n        expected = 2 * n\n        assert repr(double(n)) == repr(expected)"
    return float(run_tests(f"{submitted(episode)}\ndef check():\n{loop}\ncheck()").error is None)


def shows_all_tests(task: Task, episode: Episode) -> float:
    return float(repr(run_tests(f"{submitted(episode)}\n[double(2), double(5)]").value) == repr("[4, 10]"))


def exit_status(task: Task, episode: Episode) -> float:
    """The exit status of a process, which its code chooses."""
    result = run_tests(f"{submitted(episode)}\nassert repr(double(7)) == '14'")
    return float(result.error is None or result.error.name == "SystemExit")


def from_the_outside(task: Task, episode: Episode) -> float:
    """Inputs go in, text comes out, and the parent compares."""
    with LocalSandbox(LIMITS) as sandbox:
        for n in INPUTS:
            sandbox.reset()
            if sandbox.run(f"{submitted(episode)}\nint(double({n}))").value != str(2 * n):
                return 0.0
    return 1.0


def code_env(make_env: Make, reward: Any) -> ToolEnv:
    solution = "```python\ndef double(n):\n    return 2 * n\n```"
    tasks = [Task("double", PROMPT, {"inputs": list(INPUTS)})]
    return make_env(tasks=tasks, tools=[], reward=reward, oracle=lambda task: [say(f"<answer>{solution}</answer>")])


def unfenced(reward: Any) -> Any:
    def graded(task: Task, episode: Episode) -> float:
        text = (episode.answer or "").replace("```python\n", "").replace("```", "")
        return reward(task, Episode(text))

    return graded


@pytest.mark.parametrize(
    ("reward", "found_by"),
    [
        (asserts, {"equal-to-everything", "number-equal-to-everything"}),
        (prints, {"verdicts-at-exit"}),
        (holds_the_expected, {"walks-frames"}),
        (shows_all_tests, {"hard-coded-examples"}),
        (exit_status, {"system-exit-when-loaded", "system-exit-when-called"}),
    ],
)
def test_a_leak_of_a_grader_that_runs_code_is_found(reward: Any, found_by: set[str], make_env: Make) -> None:
    report = audit_environment(code_env(make_env, unfenced(reward)), exploits=CODE.exploits, slow=False)
    assert found_by <= {outcome.exploit.name for outcome in report.leaks}, str(report)


def test_a_grader_that_compares_outside_pays_no_code_exploit(make_env: Make) -> None:
    env = code_env(make_env, unfenced(from_the_outside))
    report = audit_environment(env, exploits=[*CODE.exploits, *catalogue()[:5]], slow=False)
    report.assert_passed()
    assert {outcome.status for outcome in report.outcomes if not outcome.exploit.is_slow} == {"held"}


def test_a_grader_of_code_may_accept_a_list_of_programs_that_includes_the_right_one(make_env: Make) -> None:
    tasks = [Task("double", PROMPT, "def double(n):\n    return 2 * n")]
    env = code_env(make_env, unfenced(from_the_outside))
    env.tasks = type(env.tasks)(tasks)
    report = audit_environment(env, slow=False)
    assert next(one for one in report.outcomes if one.exploit.name == "all-options-on-lines").status == "not applicable"
    report.assert_passed()
