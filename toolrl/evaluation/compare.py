"""Is it better? Sides that played the same tasks, compared task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.table import Table

from toolrl.errors import ConfigError
from toolrl.evaluation.statistics import difference_interval, difference_p_value, holm, power
from toolrl.evaluation.tables import number, short_name

if TYPE_CHECKING:
    import pandas

ALL = "all"
SAME = 1e-9  # of means


@dataclass(frozen=True, slots=True)
class Difference:
    """One side against another, on the tasks that both played.

    Attributes:
        a: The name of the first side.
        b: The name of the second side.
        part: What the tasks have in common: an environment, a value of a column; "all" for all of them.
        tasks: Tasks that both played.
        mean_a: The mean over tasks of the first side's mean over samples.
        mean_b: The same of the second side.
        difference: mean_b - mean_a.
        interval: Its 95 % interval; see `difference_interval`.
        p_value: See `difference_p_value`.
        adjusted: The p-value after Holm's correction for all comparisons of the same call.
        better: Tasks on which b is better.
        worse: Tasks on which a is better.
        smallest: The smallest difference that this number of tasks shows in four of five cases; None if they show none.
        needed: Tasks that this difference needs for that; None without a difference.
    """

    a: str
    b: str
    part: str
    tasks: int
    mean_a: float
    mean_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    adjusted: float
    better: int
    worse: int
    smallest: float | None
    needed: int | None

    @property
    def is_shown(self) -> bool:
        """Whether it is unlikely to be chance: the adjusted p-value is below 0.05."""
        return self.adjusted < 0.05

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.part}: {self.a} {self.mean_a:.3f}, {self.b} {self.mean_b:.3f}, difference {self.difference:+.3f} "
            f"[{low:+.3f}, {high:+.3f}], p {p_text(self.adjusted, sign=True)}; {self.tasks:,} tasks, better on "
            f"{self.better:,}, worse on {self.worse:,}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """All differences of some sides.

    Attributes:
        value: What is compared: success or reward.
        differences: The second and later sides against the first, in all tasks and in parts of them.
        tasks: One row per task that all sides played: `env`, `task`, the column of the part, each side's mean, and
            `difference`, the last side's minus the first's. The largest differences come first.
    """

    value: str
    differences: tuple[Difference, ...]
    tasks: pandas.DataFrame

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences))

    def table(self) -> Table:
        """The differences, for a terminal."""
        table = Table(title=f"{self.value}, by task; p-values are corrected for {len(self.differences)} comparisons")
        for column in (
            "tasks of", "tasks", "a", "b", "b - a [95 %]", "p", "better", "worse", "shows", "tasks needed",
        ):  # fmt: skip
            table.add_column(column, overflow="fold")
        for row in self.differences:
            low, high = row.interval
            table.add_row(
                short_name(row.part),
                f"{row.tasks:,}",
                f"{row.a} {row.mean_a:.2f}",
                f"{row.b} {row.mean_b:.2f}",
                f"{row.difference:+.2f} [{low:+.2f}, {high:+.2f}]",
                p_text(row.adjusted),
                f"{row.better:,}",
                f"{row.worse:,}",
                number(row.smallest),
                "-" if row.needed is None else f"{row.needed:,}",
                style="" if row.is_shown else "dim",
            )
        return table


def compare(
    sides: Mapping[str, pandas.DataFrame], *, value: str = "success", by: Sequence[str] = ("env",)
) -> Comparison:
    """Compare sides with the first of them, task by task.

    Args:
        sides: The scored episodes of each side, by its name: `env`, `task`, the value and the columns of `by`.
        value: The column that is compared: of numbers, or of booleans, whose means are shares.
        by: Columns whose values are parts to be compared too, within each environment; the first side's values count.

    Raises:
        ConfigError: There is one side only, or no task was played by both sides of a pair.
    """
    import pandas

    if len(sides) < 2:
        raise ConfigError(f"a comparison needs two sides, got {', '.join(sides) or 'none'}")
    first, *others = sides
    means = {name: means_by_task(frame, value) for name, frame in sides.items()}
    parts = sides[first].groupby(["env", "task"], sort=False)[[column for column in by if column != "env"]].first()
    is_share = all(str(frame[value].dtype) in ("bool", "boolean", "bool[pyarrow]") for frame in sides.values())
    found: list[Difference] = []
    for other in others:
        paired = pandas.concat([means[first].rename("a"), means[other].rename("b")], axis=1, join="inner").dropna()
        if paired.empty:
            counts = f"{len(means[first])} scored tasks of {first!r}, {len(means[other])} of {other!r}"
            raise ConfigError(f"no task was played in both: {counts}")
        paired = paired.join(parts).reset_index()
        # The range of success is known; that of another value is taken from what there is.
        largest = 1.0 if is_share else float((paired["b"] - paired["a"]).abs().max()) or 1.0
        found.append(_difference(paired, first, other, ALL, largest))
        by_env = list(paired.groupby("env", sort=True))
        for column in by:
            for env, rows in by_env:
                if column == "env":
                    groups = [(str(env), rows)] if len(by_env) > 1 else []
                else:
                    prefix = f"{short_name(str(env))}, " if len(by_env) > 1 else ""
                    groups = [(f"{prefix}{part_name(part)}", group) for part, group in rows.groupby(column, sort=True)]
                found += [_difference(group, first, other, part, largest) for part, group in groups]
    adjusted = holm([row.p_value for row in found])
    rows = tuple(replace(row, adjusted=p) for row, p in zip(found, adjusted, strict=True))
    tasks = pandas.concat(means.values(), axis=1, join="inner", keys=sides).join(parts).reset_index()
    tasks["difference"] = tasks[others[-1]] - tasks[first]
    order = tasks["difference"].abs().sort_values(ascending=False, kind="stable").index
    return Comparison(value, rows, tasks.loc[order].reset_index(drop=True))


def part_name(value: object) -> str:
    """The value of a column as the name of a part."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def means_by_task(frame: pandas.DataFrame, value: str) -> pandas.Series:
    """The mean of each task's scored episodes, by environment and task."""
    values = frame[["env", "task"]].assign(value=frame[value].astype("float64")).dropna(subset=["value"])
    return values.groupby(["env", "task"], sort=False)["value"].mean()


def _difference(paired: pandas.DataFrame, a: str, b: str, part: str, largest: float) -> Difference:
    differences = (paired["b"] - paired["a"]).to_numpy()
    smallest, needed = power(differences, largest=largest)
    p_value = difference_p_value(differences)
    return Difference(
        a=a,
        b=b,
        part=part,
        tasks=len(paired),
        mean_a=float(paired["a"].mean()),
        mean_b=float(paired["b"].mean()),
        difference=float(differences.mean()),
        interval=difference_interval(differences, largest=largest),
        p_value=p_value,
        adjusted=p_value,
        better=int((differences > SAME).sum()),
        worse=int((differences < -SAME).sum()),
        smallest=smallest,
        needed=needed,
    )


def p_text(p_value: float, *, sign: bool = False) -> str:
    """A p-value as it is usually printed; `sign` puts the equals sign where there is no other."""
    return "< 0.001" if p_value < 0.001 else f"{'= ' if sign else ''}{p_value:.3f}"
