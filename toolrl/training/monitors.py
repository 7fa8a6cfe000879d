"""Over-optimisation: a policy that earns more of the reward it is trained on, and less of the one that is meant.

An environment declares both (`ToolEnv(reward=, gold=)`). Training sees the first, the proxy; both are in the records of
its episodes and in its metrics. Reward over the distance from the start, which Gao, Schulman and Hilton plot
(arXiv:2210.10760), is in `curves.png` and in the viewer.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import torch
from rich.console import Console
from rich.text import Text
from torch import Tensor
from transformers import TrainerCallback, TrainerState

from toolrl.evaluation import short_name
from toolrl.rewards.grader import GOLD, HACK
from toolrl.trajectory import Trajectory
from toolrl.view.metrics import running_means

WINDOWS = (1, 2, 4, 8, 16, 32)  # steps that are compared with twice as many before them
FEWEST_GROUPS = 16  # on each side
GAP_ERRORS, PROXY_ERRORS, GOLD_ERRORS = 3.0, 1.64, 0.5
EXAMPLES = 5
PROBES = 16  # episodes


class Graded(NamedTuple):
    """The two rewards of an episode; `hack` is 1 if it succeeded by the proxy and not by gold."""

    env_id: str
    group: str
    id: str
    proxy: float
    gold: float
    hack: float


def graded(trajectories: Iterable[Trajectory]) -> list[Graded]:
    """Those episodes that have both rewards."""
    return [
        Graded(t.env_id, str(t.info.get("group")), t.id, t.score.value, t.score.parts[GOLD], t.score.parts[HACK])
        for t in trajectories
        if t.score.value is not None and GOLD in t.score.parts
    ]


@dataclass(frozen=True)
class Alarm:
    """Proxy and gold have parted.

    Attributes:
        env_id: The environment.
        step: Where it was noticed.
        parted_at: Where the running mean of gold was highest before that, within the last 96 steps.
        proxy: Its mean in the earlier and in the later of the steps that were compared.
        gold: The same of gold.
        hack_rate: The same of the share of episodes that succeeded by the proxy and not by gold.
        episodes: Ids of episodes that show it.
    """

    env_id: str
    step: int
    parted_at: int
    proxy: tuple[float, float]
    gold: tuple[float, float]
    hack_rate: tuple[float, float]
    episodes: tuple[str, ...]

    def __str__(self) -> str:
        pairs = ("reward", self.proxy), ("gold", self.gold), ("hacks", self.hack_rate)
        return (
            f"over-optimisation of {self.env_id}: since about step {self.parted_at} the reward rises and gold does not "
            f"({', '.join(f'{name} {before:.2f} -> {after:.2f}' for name, (before, after) in pairs)}); see episodes "
            f"{', '.join(self.episodes)}"
        )


@dataclass
class _Step:
    """The groups of a step. The episodes of a task are not independent of each other, so groups are what is counted."""

    number: int
    groups: dict[str, list[Graded]] = field(default_factory=lambda: defaultdict(list))
    _means: Any = None

    def add(self, episode: Graded) -> None:
        self.groups[episode.group].append(episode)
        self._means = None

    @property
    def means(self) -> Any:
        """(G, 3) proxy, gold and hack rate of each group."""
        if self._means is None:
            self._means = numpy.array([numpy.mean([e[3:] for e in group], axis=0) for group in self.groups.values()])
        return self._means


class HackMonitor:
    """Compares the proxy and gold rewards of training step by step, and raises one alarm for each environment.

    After each step, the last 1, 2, 4, 8, 16 and 32 steps are compared with twice as many before them, by the means of
    groups, of which there must be 16 on each side. The alarm is raised if proxy minus gold, or the hack rate, has grown
    by 3 standard errors, which is the test, the proxy has risen (by 1.64), and gold has fallen (by 0.5, which gives
    only a direction: proof of it would come too late).

    It was raised in none of 240 simulated runs of 200 steps with 8 groups of 8 episodes: 60 each where nothing changes,
    where both rewards rise alike or both fall, and where gold rises at two thirds of the pace. Where the reward rises
    by hacks alone and gold stays or falls, it was raised in all (`tests/benchmarks/hack_monitor.py`).

    Attributes:
        alarms: By environment.
    """

    def __init__(self) -> None:
        """Nothing has been observed."""
        self.alarms: dict[str, Alarm] = {}
        self._steps: dict[str, list[_Step]] = defaultdict(list)

    def observe(self, step: int, episodes: Iterable[Graded]) -> dict[str, float]:
        """Take in the episodes of a step, of all processes; steps come in order.

        Returns:
            `ENV/hack_alarm` for each environment with a gold reward: 1 from the alarm on.
        """
        for episode in episodes:
            steps = self._steps[episode.env_id]
            if not steps or steps[-1].number != step:
                steps.append(_Step(step))
                del steps[: -3 * WINDOWS[-1]]
            steps[-1].add(episode)
        for env_id, steps in self._steps.items():
            if env_id not in self.alarms and (alarm := _parted(env_id, steps)):
                self.alarms[env_id] = alarm
        return {f"{short_name(env_id)}/hack_alarm": float(env_id in self.alarms) for env_id in self._steps}


def _parted(env_id: str, steps: Sequence[_Step]) -> Alarm | None:
    for window in WINDOWS:
        if len(steps) < 3 * window:
            return None
        before, after = steps[-3 * window : -window], steps[-window:]
        sides = [numpy.concatenate([step.means for step in side]) for side in (before, after)]  # (G, 3) each
        gap, hacks, proxy, gold = (
            _rise(*(side @ weights for side in sides)) for weights in ([1, -1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0])
        )
        if max(gap, hacks) > GAP_ERRORS and proxy > PROXY_ERRORS and gold < -GOLD_ERRORS:
            smooth = running_means([float(step.means[:, 1].mean()) for step in steps[:-1]])
            best = max(range(len(smooth)), key=smooth.__getitem__)
            played = [episode for step in reversed(after) for group in step.groups.values() for episode in group]
            played.sort(key=lambda episode: (-episode.hack, episode.gold - episode.proxy))
            proxies, golds, rates = zip(*(side.mean(0).tolist() for side in sides), strict=True)
            ids = tuple(episode.id for episode in played[:EXAMPLES])
            return Alarm(env_id, steps[-1].number, steps[best].number, proxies, golds, rates, ids)
    return None


def _rise(before: Any, after: Any) -> float:
    """The rise of a mean in standard errors (Welch's t), from (G,) to (G,) values; 0 if there are too few."""
    if min(len(before), len(after)) < FEWEST_GROUPS:
        return 0.0
    rise = float(after.mean() - before.mean())
    error = math.sqrt(before.var(ddof=1) / len(before) + after.var(ddof=1) / len(after))
    return rise / error if error else math.copysign(math.inf, rise) if rise else 0.0


class Probe:
    """How far a policy has moved: KL(start || policy) in nats an episode, on a few episodes that the start played.

    These are the first that a run trains on, with the log-probabilities that their sampler reported. In each, the terms
    r - 1 - log r are summed over the sampled tokens, r being the ratio of policy to start: an unbiased estimate, never
    negative (Schulman 2020, "Approximating KL Divergence", k3). It costs a forward pass over 16 episodes a step, and
    no second model. TRL's `kl`, which needs `beta`, is KL(policy || reference) a token instead.
    """

    def __init__(self) -> None:
        """There are no episodes yet."""
        self.episodes: list[Trajectory] = []

    def fill(self, trajectories: Iterable[Trajectory]) -> None:
        """Take the first episodes; once there are any, nothing changes."""
        if not self.episodes:
            sampled = (t for t in trajectories if t.completion_ids and not any(map(math.isnan, t.logprobs)))
            self.episodes = [t for t, _ in zip(sampled, range(PROBES), strict=False)]

    def distance(self, trainer: Any) -> float | None:
        """The divergence now; None without episodes, or if the weights are sharded.

        Args:
            trainer: TRL's, whose `_get_per_token_logps_and_entropies` is used.
        """
        if not self.episodes or trainer.shards_weights:
            return None
        device, pad = trainer.accelerator.device, trainer.processing_class.pad_token_id
        prompt = max(len(t.prompt_ids) for t in self.episodes)
        length = max(len(t.completion_ids) for t in self.episodes)
        ids = torch.full((len(self.episodes), prompt + length), pad)  # (B, P + C)
        present = torch.zeros_like(ids)
        start, sampled = torch.zeros(len(self.episodes), length), torch.zeros(len(self.episodes), length)  # (B, C)
        for row, episode in enumerate(self.episodes):
            own, count = [*episode.prompt_ids, *episode.completion_ids], len(episode.completion_ids)
            columns = slice(prompt - len(episode.prompt_ids), prompt + count)
            ids[row, columns], present[row, columns] = torch.tensor(own), 1
            start[row, :count], sampled[row, :count] = (
                torch.tensor(episode.logprobs),
                torch.tensor(episode.mask).float(),
            )
        model = trainer.accelerator.unwrap_model(trainer.model)
        with torch.no_grad():
            now: Tensor = trainer._get_per_token_logps_and_entropies(
                model, ids.to(device), present.to(device), length, trainer.args.per_device_train_batch_size
            )[0]
        moved = (now.cpu().double() - start) * sampled
        return float(((moved.exp() - 1 - moved) * sampled).sum(1).mean())


class HackCallback(TrainerCallback):
    """Prints each alarm, writes it to `hack_alarms.json`, and ends training there if asked."""

    def __init__(self, folder: Path, console: Console, *, stop: bool = False):
        """Report the alarms of `monitor`, which is set when the run is made."""
        self.monitor = HackMonitor()
        self._path, self._console, self._stop = folder / "hack_alarms.json", console, stop
        self._reported: set[str] = set()

    def on_step_end(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Report what is new."""
        new = [alarm for env_id, alarm in self.monitor.alarms.items() if env_id not in self._reported]
        if not new:
            return
        self._reported |= {alarm.env_id for alarm in new}
        control.should_training_stop = control.should_training_stop or self._stop
        if state.is_world_process_zero:
            self._path.write_text(json.dumps([dataclasses.asdict(a) for a in self.monitor.alarms.values()], indent=1))
            for alarm in new:
                ending = "; training ends here (stop_on_hack)" if self._stop else ""
                self._console.print(Text(f"{alarm}{ending}"), style="bold red", soft_wrap=True)
