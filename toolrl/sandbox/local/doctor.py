"""The report of `toolrl doctor`: which layers of isolation hold on this machine, found by starting a sandbox."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from toolrl.errors import ConfigError, SandboxFault
from toolrl.sandbox.local.launcher import Zygote
from toolrl.sandbox.local.levels import LAYERS, ActiveLayers, Layer, Level, wanted_isolation

_WIDTH = 100


@dataclass(frozen=True)
class LayerReport(Layer):
    """The state of one `Layer`.

    Attributes:
        layer: Its name.
        active: Whether what it forbids failed in a sandbox.
        problem: Why it could not be set up; "" if unknown.
    """

    layer: str
    active: bool
    problem: str


@dataclass(frozen=True)
class Diagnosis:
    """The state of local sandboxes on this machine.

    Attributes:
        level: The level of isolation.
        usable: Whether `LocalSandbox()` runs with the default isolation.
        summary: A sentence on what that means.
        findings: One per layer; empty if no sandbox could be started.
    """

    level: Level
    usable: bool
    summary: str
    findings: tuple[LayerReport, ...]


def examine() -> Diagnosis:
    """Start a sandbox and report which layers hold in it."""
    try:
        wanted_isolation("none")
        zygote = Zygote()
    except (ConfigError, SandboxFault) as error:
        return Diagnosis("none", False, f"No sandbox runs here: {error}", ())
    zygote.close()
    return diagnose(zygote.active)


def diagnose(active: ActiveLayers) -> Diagnosis:
    """Describe the layers that hold."""
    level = active.level
    if level == "full":
        summary = "All layers that a level needs are in force."
    elif level == "none":
        summary = 'Too little is in force: sandboxes run only with isolation="none" or TOOLRL_ISOLATION=none.'
    else:
        summary = 'Sandboxes run, with a warning; isolation="full" refuses.'
    findings = tuple(
        LayerReport(**vars(layer), layer=name, active=active.holds[name], problem=active.problems.get(name, ""))
        for name, layer in LAYERS.items()
    )
    return Diagnosis(level, level != "none", summary, findings)


def as_text(diagnosis: Diagnosis) -> str:
    """Format a diagnosis for people; an unknown problem has no line."""
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
