"""Reports as tables, for the terminal and for Markdown."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from toolrl.evaluation.evaluate import EnvReport

_NOTEBOOK_CHARACTERS = 108  # of a line


def report_table(reports: Mapping[str, EnvReport]) -> Table:
    """One row per environment, with the usage of tools' resources, if there is any; and why episodes are unscored."""
    reasons = [
        f"{report.env_id}: {count} unscored: {reason}"
        for report in reports.values()
        for reason, count in report.faults.items()
    ]
    table = Table(title="evaluation", caption=Text("\n".join(reasons)) if reasons else None, caption_justify="left")
    ks = sorted({k for report in reports.values() for k in report.pass_at})[1:]
    is_counted = any(report.usage for report in reports.values())
    for column in (
        "environment", "episodes", "success [95 %]", *(f"pass@{k}" for k in ks), *(f"pass^{k}" for k in ks), "reward",
        "calls per episode",
        "tool use if needed", "if not", "unscored", *(["used"] if is_counted else []),
    ):  # fmt: skip
        # Names of resources are long; a narrow column would cut them.
        table.add_column(column, overflow="fold", min_width=28 if column == "used" else None)
    for report in reports.values():
        table.add_row(
            report.env_id,
            str(report.samples),
            with_interval(report),
            *(number(report.pass_at.get(k)) for k in ks),
            *(number(report.pass_all.get(k)) for k in ks),
            number(report.reward if report.samples else None),
            ", ".join(f"{name} {count:.2f}" for name, count in report.calls_by_tool.items()) or "0",
            number(report.call_share_needed),
            number(report.call_share_needless),
            str(report.unscored),
            *([", ".join(f"{name} {amount:.4g}" for name, amount in report.usage.items())] if is_counted else []),
        )
    return table


def before_after_table(before: Mapping[str, EnvReport], after: Mapping[str, EnvReport]) -> Table:
    """One row per environment; tool use is the share of episodes with at least one call."""
    table = Table(title="held-out tasks, before and after training")
    for column in (
        "environment", "episodes", "success before", "success after", "calls", "tool use if needed", "if not",
        "success if not",
    ):  # fmt: skip
        table.add_column(column)
    for env_id, old in before.items():
        new = after[env_id]
        table.add_row(
            short_name(env_id),
            str(new.samples),
            with_interval(old),
            with_interval(new),
            f"{old.calls:.2f} → {new.calls:.2f}",
            *(
                "-" if old_share is None else f"{old_share:.2f} → {number(new_share)}"
                for old_share, new_share in (
                    (old.call_share_needed, new.call_share_needed),
                    (old.call_share_needless, new.call_share_needless),
                    (old.success_needless, new.success_needless),
                )
            ),
        )
    return table


def terminal() -> Console:
    """A console wide enough for these tables, also in a file, a pipe or a notebook, which have no width."""
    console = Console(force_jupyter=False)
    # A notebook's kernel forces colours, which makes rich take it for a terminal; its page wraps longer lines.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    width = _NOTEBOOK_CHARACTERS if hasattr(shell, "kernel") else 140
    return console if console.is_terminal and sys.stdout.isatty() else Console(force_jupyter=False, width=width)


def short_name(env_id: str) -> str:
    """`toolrl/PythonMath-v0` as `PythonMath`, `my_env.py:Shopping` as `Shopping`, `my_env.py` as `my_env`."""
    name, at, label = env_id.rpartition("@") if "@" in env_id else (env_id, "", "")
    name = name.rsplit("/", 1)[-1].rsplit(":", 1)[-1].removesuffix(".py")
    return re.sub(r"-v\d+$", "", name) + at + label


def with_interval(report: EnvReport) -> str:
    """Success with its interval; a dash if nothing was scored."""
    if not report.samples:
        return "-"
    low, high = report.success_interval
    return f"{report.success:.2f} [{low:.2f}, {high:.2f}]"


def number(value: float | None) -> str:
    """Two decimals, or a dash for None."""
    return "-" if value is None else f"{value:.2f}"
