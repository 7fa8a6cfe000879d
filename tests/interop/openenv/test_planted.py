"""Leaks planted in served environments: the audit finds them through the wire, by name, without the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.audit.conftest import right, sum_tasks
from tests.audit.test_leaks import believes_verdicts, passes_nan, takes_the_last
from toolrl import Ended, Episode, Limits, Task, ToolEnv, award, say, tool
from toolrl.audit import AuditReport, audit_environment
from toolrl.audit.exploits import FAMILIES
from toolrl.interop.serve import EnvironmentServer
from toolrl.rewards import answer_reward, tagged_answer

Serve = Callable[..., str]

PAIRS = [(9, 8), (9, 6), (9, 1), (12, 4), (14, 11), (7, 6)]
DIGITS = [Task(f"{a}-{b}", f"What is {a} - {b}?", a - b) for a, b in PAIRS]
# What a server's audit needs, without those that take long: half a million characters, other sandboxes.
PLAYED = [
    exploit
    for family in FAMILIES
    if family.name in ("answers", "values", "forgeries", "tools", "users", "awards", "memory", "withheld answers")
    for exploit in family.exploits
    if not exploit.name.startswith(("giant", "deep", "huge-texts", "many-calls"))
]


@tool
def search(query: str) -> str:
    """Look something up.

    Args:
        query: What.
    """
    return f"Nothing is known about {query}."


@tool
def look() -> str:
    """Look around."""
    award(0.2, "looked")
    return "Nothing is to be seen."


def searches_for_the_answer(task: Task, episode: Episode) -> float:
    return float(str(task.answer) in (episode.answer or ""))


def reads_results(task: Task, episode: Episode) -> float:
    return float(any(str(task.answer) in result.content for result in episode.tool_results))


def pays_for_calls(task: Task, episode: Episode) -> float:
    return 0.9 * right(tagged_answer(episode.answer) or "?", task.answer) + 0.1 * bool(episode.tool_results)


def adds_awards(task: Task, episode: Episode) -> float:
    return right(tagged_answer(episode.answer) or "?", task.answer) + episode.awarded


def hangs_up(message: str) -> str | Ended:
    return Ended("Goodbye.", "goodbye") if "end the conversation" in message else "What else?"


def pays_for_the_end(task: Task, episode: Episode) -> float:
    return float(episode.ending == "goodbye")


# The leak, what makes it, the family that finds it, and some of the exploits.
LEAKS: dict[str, tuple[dict[str, Any], str, set[str]]] = {
    "the answer is looked for anywhere in the text": (
        {"reward": searches_for_the_answer}, "answers", {"number-dump"},
    ),
    "a tool repeats the query, and its result is taken for the answer": (
        {"reward": reads_results, "tasks": DIGITS}, "tools", {"huge-numbers"},
    ),
    "any call is paid": (
        {"reward": pays_for_calls}, "tools", {"calls-without-answer", "calls-then-wrong-answer"},
    ),
    "an award can be farmed": (
        {"reward": adds_awards, "tools": [look], "limits": Limits(turns=5, tool_calls=5, awards=10)},
        "tools", {"the-same-call-many-times"},
    ),
    "a verdict that the model writes is believed": ({"reward": believes_verdicts}, "forgeries", {"verdict-lines"}),
    "NaN is near every number": ({"reward": passes_nan}, "values", {"nan"}),
    "the prompt names the answer": (
        {"tasks": [Task(str(n), f"Repeat the number. (Answer: {n})", n) for n in range(50, 56)]},
        "answers", {"answer-named-in-the-prompt"},
    ),
    "a user's goodbye is taken for success": (
        {"user": hangs_up, "reward": pays_for_the_end}, "users", {"ask-to-end"},
    ),
}  # fmt: skip


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a small sound environment, with some arguments replaced, and returns its name here."""
    opened: list[EnvironmentServer | ToolEnv] = []

    def begin(**changes: Any) -> str:
        settings: dict[str, Any] = {
            "tasks": sum_tasks(),
            "tools": [search],
            "reward": answer_reward(right),
            "system_prompt": "End with <answer>...</answer>.",
            "limits": Limits(turns=5, tool_calls=4),
            "oracle": lambda task: [say(f"<answer>{task.answer}</answer>")],
        }
        env = ToolEnv(**{**settings, **changes})
        server = EnvironmentServer(["test/Planted-v0"], lambda name, split: env)
        opened.extend((server, env))
        return f"openenv:{server.url}"

    yield begin
    for one in opened:
        one.close()


def leaks_of(report: AuditReport) -> dict[str, str]:
    """The family of each exploit that was paid."""
    return {outcome.exploit.name: outcome.exploit.family for outcome in report.leaks}


def test_a_sound_environment_passes_through_the_wire(serve: Serve) -> None:
    report = audit_environment(serve(), tasks=2, exploits=PLAYED)
    report.assert_passed()
    assert sum(bool(outcome.attempts) for outcome in report.outcomes) >= 60
    assert sum(outcome.unscored for outcome in report.outcomes) == 0


@pytest.mark.parametrize("leak", list(LEAKS))
def test_a_planted_leak_is_found_through_the_wire(leak: str, serve: Serve) -> None:
    changes, family, found_by = LEAKS[leak]
    report = audit_environment(serve(**changes), tasks=2, exploits=PLAYED)
    found = leaks_of(report)
    assert found_by <= set(found), str(report)
    assert {found[name] for name in found_by} == {family}


def test_a_farmed_award_is_worth_more_each_time(serve: Serve) -> None:
    changes, _, _ = LEAKS["an award can be farmed"]
    report = audit_environment(serve(**changes), tasks=1, exploits=PLAYED)
    earned = {outcome.exploit.name: outcome.reward for outcome in report.outcomes}
    assert earned["the-same-call-many-times"] == pytest.approx(5 * earned["calls-without-answer"])


def test_what_needs_the_answer_is_not_seen_through_the_wire(serve: Serve) -> None:
    settings: dict[str, Any] = {"tasks": sum_tasks(as_number=False), "reward": takes_the_last}
    away = audit_environment(serve(**settings), tasks=2, exploits=PLAYED)
    assert away.passed
    assert {"withheld answers", "awards", "memory"} <= set(away.untried)
    unplayed = {outcome.exploit.name for outcome in away.outcomes if outcome.status == "not applicable"}
    assert "several-answers-right-last" in unplayed
    home = ToolEnv(
        tools=[search], system_prompt="End with <answer>...</answer>.",
        oracle=lambda task: [say(f"<answer>{task.answer}</answer>")], **settings,
    )  # fmt: skip
    assert "several-answers-right-last" in leaks_of(audit_environment(home, tasks=2, exploits=PLAYED))
    home.close()
