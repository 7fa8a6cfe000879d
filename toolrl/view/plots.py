"""Figures of a collection of episodes: `toolrl.load(run).plot.learning()`.

Each method returns a matplotlib `Figure`, which notebooks show and `figure.savefig(path)` writes.
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
from toolrl.evaluation import mean, short_name, wilson_interval
from toolrl.view.metrics import read_metrics

if TYPE_CHECKING:
    import pandas

    from toolrl.view.collection import Trajectories

_END = "end"
# Panels of a run's curves: an environment's metric and the title.
_CURVES = {
    "success": "success",
    "call_share_needed": "share of episodes with a tool call\n(solid: tool needed, dashed: not needed)",
    "reward": "reward",
    "zero_variance_group_share": "share of groups without variance",
}


class Drawing(Figure):
    """A figure that a notebook shows, whether or not pyplot was set up there."""

    def _repr_png_(self) -> bytes:
        image = io.BytesIO()
        self.savefig(image, format="png", metadata={"Software": None})
        return image.getvalue()


class Plots:
    """What can be drawn of some episodes. Environments are drawn apart, each in its colour."""

    def __init__(self, episodes: Trajectories):
        """Draw these episodes."""
        self._episodes = episodes
        self._frame = episodes.episodes()

    def learning(self, value: str = "success", window: int = 5) -> Figure:
        """A field's mean over training steps, with a band: Wilson's 95 % interval for a share, else the standard error.

        Args:
            value: A field that is a number or a condition.
            window: Each point takes in the steps up to so many before it.

        Raises:
            ConfigError: No episode has the field, or a step.
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
        """The share of episodes with a call, over training: solid where a tool is needed, dashed where none is."""
        frame = self._training("needs_tool")
        figure, axis = _axis("share of episodes with a call (dashed: none needed)", "step", "share")
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
        """Mean of each part of the score, by environment."""
        names = [name for name in self._frame if name.startswith("part:")]
        if not names:
            raise ConfigError("no episode has parts of a score")
        means = self._frame.groupby("env")[names].mean().astype(float)
        figure, axis = _axis("parts of the score", "mean", "")
        _bars(axis, [name.removeprefix("part:") for name in names], means)
        return figure

    def lengths(self) -> Figure:
        """How long episodes are: sampled and observed tokens."""
        figure, axis = _axis("length of episodes", "tokens", "episodes")
        for name in ("sampled_tokens", "observed_tokens"):
            axis.hist(self._frame[name].to_numpy(float), bins=40, alpha=0.6, label=name.replace("_", " "))
        _legend(axis)
        return figure

    def latency(self) -> Figure:
        """Where the time of episodes goes: in generation, in tools."""
        figure, axis = _axis("time of episodes", "seconds", "share of episodes that took no longer")
        for name in ("generation_seconds", "tool_seconds", "seconds"):
            values = numpy.sort(self._frame[name].to_numpy(float))
            axis.plot(values, numpy.linspace(0, 1, len(values)), label=name.replace("_", " "))
        _legend(axis)
        return figure

    def stops(self) -> Figure:
        """Why episodes end, by environment."""
        shares = self._frame.groupby("env")["stop"].value_counts(normalize=True).unstack(fill_value=0.0)
        figure, axis = _axis("why episodes end", "share", "")
        _bars(axis, list(map(str, shares.columns)), shares)
        return figure

    def tasks(self, by: str = "task", periods: int = 20, most: int = 40) -> Figure:
        """Success by task as a heat map, the hardest tasks on top: over training; of evaluations, by run and mode.

        Grey: not played then.

        Args:
            by: "task"; or "kind", where each task is played too seldom to see anything.
            periods: Columns of training; steps are put together.
            most: At most so many tasks: those played most often.

        Raises:
            ConfigError: No episode was scored, or none has a kind.
        """
        if by not in ("task", "kind"):
            raise ConfigError(f"tasks can be drawn by 'task' or 'kind', got {by!r}")
        frame = self._frame.dropna(subset=["success", by])
        if frame.empty:
            raise ConfigError(f"no episode that was scored has a {by}")
        in_training = frame[frame["mode"] == "train"].dropna(subset=["step"])
        if len(in_training):
            frame = in_training
            steps = frame["step"].to_numpy(int)
            edges = numpy.unique(numpy.linspace(steps.min(), steps.max() + 1, periods + 1).astype(int))
            columns = edges[numpy.digitize(steps, edges) - 1]
            names, x = [str(edge) for edge in edges[:-1]], "step"
        else:
            edges, columns = numpy.unique(_of_evaluations(frame), return_inverse=True)
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
        """Which tool follows which: of the calls of one kind, the share that each other comes after."""
        pairs: Counter[tuple[str, str]] = Counter()
        calls = self._episodes.calls()
        for _, rows in calls.groupby(["run", "id"], sort=False):
            said = ["start", *rows["tool"].tolist(), _END]
            pairs.update(itertools.pairwise(said))
        if not pairs:
            raise ConfigError("no episode has a tool call")
        before = ["start", *sorted({first for first, _ in pairs} - {"start"})]
        after = [*sorted({second for _, second in pairs} - {_END}), _END]
        counts = numpy.array([[pairs[first, second] for second in after] for first in before], float)
        shares = counts / counts.sum(axis=1, keepdims=True)
        figure, axis = _axis("which call follows which", "next", "call")
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
        """Episodes of training that have a value and a step."""
        if value not in self._frame:
            raise ConfigError(f"there is no field {value!r} to draw; there are {', '.join(self._frame.columns)}")
        frame = self._frame[self._frame["mode"] == "train"].dropna(subset=[value, "step"])
        if frame.empty:
            raise ConfigError(f"no episode of training has a step and {value!r}")
        return frame


def _of_evaluations(frame: pandas.DataFrame) -> list[str]:
    """Which run, and where there are several which mode, each episode is of."""
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
    figure = Drawing(figsize=(7, height), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize=11)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _bars(axis: Any, names: Sequence[str], shares: pandas.DataFrame) -> None:
    """Horizontal bars: a group for each name, a colour for each environment."""
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


def plot_curves(metrics_path: Path, image_path: Path, window: int = 5) -> bool:
    """Draw a run's success, tool use, reward and zero-variance groups over steps as a PNG.

    Args:
        metrics_path: `metrics.jsonl` of a run.
        image_path: Replaced atomically.
        window: Lines are running means over this many steps; dots are single steps.

    Returns:
        Whether there was anything to draw.
    """
    rows = [row for row in read_metrics(metrics_path) if any("/" in name for name in row)]
    if not rows:
        return False
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axis, (metric, title) in zip(figure.subplots(2, 2).flat, _CURVES.items(), strict=True):
        names = sorted({name for row in rows for name in row if name.endswith(f"/{metric}")})
        for name in names:
            env_id = name.removesuffix(f"/{metric}")
            colour = _curve(axis, rows, name, window, label=env_id)
            needless = f"{env_id}/call_share_needless"
            if metric == "call_share_needed" and any(needless in row for row in rows):
                _curve(axis, rows, needless, window, color=colour, linestyle="--")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        if names:
            axis.legend(fontsize=8)
    partial = image_path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(image_path)
    return True


def _curve(axis: Any, rows: Sequence[dict[str, Any]], name: str, window: int, **style: Any) -> Any:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps = [step for step, _ in points]
    smooth = [mean(value for _, value in points[max(0, i + 1 - window) : i + 1]) for i in range(len(points))]
    (line,) = axis.plot(steps, smooth, **style)
    axis.plot(steps, [value for _, value in points], ".", color=line.get_color(), alpha=0.25, markersize=3)
    return line.get_color()
