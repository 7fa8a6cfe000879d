"""Reports as tables, for the terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from toolrl.evaluation.evaluate import EnvReport


def report_table(reports: Mapping[str, EnvReport]) -> Table:
    """One row per environment."""
    table = Table(title="evaluation")
    ks = sorted({k for report in reports.values() for k in report.pass_at})[1:]
    for column in (
        "environment", "episodes", "success [95 %]", *(f"pass@{k}" for k in ks), "reward", "calls per episode",
        "used a tool where needed", "where not", "unscored",
    ):  # fmt: skip
        table.add_column(column)
    for report in reports.values():
        table.add_row(
            report.env_id,
            str(report.samples),
            with_interval(report),
            *(number(report.pass_at.get(k)) for k in ks),
            number(report.reward),
            ", ".join(f"{name} {count:.2f}" for name, count in report.calls_by_tool.items()) or "0",
            number(report.call_share_needed),
            number(report.call_share_needless),
            str(report.unscored),
        )
    return table


def before_after_table(before: Mapping[str, EnvReport], after: Mapping[str, EnvReport]) -> Table:
    """Two rows per environment: before and after training."""
    table = Table(title="held-out tasks, before and after training")
    for column in (
        "environment", "", "episodes", "success [95 %]", "calls", "used a tool where needed", "where not",
        "success where not",
    ):  # fmt: skip
        table.add_column(column)
    for env_id in before:
        for label, report in (("before", before[env_id]), ("after", after[env_id])):
            table.add_row(
                env_id if label == "before" else "",
                label,
                str(report.samples),
                with_interval(report),
                f"{report.calls:.2f}",
                number(report.call_share_needed),
                number(report.call_share_needless),
                number(report.success_needless),
                end_section=label == "after",
            )
    return table


def with_interval(report: EnvReport) -> str:
    """Success with its interval."""
    low, high = report.success_interval
    return f"{report.success:.3f} [{low:.3f}, {high:.3f}]"


def number(value: float | None) -> str:
    """Two decimals, or a dash for nothing."""
    return "-" if value is None else f"{value:.2f}"
