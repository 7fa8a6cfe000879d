"""Figures of trajectories, as in `toolrl.load(run).plot.learning()`; and `curves.png`, drawn while a run trains.

Each method of `Plots` returns a matplotlib `Figure`, which notebooks show and `figure.savefig(path)` writes.
"""

from __future__ import annotations

import io
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from matplotlib.figure import Figure

from toolrl.errors import ConfigError
from toolrl.evaluation import short_name, wilson_interval
from toolrl.view.heat import expected_rates, is_rate
from toolrl.view.metrics import DISTANCE, HELD_OUT, proxy_and_gold, read_metrics, running_means, time_parts

if TYPE_CHECKING:
    import pandas

    from toolrl.view.collection import Trajectories

_END = "end"
# Panels of `curves.png`: the title, a metric of environments (`ENV/name`), and another one to draw dashed.
_CURVES = (
    ("success", "success", ""),
    (
        "share of episodes with a tool call\n(solid: tool needed, dashed: not needed)",
        "call_share_needed",
        "call_share_needless",
    ),
    ("reward", "reward", ""),
    ("share of groups without variance", "zero_variance_group_share", ""),
)


class NotebookFigure(Figure):
    """A figure that notebooks show even where pyplot is not set up."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png", metadata={"Software": None})
        return image.getvalue()


class Plots:
    """Figures of trajectories. Each environment has its own colour."""

    def __init__(self, trajectories: Trajectories):
        """Draw these trajectories."""
        self._trajectories = trajectories
        self._frame = trajectories.to_pandas()

    def learning(self, value: str = "success", window: int = 5) -> Figure:
        """A field's mean over training steps, with a band: Wilson's 95 % interval for a share, else the standard error.

        Args:
            value: A field that is a number or a boolean.
            window: The number of steps that each point averages.

        Raises:
            ConfigError: No episode of training has a step and a value.
        """
        frame = self._training(value)
        figure, axis = _axis(f"{value} over training", "step", value)
        for env, rows in frame.groupby("env", sort=True):
            steps = sorted(rows["step"].unique())
            means, lows, highs = [], [], []
            for place in range(len(steps)):
                inside = rows[rows["step"].isin(steps[max(0, place + 1 - window) : place + 1])][value].to_numpy(float)
                low, high = _interval(inside)
                means.append(inside.mean())
                lows.append(low)
                highs.append(high)
            (line,) = axis.plot(steps, means, label=short_name(str(env)))
            axis.fill_between(steps, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
        _legend(axis)
        return figure

    def tool_use(self, window: int = 5) -> Figure:
        """The share of episodes with a tool call over training: solid where a tool is needed, dashed where not."""
        frame = self._training("needs_tool")
        figure, axis = _axis("share of episodes with a call (dashed: not needed)", "step", "share")
        for env, rows in frame.groupby("env", sort=True):
            colour = None
            for needed, style in ((True, "-"), (False, "--")):
                some = rows[rows["needs_tool"] == needed]
                if some.empty:
                    continue
                share = (some["calls"] > 0).groupby(some["step"]).mean().rolling(window, min_periods=1).mean()
                (line,) = axis.plot(
                    share.index, share.to_numpy(), style, color=colour, label=short_name(str(env)) if needed else None
                )
                colour = line.get_color()
        axis.set_ylim(-0.03, 1.03)
        _legend(axis)
        return figure

    def parts(self) -> Figure:
        """The mean of each part of the score, by environment."""
        names = [name for name in self._frame if name.startswith("part:")]
        if not names:
            raise ConfigError("no episode has a score with parts")
        means = self._frame.groupby("env")[names].mean().astype(float)
        figure, axis = _axis("parts of the score", "mean", "")
        _bars(axis, [name.removeprefix("part:") for name in names], means)
        return figure

    def lengths(self) -> Figure:
        """The lengths of episodes, in sampled and observed tokens."""
        figure, axis = _axis("length of episodes", "tokens", "episodes")
        for name in ("sampled_tokens", "observed_tokens"):
            axis.hist(self._frame[name].to_numpy(float), bins=40, alpha=0.6, label=name.replace("_", " "))
        _legend(axis)
        return figure

    def latency(self) -> Figure:
        """The time that episodes take, in generation and in tools."""
        figure, axis = _axis("time of episodes", "seconds", "cumulative share of episodes")
        for name in ("generation_seconds", "tool_seconds", "seconds"):
            values = numpy.sort(self._frame[name].to_numpy(float))
            axis.plot(values, numpy.linspace(0, 1, len(values)), label=name.replace("_", " "))
        _legend(axis)
        return figure

    def stops(self) -> Figure:
        """The reasons why episodes end, by environment."""
        shares = self._frame.groupby("env")["stop"].value_counts(normalize=True).unstack(fill_value=0.0)
        figure, axis = _axis("why episodes end", "share", "")
        _bars(axis, list(map(str, shares.columns)), shares)
        return figure

    def tasks(self, by: str = "task", periods: int = 20, most: int = 40) -> Figure:
        """A heat map of success by task, hardest on top: over training steps, or by run and mode for evaluations.

        Tasks not played in a column are grey.

        Args:
            by: "task", or "kind" where each task is played too rarely to show anything.
            periods: The number of columns that the training steps are grouped into.
            most: The number of tasks shown, those played most often.

        Raises:
            ConfigError: No episode was scored, or none has a kind.
        """
        if by not in ("task", "kind"):
            raise ConfigError(f"by must be 'task' or 'kind', got {by!r}")
        frame = self._frame.dropna(subset=["success", by])
        if frame.empty:
            raise ConfigError(f"no scored episode has a {by}")
        in_training = frame[frame["mode"] == "train"].dropna(subset=["step"])
        if len(in_training):
            frame = in_training
            steps = frame["step"].to_numpy(int)
            edges = numpy.unique(numpy.linspace(steps.min(), steps.max() + 1, periods + 1).astype(int))
            columns = edges[numpy.digitize(steps, edges) - 1]
            names, x = [str(edge) for edge in edges[:-1]], "step"
        else:
            edges, columns = numpy.unique(_evaluation_names(frame), return_inverse=True)
            names, x = [str(name) for name in edges], ""
            edges = numpy.arange(len(edges) + 1)
        often = frame[by].value_counts().index[:most]
        table = frame["success"].astype(float).groupby([frame[by], columns]).mean().unstack()
        table = table.reindex(index=often, columns=edges[:-1])
        table = table.loc[table.mean(axis=1).sort_values().index]
        figure, axis = _axis(f"success by {by}", x, "", height=1.2 + 0.17 * len(table))
        axis.set_facecolor("0.85")
        image = axis.imshow(table.to_numpy(float), aspect="auto", cmap="viridis", vmin=0, vmax=1)
        axis.set_yticks(range(len(table)), table.index.tolist(), fontsize=7)
        shown = range(0, len(names), max(1, len(edges) // 8))
        axis.set_xticks(list(shown), [names[place] for place in shown])
        axis.grid(visible=False)
        figure.colorbar(image, ax=axis, shrink=0.8)
        return figure

    def flow(self) -> Figure:
        """Transitions between tools: how often a call of one is followed by a call of each other."""
        pairs: Counter[tuple[str, str]] = Counter()
        calls = self._trajectories.calls()
        for _, rows in calls.groupby(["run", "id"], sort=False):
            pairs.update(itertools.pairwise(["start", *rows["tool"].tolist(), _END]))
        if not pairs:
            raise ConfigError("no episode has a tool call")
        before = ["start", *sorted({first for first, _ in pairs} - {"start"})]
        after = [*sorted({second for _, second in pairs} - {_END}), _END]
        counts = numpy.array([[pairs[first, second] for second in after] for first in before], float)
        shares = counts / counts.sum(axis=1, keepdims=True)
        figure, axis = _axis("transitions between tools", "next call", "call")
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axis.set_xticks(range(len(after)), after, rotation=30, ha="right")
        axis.set_yticks(range(len(before)), before)
        axis.grid(visible=False)
        for row, column in numpy.ndindex(*shares.shape):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.6 else "black"
                axis.text(column, row, f"{shares[row, column]:.2f}", ha="center", va="center", color=colour, fontsize=8)
        return figure

    def _training(self, value: str) -> pandas.DataFrame:
        """The episodes of training with a step and this value."""
        if value not in self._frame:
            raise ConfigError(f"unknown field {value!r}; the fields are {', '.join(self._frame.columns)}")
        frame = self._frame[self._frame["mode"] == "train"].dropna(subset=[value, "step"])
        if frame.empty:
            raise ConfigError(f"no episode of training has a step and {value!r}")
        return frame


def plot_curves(metrics_path: Path, image_path: Path) -> bool:
    """Draw success, tool use, reward, zero-variance groups and the parts of a step's time over training steps.

    Lines are running means, dots are single steps; success on held-out tasks has its interval.

    Args:
        metrics_path: A run's `metrics.jsonl`.
        image_path: The image, replaced atomically.

    Returns:
        Whether there was anything to draw.
    """
    rows = [row for row in read_metrics(metrics_path) if any("/" in name for name in row)]
    if not rows:
        return False
    names = sorted({name for row in rows for name in row})
    parts, monitored = time_parts(rows), proxy_and_gold(names)
    wide = [_stack] if parts else []
    if any(is_rate(name) for name in names):
        wide.append(_rates)
    columns, lines = 3 if monitored else 2, 2 + len(wide)
    figure = Figure(figsize=(5 * columns, 3.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False)
    for line, draw in enumerate(wide, 2):
        for axis in axes[line]:
            axis.remove()
        axis = figure.add_subplot(axes[line, 0].get_gridspec()[line, :])
        draw(axis, rows)
    for axis, along in zip(axes[:2, 2] if monitored else (), ("step", DISTANCE), strict=False):
        for place, (env, name, label) in enumerate(monitored):
            _curve(axis, rows, f"{env}/{name}", along, label=f"{env} {label}", color=f"C{place}")
        axis.set_title("reward (trained on) and gold", fontsize=10)
        axis.set_xlabel("KL(start || policy), nats an episode" if along == DISTANCE else along)
        axis.grid(alpha=0.3)
        _legend(axis)
    for axis, (title, metric, dashed) in zip(axes[:2, :2].flat, _CURVES, strict=True):
        colours: dict[str, Any] = {}
        for name in sorted(names, key=lambda name: name.startswith(HELD_OUT)):
            env, _, found = name.rpartition("/")
            if not env or found != metric:
                continue
            if not env.startswith(HELD_OUT):
                colours[env] = _curve(axis, rows, name, label=env)
                if f"{env}/{dashed}" in names:
                    _curve(axis, rows, f"{env}/{dashed}", color=colours[env], linestyle="--")
            elif metric == "success":
                env = env.removeprefix(HELD_OUT)
                _held_out(axis, rows, name, label=f"{env} (held out)", color=colours.get(env))
        axis.set_title(title, fontsize=10)
        _label_steps(axis)
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        _legend(axis)
    partial = image_path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(image_path)
    return True


def _rates(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the pass rates that a curriculum expects."""
    kinds, steps, rates = expected_rates(rows)
    image = axis.imshow(rates, aspect="auto", cmap="viridis", vmin=0, vmax=1)
    axis.set_yticks(range(len(kinds)), kinds, fontsize=6)
    shown = range(0, len(steps), max(1, len(steps) // 8))
    axis.set_xticks(list(shown), [str(steps[column]) for column in shown])
    axis.set_title("what the curriculum expects: pass rates by kind", fontsize=10)
    axis.set_xlabel("step")
    axis.get_figure().colorbar(image, ax=axis, shrink=0.8)


def _stack(axis: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw the parts of a step's time on top of each other."""
    parts = time_parts(rows)
    rows = [row for row in rows if parts.keys() <= row.keys()]
    values = [running_means([row[name] for row in rows]) for name in parts]
    axis.stackplot(
        [row["step"] for row in rows], values, labels=[part.replace("_", " ") for part in parts.values()], alpha=0.8
    )
    axis.set_title("seconds of a step", fontsize=10)
    _label_steps(axis)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)


def _held_out(axis: Any, rows: Sequence[dict[str, Any]], name: str, **style: Any) -> None:
    """Draw success on held-out tasks, each with its interval."""
    rows = [row for row in rows if name in row]
    values = numpy.array([[row[f"{name}{bound}"] for bound in ("", "_low", "_high")] for row in rows])  # (N, 3)
    errors = numpy.stack([values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]]).clip(0)
    axis.errorbar(
        [row["step"] for row in rows], values[:, 0], errors, fmt="o:", markersize=4, capsize=3, linewidth=1, **style
    )


def _curve(axis: Any, rows: Sequence[dict[str, Any]], name: str, along: str = "step", **style: Any) -> Any:
    """Draw a metric, and return its colour."""
    rows = sorted((row for row in rows if name in row and along in row), key=lambda row: float(row[along]))
    steps, values = [row[along] for row in rows], [row[name] for row in rows]
    (line,) = axis.plot(steps, running_means(values), **style)
    axis.plot(steps, values, ".", color=line.get_color(), alpha=0.25, markersize=3)
    return line.get_color()


def _evaluation_names(frame: pandas.DataFrame) -> list[str]:
    """The run of each episode, its mode, or both if there are several of each (N,)."""
    modes = frame["mode"].fillna("episodes").astype(str)
    runs = frame["run"].astype(str)
    if modes.nunique() > 1:
        runs = runs + " " + modes if runs.nunique() > 1 else modes
    return runs.tolist()


def _interval(values: Any) -> tuple[float, float]:
    if set(numpy.unique(values)) <= {0.0, 1.0}:
        return wilson_interval(int(values.sum()), len(values))
    error = values.std() / numpy.sqrt(len(values))
    return float(values.mean() - error), float(values.mean() + error)


def _axis(title: str, x: str, y: str, height: float = 3.6) -> tuple[Figure, Any]:
    figure = NotebookFigure(figsize=(7, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    if x == "step":
        _label_steps(axis)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _label_steps(axis: Any) -> None:
    """Steps are whole numbers."""
    axis.set_xlabel("step")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _bars(axis: Any, names: Sequence[str], shares: pandas.DataFrame) -> None:
    """Draw horizontal bars, grouped by name, in a colour for each environment."""
    height = 0.8 / len(shares)
    for place, (env, row) in enumerate(shares.iterrows()):
        where = numpy.arange(len(names)) + (place - (len(shares) - 1) / 2) * height
        axis.barh(where, row.to_numpy(float), height=height * 0.9, label=short_name(str(env)))
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    _legend(axis)


def _legend(axis: Any) -> None:
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8, frameon=False)
