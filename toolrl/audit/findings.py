"""What a check finds: typed findings, and the report that holds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning"]
Status = Literal["passed", "failed", "skipped"]


class EnvironmentCheckFailed(AssertionError):
    """An environment did not pass its check or its audit; the message is the report."""


class Report(ABC):
    """What both reports can do."""

    __slots__ = ()

    @property
    @abstractmethod
    def passed(self) -> bool:
        """Whether nothing was found that fails."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""

    def assert_passed(self) -> None:
        """Raise if something was.

        Raises:
            EnvironmentCheckFailed: With the report as its message.
        """
        if not self.passed:
            raise EnvironmentCheckFailed(str(self))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be.

    Attributes:
        check: The check that found it.
        message: What, with the value seen.
        remedy: What to do.
        task_id: The task it was seen on; empty if it is about the environment.
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
        name: Of the check.
        promise: What it makes sure of.
        findings: What it found.
        skipped: Why it did not run; empty if it did.
    """

    name: str
    promise: str
    findings: tuple[Finding, ...] = ()
    skipped: str = ""

    @property
    def status(self) -> Status:
        """Failed with an error among the findings."""
        if self.skipped:
            return "skipped"
        return "failed" if any(finding.severity == "error" for finding in self.findings) else "passed"


@dataclass(frozen=True, slots=True)
class CheckReport(Report):
    """All checks of one environment.

    Attributes:
        environment: Its name.
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
        """What all checks found, errors first."""
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
