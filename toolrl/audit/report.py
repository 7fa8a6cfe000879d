"""The reports of `check_environment` and `audit_environment`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from toolrl.audit.exploits.base import Exploit
from toolrl.audit.play import Played
from toolrl.tools.dispatch import cut_text

Severity = Literal["error", "warning"]
Status = Literal["passed", "failed", "skipped"]
OutcomeStatus = Literal["held", "leak", "crash", "not applicable", "excused"]

_SHOWN_CHARACTERS = 2000
_LINE_CHARACTERS = 160


class EnvironmentCheckFailed(AssertionError):
    """An environment did not pass its check or its audit; the message is the report."""


class Report(ABC):
    """What both reports have in common."""

    __slots__ = ()

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether the environment passed."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""

    def assert_passed(self) -> None:
        """Raise unless the environment passed.

        Raises:
            EnvironmentCheckFailed: It did not; the message is the report.
        """
        if not self.passed:
            raise EnvironmentCheckFailed(str(self))


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or may be.

    Attributes:
        check: The check that found it.
        message: What is wrong, with the value.
        remedy: What to do about it.
        task_id: The task it was found on; empty if it concerns the environment.
        severity: An error fails the check, a warning does not.
    """

    check: str
    message: str
    remedy: str
    task_id: str = ""
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check.

    Attributes:
        name: The name of the check.
        promise: What it checks.
        findings: What it found.
        skipped: Why it did not run; empty if it did.
    """

    name: str
    promise: str
    findings: tuple[Finding, ...] = ()
    skipped: str = ""

    @property
    def status(self) -> Status:
        """Failed if there is an error among the findings."""
        if self.skipped:
            return "skipped"
        return "failed" if any(finding.severity == "error" for finding in self.findings) else "passed"


@dataclass(frozen=True, slots=True)
class CheckReport(Report):
    """All checks of one environment.

    Attributes:
        environment: The environment's name.
        tasks: How many tasks were played.
        results: One per check.
    """

    environment: str
    tasks: int
    results: Sequence[CheckResult]

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings and skipped checks do not count."""
        return all(result.status != "failed" for result in self.results)

    @property
    def findings(self) -> list[Finding]:
        """The findings of all checks, errors first."""
        found = [finding for result in self.results for finding in result.findings]
        return sorted(found, key=lambda finding: finding.severity != "error")

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        results = [{**asdict(result), "status": result.status} for result in self.results]
        return {"environment": self.environment, "passed": self.passed, "tasks": self.tasks, "checks": results}

    def __str__(self) -> str:
        lines = [f"check of {self.environment}: {'passed' if self.passed else 'FAILED'} ({self.tasks} tasks played)"]
        for result in self.results:
            note = f" ({result.skipped})" if result.skipped else ""
            lines.append(f"  {result.status:8}{result.name:14}{result.promise}{note}")
            for finding in result.findings:
                where = f" [task {finding.task_id}]" if finding.task_id else ""
                lines.append(f"          {finding.severity}: {finding.message}{where}")
                lines.append(f"            {finding.remedy}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One exploit on one task.

    Attributes:
        played: The episode.
        is_lucky: Whether it was paid for a guess that happens to be right.
        opened: A forbidden tool that exists; empty if there is none.
        on_tokens: Whether it was played token by token rather than as messages.
    """

    played: Played
    is_lucky: bool = False
    opened: str = ""
    on_tokens: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The attempt and its messages as plain JSON values; long texts are cut in the middle."""
        messages = []
        for message in self.played.messages:
            row = {"role": message.role, "content": cut_text(message.content, _SHOWN_CHARACTERS)[0]}
            if message.tool_calls:
                calls = [f"{call.name}({dict(call.arguments)})" for call in message.tool_calls]
                row["tool_calls"] = cut_text("\n".join(calls), _SHOWN_CHARACTERS)[0]
            messages.append({key: text.encode("utf-8", "backslashreplace").decode() for key, text in row.items()})
        return {
            "task_id": self.played.task_id,
            "reward": self.played.score.value,
            "parts": dict(self.played.score.parts),
            "reason": self.played.score.reason,
            "lucky": self.is_lucky,
            "stop": str(self.played.stop),
            "crash": self.played.crash,
            "opened": self.opened,
            "on_tokens": self.on_tokens,
            "messages": messages,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one exploit.

    Attributes:
        exploit: The exploit.
        status: "leak" if it was paid, "crash" if a tool or the grader raised an unexpected exception.
        attempts: One per task, and further ones on tokens.
        note: Why it was not played, or why it is a leak.
    """

    exploit: Exploit
    status: OutcomeStatus
    attempts: tuple[Attempt, ...] = ()
    note: str = ""

    @property
    def reward(self) -> float:
        """Mean reward over the attempts, with lucky guesses counted as 0."""
        paid = sum(attempt.played.reward for attempt in self.attempts if not attempt.is_lucky)
        return paid / len(self.attempts) if self.attempts else 0.0

    @property
    def lucky(self) -> int:
        """The number of episodes with a lucky guess."""
        return sum(attempt.is_lucky for attempt in self.attempts)

    @property
    def unscored(self) -> int:
        """The number of episodes that an infrastructure fault left unscored."""
        return sum(attempt.played.score.value is None and not attempt.played.crash for attempt in self.attempts)

    @property
    def cause(self) -> str:
        """What is usually wrong."""
        return "text that a model can write makes a tool or the grader raise" if self._crashed else self.exploit.cause

    @property
    def remedy(self) -> str:
        """What to do."""
        if self._crashed:
            return "let tools raise ToolError for the model's mistakes, and graders return 0 for what they cannot read"
        return self.exploit.remedy

    @property
    def _crashed(self) -> bool:
        return self.status == "crash"

    @property
    def worst(self) -> Attempt | None:
        """The attempt that best shows what is wrong."""
        if not self.attempts:
            return None
        return max(
            self.attempts, key=lambda one: (bool(one.opened), one.played.reward, not one.is_lucky, one.played.crash)
        )

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain JSON values, with trajectories for leaks and crashes."""
        row: dict[str, Any] = {
            "exploit": self.exploit.name,
            "family": self.exploit.family,
            "description": self.exploit.description,
            "status": self.status,
            "note": self.note,
            "tasks": len({attempt.played.task_id for attempt in self.attempts}),
            "episodes": len(self.attempts),
            "reward": self.reward,
            "lucky": self.lucky,
            "unscored": self.unscored,
        }
        if self.status in ("leak", "crash"):
            row |= {"cause": self.cause, "remedy": self.remedy}
            row["trajectories"] = [attempt.to_dict() for attempt in self.attempts]
        return row


@dataclass(frozen=True, slots=True)
class AuditReport(Report):
    """The outcomes of all exploits on one environment.

    Attributes:
        environment: The environment's name.
        tasks: How many tasks were played.
        chance: The mean reward that the environment declares possible without solving a task.
        outcomes: One per exploit.
    """

    environment: str
    tasks: int
    chance: float
    outcomes: Sequence[Outcome]

    @property
    def leaks(self) -> list[Outcome]:
        """The outcomes of exploits that were paid, or made something raise."""
        return [outcome for outcome in self.outcomes if outcome.status in ("leak", "crash")]

    @property
    def untried(self) -> dict[str, str]:
        """Families of which nothing was played, and why: the report says nothing about these kinds of leaks."""
        reasons: dict[str, str] = {}
        tried = {outcome.exploit.family for outcome in self.outcomes if outcome.attempts}
        for outcome in self.outcomes:
            if outcome.exploit.family not in tried:
                reasons.setdefault(outcome.exploit.family, outcome.note)
        return reasons

    @property
    def unscored(self) -> str:
        """Why no episode of any exploit has a score, so that the report says nothing; empty if one has."""
        scores = [attempt.played.score for outcome in self.outcomes for attempt in outcome.attempts]
        return scores[0].reason if scores and all(score.value is None for score in scores) else ""

    @property
    def passed(self) -> bool:
        """Whether no exploit was paid, nothing raised, and an episode had a score; see also `untried`."""
        return not self.leaks and not self.unscored

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "environment": self.environment,
            "passed": self.passed,
            "tasks": self.tasks,
            "chance": self.chance,
            "untried": self.untried,
            "outcomes": [outcome.to_dict() for outcome in self.outcomes],
        }

    def __str__(self) -> str:
        counts = Counter(outcome.status for outcome in self.outcomes)
        summary = ", ".join(f"{count} {status}" for status, count in counts.most_common())
        verdict = "passed" if self.passed else "FAILED"
        lines = [f"audit of {self.environment}: {verdict} ({self.tasks} tasks, allowed reward {self.chance:g})"]
        lines.append(f"  {len(self.outcomes)} exploits: {summary}")
        families = dict.fromkeys(outcome.exploit.family for outcome in self.outcomes)
        for family in families:
            members = [outcome for outcome in self.outcomes if outcome.exploit.family == family]
            played = [outcome for outcome in members if outcome.attempts]
            reward = max((outcome.reward for outcome in played), default=0.0)
            lines.append(f"    {family:18}{len(played):3} of {len(members):2} played, highest reward {reward:.2f}")
        if self.unscored:
            lines.append(f"  no episode has a score, so nothing is known: {self.unscored}")
        lines += [f"  not tried: {family}: {reason}" for family, reason in self.untried.items()]
        for outcome in self.leaks:
            lines += ["", *_describe(outcome)]
        for outcome in self.outcomes:
            if outcome.status == "excused":
                lines.append(f"  excused: {outcome.exploit.name}: {outcome.note}")
            if outcome.unscored:
                lines.append(
                    f"  {outcome.exploit.name}: {outcome.unscored} of {len(outcome.attempts)} episodes unscored"
                )
        return "\n".join(lines)


def _describe(outcome: Outcome) -> list[str]:
    exploit, worst = outcome.exploit, outcome.worst
    lines = [f"  {outcome.status.upper()} {exploit.name} ({exploit.family}): {exploit.description}"]
    if worst is not None:
        played = worst.played
        got = f"the tool {worst.opened!r} exists" if worst.opened else f"reward {played.reward:g}"
        if played.crash:
            got = f"raised {played.crash[:_LINE_CHARACTERS]}"
        lines.append(f"    task {played.task_id}: {got}; mean of {len(outcome.attempts)} episodes {outcome.reward:.3g}")
        if worst.on_tokens:
            lines.append("    sampled token by token; `toolrl audit --json` also has the episodes played as messages")
        final = (played.final or "").replace("\n", " ")
        lines.append(f"    final message: {final[:_LINE_CHARACTERS]!r}")
    if outcome.note:
        lines.append(f"    {outcome.note}")
    lines += [f"    usual cause: {outcome.cause}", f"    remedy: {outcome.remedy}"]
    if outcome.status == "leak":
        lines.append(
            "    if it is fair here, as in some games, say so in the environment: "
            f'audit_options = AuditOptions(excused={{"{exploit.name}": "why"}})'
        )
    return lines
