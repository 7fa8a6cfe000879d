"""`curves.png`: what a run learnt, from its `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolrl.training.metrics import mean
from toolrl.view.metrics import read_metrics


def plot_curves(metrics_path: Path, image_path: Path, window: int = 5) -> bool:
    """Draw success, tool use where it is needed and where not, reward and zero-variance groups over steps.

    Args:
        metrics_path: `metrics.jsonl` of a run.
        image_path: Replaced atomically.
        window: Lines are running means over so many steps; dots are single steps.

    Returns:
        Whether there was anything to draw.
    """
    rows = [row for row in read_metrics(metrics_path) if any("/" in name for name in row)]
    if not rows:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels: list[tuple[str, Callable[[str], str | None]]] = [
        ("success", _suffix("success")),
        ("share of episodes with a tool call\n(solid: tool needed, dashed: not needed)", _suffix("call_share_needed")),
        ("reward", _suffix("reward")),
        ("share of groups without variance", _suffix("zero_variance_group_share")),
    ]
    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2).flat
    names = sorted({name for row in rows for name in row})
    for axis, (title, label_of) in zip(axes, panels, strict=True):
        colours: dict[str, Any] = {}
        for name in names:
            label = label_of(name)
            if label is not None:
                colours[label] = _draw(axis, rows, name, window, label=label)
        for label, colour in colours.items():
            needless = f"{label}/call_share_needless"
            if "tool call" in title and needless in names:
                _draw(axis, rows, needless, window, color=colour, linestyle="--")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.set_ylim(-0.03, 1.03)
        axis.grid(alpha=0.3)
        if colours:
            axis.legend(fontsize=8)
    partial = image_path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=110)
    partial.replace(image_path)
    return True


def _suffix(metric: str) -> Callable[[str], str | None]:
    return lambda name: name.removesuffix(f"/{metric}") if name.endswith(f"/{metric}") else None


def _draw(axis: Any, rows: list[dict[str, Any]], name: str, window: int, **style: Any) -> Any:
    points = [(row["step"], row[name]) for row in rows if name in row]
    steps = [step for step, _ in points]
    smooth = [mean(value for _, value in points[max(0, i + 1 - window) : i + 1]) for i in range(len(points))]
    (line,) = axis.plot(steps, smooth, **style)
    axis.plot(steps, [value for _, value in points], ".", color=line.get_color(), alpha=0.25, markersize=3)
    return line.get_color()
