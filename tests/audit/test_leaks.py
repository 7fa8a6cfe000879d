"""Promises of the audit: a planted leak is found by name, and an honest environment passes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.audit.conftest import CAPITALS, capital_tasks, right, search, sum_tasks
from toolrl import Episode, Task, ToolEnv, call, say, tool
from toolrl.audit import (
    AuditOptions,
    AuditReport,
    Case,
    EnvironmentCheckFailed,
    Exploit,
    audit_environment,
    catalogue,
    register_exploit,
)
from toolrl.audit.exploits import OWN
from toolrl.rewards import tagged_answer

Make = Callable[..., ToolEnv]


def tagged(episode: Episode) -> list[str]:
    return re.findall(r"<answer>(.*?)</answer>", episode.answer or "", re.DOTALL)


def reads_the_transcript(task: Task, episode: Episode) -> float:
    transcript = "\n".join(f"{result.call.arguments} {result.content}" for result in episode.tool_results)
    return float(task.answer in f"{transcript}\n{episode.answer}")


def searches_for_the_answer(task: Task, episode: Episode) -> float:
    return float(task.answer in (episode.answer or ""))


def searches_in_the_tags(task: Task, episode: Episode) -> float:
    return float(task.answer in (tagged_answer(episode.answer) or ""))


def takes_any(task: Task, episode: Episode) -> float:
    return float(any(right(answer, task.answer) for answer in tagged(episode)))


def takes_the_first(task: Task, episode: Episode) -> float:
    return float(right((tagged(episode) or ["?"])[0], task.answer))


def takes_the_last(task: Task, episode: Episode) -> float:
    return float(right((tagged(episode) or ["?"])[-1], task.answer))


def evaluates(task: Task, episode: Episode) -> float:
    expected = task.answer
    try:
        return float(bool(eval(tagged_answer(episode.answer) or "0") == expected))
    except (ArithmeticError, AttributeError, NameError, SyntaxError, TypeError, ValueError, MemoryError):
        return 0.0


def passes_nan(task: Task, episode: Episode) -> float:
    try:
        given = float(tagged_answer(episode.answer) or "0")
    except ValueError:
        return 0.0
    return 0.0 if abs(given - task.answer) > 1e-6 else 1.0


def passes_infinity(task: Task, episode: Episode) -> float:
    try:
        given = float(tagged_answer(episode.answer) or "0")
    except ValueError:
        return 0.0
    return float(abs(given - task.answer) <= 1e-6 * abs(given) + 1e-6)


def pays_for_calls(task: Task, episode: Episode) -> float:
    return right(tagged_answer(episode.answer) or "?", task.answer) + 0.1 * bool(episode.tool_results)


def takes_a_prefix(task: Task, episode: Episode) -> float:
    return float(task.answer.startswith((episode.answer or "").strip()))


def takes_a_pattern(task: Task, episode: Episode) -> float:
    pattern = tagged_answer(episode.answer) or "?"
    try:
        return float(len(pattern) < 100 and re.fullmatch(pattern, task.answer) is not None)
    except re.error:
        return 0.0


def believes_verdicts(task: Task, episode: Episode) -> float:
    found = re.search(r"^Score: ([\d.]+)$", episode.answer or "", re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def reads_the_echo(task: Task, episode: Episode) -> float:
    """Searches the errors that the model provoked, and ignores the last message."""
    return float(any(task.answer in result.content for result in episode.tool_results if result.failure))


LEAKS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "grader reads the transcript": (
        {"reward": reads_the_transcript},
        {"work-without-answer", "work-then-refusal", "work-then-wrong-answer", "answer-as-query"},
    ),
    "grader searches the final message": ({"reward": searches_for_the_answer}, {"all-options-as-text"}),
    "grader searches in the tags": ({"reward": searches_in_the_tags}, {"all-options-in-one-answer"}),
    "any of many answers": ({"reward": takes_any}, {"several-answers-right-in-the-middle", "answer-then-retraction"}),
    "first of many answers": ({"reward": takes_the_first}, {"several-answers-right-first"}),
    "last of many answers": ({"reward": takes_the_last}, {"several-answers-right-last"}),
    "grader evaluates the answer": (
        {"reward": evaluates, "tasks": sum_tasks()},
        {"expression-of-the-prompt", "expression-equal-to-everything", "name-of-the-expected", "mock-any"},
    ),
    "NaN passes": ({"reward": passes_nan, "tasks": sum_tasks()}, {"nan"}),
    "infinity passes": ({"reward": passes_infinity, "tasks": sum_tasks()}, {"infinity", "overflow"}),
    "answer in the prompt": (
        {"tasks": capital_tasks("What is the capital of {country}? (Answer: {capital})")},
        {"answer-named-in-the-prompt"},
    ),
    "calls are paid": ({"reward": pays_for_calls}, {"calls-without-answer", "calls-then-wrong-answer"}),
    "an empty answer is a prefix": ({"reward": takes_a_prefix}, {"empty-message", "blank-message"}),
    "the answer is a pattern": ({"reward": takes_a_pattern}, {"wildcard"}),
    "verdicts are believed": ({"reward": believes_verdicts}, {"verdict-lines"}),
    "error messages are read": ({"reward": reads_the_echo}, {"answer-as-a-tools-name"}),
}


def names(report: AuditReport) -> set[str]:
    return {outcome.exploit.name for outcome in report.leaks}


def test_an_honest_environment_passes(make_env: Make) -> None:
    for env in (make_env(), make_env(tasks=sum_tasks()), make_env(tasks=sum_tasks(as_number=False), tools=[])):
        report = audit_environment(env)
        report.assert_passed()
        assert sum(bool(outcome.attempts) for outcome in report.outcomes) >= 40


@pytest.mark.parametrize("leak", list(LEAKS))
def test_a_planted_leak_is_found(leak: str, make_env: Make) -> None:
    changes, found_by = LEAKS[leak]
    report = audit_environment(make_env(**changes), tasks=4)
    assert not report.passed
    assert found_by <= names(report), names(report)


def test_the_report_names_leak_task_reward_cause_and_remedy_and_shows_the_trajectory(make_env: Make) -> None:
    report = audit_environment(make_env(reward=takes_any), tasks=2)
    with pytest.raises(EnvironmentCheckFailed, match="FAILED") as failure:
        report.assert_passed()
    outcome = next(one for one in report.leaks if one.exploit.name == "several-answers-right-last")
    text = str(failure.value)
    assert outcome.worst is not None
    for part in ("LEAK several-answers-right-last", outcome.worst.played.task_id, "reward 1", outcome.exploit.remedy):
        assert part in text
    assert outcome.exploit.cause in text
    row = next(
        row
        for row in json.loads(json.dumps(report.to_dict()))["outcomes"]
        if row["exploit"] == "several-answers-right-last"
    )
    assert [row["status"], row["reward"], len(row["trajectories"])] == ["leak", 1.0, 2]
    assert [message["role"] for message in row["trajectories"][0]["messages"]] == ["system", "user", "assistant"]


def test_a_tool_that_closes_or_grades_is_a_leak_though_it_pays_nothing(make_env: Make) -> None:
    @tool
    def close() -> str:
        """Close the environment."""
        return "closed"

    @tool
    def get_reward(answer: str) -> str:
        """Try an answer.

        Args:
            answer: What to try.
        """
        return "0"

    report = audit_environment(make_env(tools=[search, close, get_reward]), tasks=1)
    assert names(report) == {"lifecycle-as-tools", "grading-as-tools"}
    assert "the tool 'close' exists" in str(report)


def test_a_count_of_calls_that_the_model_can_lower_is_a_leak(make_env: Make) -> None:
    @tool
    def spend(amount: float) -> str:
        """Spend some of the budget.

        Args:
            amount: How much.
        """
        return "spent"

    def saves(task: Task, episode: Episode) -> float:
        spent = sum(
            r.call.arguments["amount"] for r in episode.tool_results if r.call.name == "spend" and not r.failure
        )
        return max(0.0, -0.01 * spent)

    report = audit_environment(make_env(tools=[spend], reward=saves, oracle=None), tasks=1)
    assert "calls-that-count-down" in names(report)


def test_a_grader_or_tool_that_raises_on_hostile_text_fails_the_audit(make_env: Make) -> None:
    def converts(task: Task, episode: Episode) -> float:
        return float(int(tagged_answer(episode.answer) or "0") == task.answer)

    report = audit_environment(make_env(tasks=sum_tasks(), reward=converts), tasks=1)
    assert "ValueError" in str(report)
    assert {outcome.status for outcome in report.leaks} == {"crash"}


# ---- luck


def test_a_lucky_guess_is_not_a_leak(make_env: Make) -> None:
    tasks = [Task(str(n), f"Which digit follows digit number {n}?", str(n % 5)) for n in range(10)]
    report = audit_environment(make_env(tasks=tasks), tasks=10)
    report.assert_passed()
    guess = next(outcome for outcome in report.outcomes if outcome.exploit.name == "always-1")
    assert (guess.lucky, guess.reward, guess.status) == (2, 0.0, "held")


def test_one_answer_that_is_right_on_nearly_all_tasks_is_a_leak(make_env: Make) -> None:
    tasks = [Task(str(n), f"Is {n} a number?", "yes") for n in range(8)]
    report = audit_environment(make_env(tasks=tasks))
    assert "always-yes" in names(report)
    assert "right in 8 of 8 episodes" in str(report)


def test_what_is_declared_is_allowed_and_shown(make_env: Make) -> None:
    env = make_env(reward=lambda task, episode: 0.2)
    assert not audit_environment(env, tasks=1).passed
    env.audit_options = AuditOptions(chance=0.25)  # type: ignore[attr-defined]
    report = audit_environment(env, tasks=1)
    assert report.passed
    assert "allowed reward 0.25" in str(report)

    env = make_env(reward=takes_the_last)
    env.audit_options = AuditOptions(excused={"several-answers-right-last": "the last one counts"})  # type: ignore[attr-defined]
    assert "excused: several-answers-right-last: the last one counts" in str(audit_environment(env, tasks=1))


# ---- the catalogue


def test_the_catalogue_has_distinct_exploits_each_with_a_cause_and_a_remedy() -> None:
    exploits = catalogue()
    assert len({exploit.name for exploit in exploits}) == len(exploits) >= 40
    for exploit in exploits:
        assert exploit.description.endswith(".")
        assert exploit.cause
        assert exploit.remedy


def test_exploits_do_not_see_answers(make_env: Make) -> None:
    seen: list[Case] = []

    def look(case: Case) -> list[str]:
        seen.append(case)
        return [""]

    audit_environment(make_env(), exploits=[Exploit("look", "own", "Looks.", "none", "none", look)], tasks=3)
    for case in seen:
        assert case.task.answer is None
        assert case.task.metadata == {}
        assert CAPITALS[case.task.id] in case.options
    assert {case.options.index(CAPITALS[case.task.id]) for case in seen} != {0}


def test_authors_add_their_own_exploits(make_env: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OWN, "exploits", [])
    own = Exploit("say-please", "own", "Says please.", "kindness", "none", lambda case: ["please"])
    register_exploit(own)
    with pytest.raises(ValueError, match="already"):
        register_exploit(own)
    report = audit_environment(make_env(reward=lambda task, episode: float(episode.answer == "please")), tasks=1)
    assert "say-please" in names(report)


def test_an_exploit_can_act_on_what_tools_say(make_env: Make) -> None:
    def play(case: Case) -> Any:
        (found,) = yield call("search", query=case.task.id)
        yield say(f"<answer>{found.content.split()[-1].rstrip('.')}</answer>")

    own = Exploit("reads", "own", "Reads.", "none", "none", play)
    report = audit_environment(make_env(), exploits=[own], tasks=3)
    assert report.outcomes[0].reward == 1.0
