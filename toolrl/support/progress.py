"""Progress of long work, on stderr: a bar in a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_SECONDS = 30.0  # between two lines, without a terminal
_open_bar: ContextVar[Progress | None] = ContextVar("open_bar", default=None)

# Called with the amount done and the total, on any thread.
Show = Callable[[int, int], None]


@contextmanager
def progress(what: str, console: Console | None = None, about: Callable[[], str] | None = None) -> Iterator[Show]:
    """Show the progress of some work, with its rate and the remaining time.

    The first amount shown is where the work starts, so that a resumed run's rate is right; an amount below the one
    before is where the next part of the work starts. Inside another one it adds a bar below the other's, on the other's
    console.

    Args:
        what: The units of work, such as "episodes".
        console: Where to print; default: stderr.
        about: Gives a further line about the work.
    """
    console = console or Console(stderr=True, force_jupyter=False)
    if outer := _open_bar.get():
        task = outer.add_task(what, total=None)
        try:
            yield _in_bar(outer, task, what, about)
        finally:
            outer.remove_task(task)
    elif console.is_terminal and not console.is_dumb_terminal and console.file.isatty():
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        # By default a rate is taken over 30 seconds, in which there may be no step at all.
        with Progress(*columns, console=console, transient=True, speed_estimate_period=86_400) as bar:
            task = bar.add_task(what, total=None)
            token = _open_bar.set(bar)
            try:
                yield _in_bar(bar, task, what, about)
            finally:
                _open_bar.reset(token)
    else:
        with _lines(what, console, about) as show:
            yield show


def _in_bar(bar: Progress, task: TaskID, what: str, about: Callable[[], str] | None) -> Show:
    before = 0

    def show(done: int, total: int) -> None:
        nonlocal before
        if done < before:
            bar.reset(task)
        before = done
        said = what if about is None else f"{what} ({about()})"
        bar.update(task, completed=done, total=total, description=said)

    return show


@contextmanager
def _lines(what: str, console: Console, about: Callable[[], str] | None) -> Iterator[Show]:
    start, over, now = time.monotonic(), threading.Event(), (0, 0)
    first: int | None = None

    def show(done: int, total: int) -> None:
        nonlocal now, first, start
        if first is None:
            first = done
        elif done < now[0]:
            first, start = done, time.monotonic()
        now = done, total

    def run() -> None:
        while not over.wait(LINE_SECONDS):
            line = describe(what, *now, time.monotonic() - start, first or 0)
            line = f"{line}; {about()}" if about is not None else line
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    thread = threading.Thread(target=run, name="toolrl-progress", daemon=True)
    thread.start()
    try:
        yield show
    finally:
        over.set()
        thread.join(1.0)  # a pipe that nobody reads must not block us


def describe(what: str, done: int, total: int, seconds: float, first: int = 0) -> str:
    """A line about the progress of some work, of which `first` was done before."""
    line = f"{what}: {done} of {total or '?'} after {_time(seconds)}"
    if not first < done < total:
        return line
    rate = (done - first) / seconds
    return f"{line}, {_rate(rate)}, {_time((total - done) / rate)} to go"


class _Rate(ProgressColumn):
    """Units per second or per minute."""

    def render(self, task: Task) -> Text:
        return Text(_rate(task.speed) if task.speed else "", style="dim")


def _rate(a_second: float) -> str:
    return f"{a_second:.1f} a second" if a_second >= 1 else f"{a_second * 60:.1f} a minute"


def _time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
