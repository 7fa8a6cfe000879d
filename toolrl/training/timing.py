"""Where the time of a training step goes: parts that add up to it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from toolrl.trajectory import Trajectory

# `time/...` in metrics.jsonl. "waiting" is the rest of a rollout: resets, scoring, queues. "other" is whatever no part
# covers: the optimiser, checkpoints and logs.
PARTS = ("generation", "tools", "waiting", "weights", "forward_backward", "evaluation", "other")


class StepClock:
    """Charges every moment of training to one part, on the thread that trains.

    A step lasts from the end of the one before it to its own end. Of nested parts only the innermost is charged, so
    that the parts add up to the step.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Read the time from `now`, in seconds."""
        self._now = now
        self.start()

    def start(self) -> None:
        """Forget everything measured: the first step begins now."""
        self._part, self._since = "other", self._now()
        self._open: defaultdict[str, float] = defaultdict(float)  # seconds by part, of the step that is under way
        self._ended: defaultdict[str, float] = defaultdict(float)  # of the steps since the last report
        self._steps = 0
        self._tokens = 0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charge what happens inside to one of `PARTS`, or to "rollout", which `played` divides."""
        before = self._part
        self._switch(name)
        try:
            yield
        finally:
            self._switch(before)

    def played(self, trajectories: Sequence[Trajectory]) -> None:
        """Count the tokens of a rollout, and divide its time among generation, tools and waiting.

        Episodes overlap, and they record durations, not times of day: the division is in proportion to the seconds of
        all episodes. Time in the sampler's queue counts as generation, users count as tools.
        """
        generation = sum(turn.generation_seconds for t in trajectories for turn in t.turns)
        tools = sum(turn.tool_seconds for t in trajectories for turn in t.turns)
        total = max(sum(t.seconds for t in trajectories), generation + tools)
        seconds = self._open.pop("rollout", 0.0)
        for name, share in (("generation", generation), ("tools", tools), ("waiting", total - generation - tools)):
            self._open[name] += seconds * share / total if total else seconds / 3
        self._tokens += sum(sum(t.mask) for t in trajectories)

    def end_step(self) -> None:
        """A step is over."""
        self._switch(self._part)
        for name, seconds in self._open.items():
            self._ended[name] += seconds
        self._open.clear()
        self._steps += 1

    def report(self) -> tuple[dict[str, float], float, int]:
        """The steps that ended since the last report.

        Returns:
            Mean seconds of a step by part, their sum under "step" (empty if no step has ended); the seconds of all
            steps without evaluation; and the tokens sampled in them.
        """
        total, steps, tokens = sum(self._ended.values()), self._steps, self._tokens
        means = {name: self._ended[name] / steps for name in PARTS} | {"step": total / steps} if steps else {}
        total -= self._ended["evaluation"]
        self._ended.clear()
        self._steps = self._tokens = 0
        return means, total, tokens

    def _switch(self, name: str) -> None:
        now = self._now()
        self._open[self._part] += now - self._since
        self._part, self._since = name, now
