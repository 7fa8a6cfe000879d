"""What local sandboxes keep out on this machine, found by starting one: the text of `toolrl doctor`."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox.local.launcher import Zygote
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers, Level, wanted_isolation

_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One layer of isolation.

    Attributes:
        layer: Its name.
        active: Whether what it forbids failed in a sandbox.
        purpose: What it does.
        problem: Why it could not be set up; "" if nothing was said.
        open_without: What is open while it is missing.
        remedy: How to get it.
    """

    layer: str
    active: bool
    purpose: str
    problem: str
    open_without: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of local sandboxes on this machine.

    Attributes:
        level: The level of isolation.
        usable: Whether `LocalSandbox()` runs without a demand for less.
        summary: A sentence on what that means.
        findings: One per layer; none if no sandbox could be started.
    """

    level: Level
    usable: bool
    summary: str
    findings: tuple[Finding, ...]


def examine() -> Diagnosis:
    """Start a sandbox and see what holds in it."""
    try:
        wanted_isolation("none")
        zygote = Zygote()
    except (ConfigError, SandboxFault) as error:
        return Diagnosis("none", False, f"No sandbox runs here: {error}", ())
    zygote.close()
    return diagnose(zygote.active)


def diagnose(active: ActiveLayers) -> Diagnosis:
    """Put in words what was found."""
    level = active.level
    if level == "full":
        summary = "All layers that a level needs are in force."
    elif level == "none":
        summary = 'Too little is in force: sandboxes run only with isolation="none" or TOOLRL_ISOLATION=none.'
    else:
        summary = 'Sandboxes run, with a warning; isolation="full" refuses.'
    findings = tuple(
        Finding(name, active.holds[name], layer.purpose, active.problems.get(name, ""), *layer[1:])
        for name, layer in LAYERS.items()
    )
    return Diagnosis(level, level != "none", summary, findings)


def as_text(diagnosis: Diagnosis) -> str:
    """A diagnosis for people to read; a problem that nothing was said about has no line."""
    lines = [f"isolation level: {diagnosis.level}", diagnosis.summary, ""]
    for finding in diagnosis.findings:
        lines += _wrapped(f"{'active' if finding.active else 'absent'}  {finding.layer}", finding.purpose)
        if not finding.active:
            lines += _wrapped("        why:", finding.problem)
            lines += _wrapped("        open:", finding.open_without)
            lines += _wrapped("        get it:", finding.remedy)
    return "\n".join(lines)


def _wrapped(label: str, text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{label:<20}", subsequent_indent=" " * 20)
