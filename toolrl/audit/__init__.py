"""Two doors: `check_environment` tests an environment's promises, `audit_environment` tries to cheat its reward."""

from toolrl.audit.audit import audit_environment
from toolrl.audit.case import Case
from toolrl.audit.check import CHECKS, check_environment
from toolrl.audit.exploits import catalogue, register_exploit
from toolrl.audit.exploits.base import Exploit
from toolrl.audit.report import Attempt, AuditReport, CheckReport, CheckResult, EnvironmentCheckFailed, Finding, Outcome
from toolrl.audit.subject import AuditOptions
from toolrl.audit.testing import EnvironmentTests

__all__ = [
    "CHECKS",
    "Attempt",
    "AuditOptions",
    "AuditReport",
    "Case",
    "CheckReport",
    "CheckResult",
    "EnvironmentCheckFailed",
    "EnvironmentTests",
    "Exploit",
    "Finding",
    "Outcome",
    "audit_environment",
    "catalogue",
    "check_environment",
    "register_exploit",
]
