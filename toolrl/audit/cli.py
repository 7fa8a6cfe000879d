"""What `toolrl check` and `toolrl audit` do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolrl.audit.audit import audit_environment
from toolrl.audit.check import check_environment
from toolrl.errors import ConfigError


def run_check(env_id: str, *, tasks: int, settings: Mapping[str, Any], as_json: bool) -> tuple[str, bool]:
    """Check an environment; returns what to print, and whether it passed."""
    report = check_environment(env_id, tasks=tasks, settings=settings)
    return json.dumps(report.to_dict(), indent=1) if as_json else str(report), report.passed


def run_audit(env_id: str, *, tasks: int, settings: Mapping[str, Any], as_json: bool) -> tuple[str, bool]:
    """Audit an environment; returns what to print, and whether it passed."""
    report = audit_environment(env_id, tasks=tasks, settings=settings)
    return json.dumps(report.to_dict(), indent=1) if as_json else str(report), report.passed


def parse_settings(text: str) -> dict[str, Any]:
    """Read the settings of an environment from a JSON object.

    Raises:
        ConfigError: It is none.
    """
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--settings must be a JSON object, got {text!r} ({error})") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--settings must be a JSON object, got {text!r}")
    return settings
