"""One report of an agent: what it achieves, at what cost, and how its episodes end, by environment and by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from toolrl.errors import ConfigError
from toolrl.evaluation.calibration import Calibration, calibration, calibration_table
from toolrl.evaluation.compare import ALL, part_name
from toolrl.evaluation.statistics import pass_all_k, pass_at_k, success_interval
from toolrl.evaluation.tables import number, short_name

if TYPE_CHECKING:
    import pandas

EXAMPLES = 5
# Columns of the episodes that a report reads; those by name (`part:`, `usage:`) may be there.
COLUMNS = (
    "id", "env", "task", "success", "reward", "calls", "failed_calls", "sampled_tokens", "seconds", "turns", "stop",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """The episodes of an environment, or of a part of it.

    Attributes:
        env: The environment's id.
        part: What its tasks have in common; "all" for all of them.
        tasks: Tasks with a scored episode.
        episodes: Scored episodes.
        unscored: Episodes that faults left without a score.
        success: The mean over tasks of the share of episodes that succeeded; None without scored episodes.
        interval: Its 95 % interval; see `success_interval`.
        pass_at: k to pass@k: any of k samples succeeds. k = 1, 2, 4 ... up to the samples of each task.
        pass_all: k to pass^k: all of k samples succeed.
        reward: The mean reward.
        parts: The mean of each part of the score.
        turns: Turns of an episode, on average, as are the following.
        calls: Tool calls.
        sampled_tokens: Tokens that the policy sampled; 0 for a chat API.
        seconds: Wall-clock seconds.
        usage: Amounts used, by name, such as `dollars`.
        called: The share of episodes with a call.
        failed_calls: The share of calls that failed.
        stops: The share of episodes by why they ended.
        wrong: Ids of some episodes that failed, the most frequent reason to end first.
        right: Ids of some that succeeded.
    """

    env: str
    part: str
    tasks: int
    episodes: int
    unscored: int
    success: float | None
    interval: tuple[float, float]
    pass_at: dict[int, float]
    pass_all: dict[int, float]
    reward: float | None
    parts: dict[str, float]
    turns: float
    calls: float
    sampled_tokens: float
    seconds: float
    usage: dict[str, float]
    called: float
    failed_calls: float
    stops: dict[str, float]
    wrong: tuple[str, ...]
    right: tuple[str, ...]

    @property
    def is_whole(self) -> bool:
        """Whether it is about all tasks of an environment."""
        return self.part == ALL


@dataclass(frozen=True, slots=True)
class AgentReport:
    """A report.

    Attributes:
        name: Of what: a run, a file, a model.
        lines: One for each environment, followed by those of its parts.
        calibration: By environment, where answers state their confidence.
    """

    name: str
    lines: tuple[Line, ...]
    calibration: dict[str, Calibration]

    def tables(self) -> Iterator[Table]:
        """For a terminal: success, cost, and calibration if there is any."""
        ks = sorted({k for line in self.lines for k in line.pass_at})[1:]
        success, cost = Table(title=f"{self.name}: success [95 %]"), Table(title="cost of an episode, and how it ends")
        for column in (
            "tasks of", "tasks", "episodes", "unscored", "success", *(f"pass@{k}" for k in ks),
            *(f"pass^{k}" for k in ks), "reward", "parts",
        ):  # fmt: skip
            success.add_column(column, overflow="fold")
        for column in (
            "tasks of",
            "turns",
            "calls",
            "with a call",
            "failed calls",
            "tokens",
            "seconds",
            "used",
            "ends",
        ):
            cost.add_column(column, overflow="fold")
        for line in self.lines:
            name = short_name(line.env) if line.is_whole else f"  {line.part}"
            success.add_row(
                name, f"{line.tasks:,}", f"{line.episodes:,}", f"{line.unscored:,}", success_text(line),
                *(number(line.pass_at.get(k)) for k in ks), *(number(line.pass_all.get(k)) for k in ks),
                number(line.reward), _amounts(line.parts), style="" if line.is_whole else "dim",
            )  # fmt: skip
            cost.add_row(
                name, number(line.turns), number(line.calls), number(line.called), number(line.failed_calls),
                f"{line.sampled_tokens:,.0f}", number(line.seconds), _amounts(line.usage), _amounts(line.stops),
                style="" if line.is_whole else "dim",
            )  # fmt: skip
        yield success
        yield cost
        if self.calibration:
            yield calibration_table({short_name(env): one for env, one in self.calibration.items()})


def report(episodes: pandas.DataFrame, *, name: str = "report", by: Sequence[str] = ()) -> AgentReport:
    """Report on episodes.

    Args:
        episodes: One row per episode, with `COLUMNS`, those of `by`, and any `part:NAME` and `usage:NAME`.
        name: Of what they are.
        by: Columns whose values are parts to be reported on too.

    Raises:
        ConfigError: There are no episodes.
    """
    if episodes.empty:
        raise ConfigError("there is nothing to report on: no episodes")
    lines, measured = [], {}
    for env, rows in episodes.groupby("env", sort=True):
        lines.append(_line(str(env), ALL, rows))
        for column in by:
            lines += [_line(str(env), part_name(part), group) for part, group in rows.groupby(column, sort=True)]
        if "part:confidence" in rows and (found := _calibration(rows)) is not None:
            measured[str(env)] = found
    return AgentReport(name, tuple(lines), measured)


def _line(env: str, part: str, rows: pandas.DataFrame) -> Line:
    scored = rows[rows["reward"].notna()]
    succeeded = scored["success"].astype(float)
    groups = [list(group) for _, group in succeeded.groupby(scored["task"], sort=False)]
    fewest = min(map(len, groups), default=0)
    ks = [2**power for power in range(fewest.bit_length())]
    counts = [(len(group), int(sum(group))) for group in groups]
    calls, failed = float(rows["calls"].sum()), float(rows["failed_calls"].sum())
    return Line(
        env=env,
        part=part,
        tasks=len(groups),
        episodes=len(scored),
        unscored=len(rows) - len(scored),
        success=sum(sum(group) / len(group) for group in groups) / len(groups) if groups else None,
        interval=success_interval(groups),
        pass_at={k: sum(pass_at_k(n, c, k) for n, c in counts) / len(counts) for k in ks},
        pass_all={k: sum(pass_all_k(n, c, k) for n, c in counts) / len(counts) for k in ks},
        reward=float(scored["reward"].mean()) if len(scored) else None,
        parts=_means(scored, "part:"),
        turns=float(rows["turns"].mean()),
        calls=float(rows["calls"].mean()),
        sampled_tokens=float(rows["sampled_tokens"].mean()),
        seconds=float(rows["seconds"].mean()),
        usage=_means(rows.fillna({column: 0.0 for column in rows if column.startswith("usage:")}), "usage:"),
        called=float((rows["calls"] > 0).mean()),
        failed_calls=failed / calls if calls else 0.0,
        stops={str(stop): float(share) for stop, share in rows["stop"].value_counts(normalize=True).items()},
        wrong=_examples(scored[succeeded == 0]),
        right=_examples(scored[succeeded > 0]),
    )


def _means(rows: pandas.DataFrame, prefix: str) -> dict[str, float]:
    """The means of the columns with a prefix that have any value."""
    known = {column.removeprefix(prefix): rows[column].dropna() for column in rows if column.startswith(prefix)}
    return {name: float(values.mean()) for name, values in known.items() if len(values)}


def _examples(rows: pandas.DataFrame) -> tuple[str, ...]:
    """Some episodes, of different tasks where there are such, whose ends are the most frequent first."""
    if rows.empty:
        return ()
    counts = rows["stop"].map(rows["stop"].value_counts())
    order = rows.assign(_count=-counts.astype(int)).sort_values("_count", kind="stable")
    distinct = order.drop_duplicates("task")
    return tuple((distinct if len(distinct) >= EXAMPLES else order)["id"].head(EXAMPLES))


def _calibration(rows: pandas.DataFrame) -> Calibration | None:
    scored = rows[rows["reward"].notna()]
    known = scored[scored["part:confidence"].notna()]
    if known.empty:
        return None
    return calibration(
        known["part:confidence"].to_numpy(float),
        known["success"].to_numpy(float),
        tasks=known["task"].astype(str).tolist(),
        missing=len(scored) - len(known),
    )


def success_text(line: Line) -> str:
    """Success with its interval."""
    if line.success is None:
        return "-"
    return f"{line.success:.2f} [{line.interval[0]:.2f}, {line.interval[1]:.2f}]"


def _amounts(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items())
