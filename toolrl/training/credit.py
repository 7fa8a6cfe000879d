"""Credit: what an episode's score is worth to each of its turns, and what tool calls and tokens cost.

What is optimised is the expected score. A turn's award (`Turn.awards`) says when a part of it was earned, so a reward
should add `episode.awarded`. For an episode i of a group, with score S_i and awards w_i:

- `episode`: TRL's advantages, the same for all tokens.
- `loo`: A_i = S_i - mean over j != i of S_j, the leave-one-out baseline (Kool et al. 2019, "Buy 4 REINFORCE samples,
  get a baseline for free!"; RLOO, Ahmadian et al. 2024, arXiv 2402.14740).
- `turn`: A_it = G_it - mean over j != i of G_jt, with the return to go G_it = S_i - (w_i1 + ... + w_i,t-1), for all
  tokens of turn t. After its last turn an episode keeps what remains of its score.

The estimate sum_t A_it grad log pi(turn t) of the gradient is unbiased, whatever the awards: what was earned before a
turn depends only on what came before it, and the baseline only on the other episodes and on t, so neither changes the
expectation (Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning";
Greensmith et al. 2004, "Variance reduction techniques for gradient estimates in reinforcement learning"). A mean over
the episodes that reach turn t, itself included, is biased, since an episode decides whether it gets there; so is a
division by the group's deviation. Two things remain: costs look at the whole group, and the divisors of the losses dapo
and bnpo count the batch's sampled tokens, grpo's those of the episode. That of dr_grpo is constant.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from toolrl.errors import ConfigError
from toolrl.trajectory import Trajectory

CREDITS = ("episode", "turn", "loo")
SMOOTHING = 4  # c of OTC: where a right answer without a call is known, one call keeps 0.87, four calls 0.5


@dataclass(frozen=True, slots=True)
class CreditSettings:
    """How scores become advantages.

    Attributes:
        credit: "episode", "turn" or "loo"; see the module.
        tool_cost: The share of a right answer's lead over wrong ones that needless tool calls can cost, within [0, 1].
        length_cost: The same of sampled tokens.

    Raises:
        ConfigError: A value is not one of these.
    """

    credit: str = "episode"
    tool_cost: float = 0.0
    length_cost: float = 0.0

    def __post_init__(self) -> None:
        if self.credit not in CREDITS:
            raise ConfigError(f"credit={self.credit!r} is unknown; choose one of {', '.join(CREDITS)}")
        for name in ("tool_cost", "length_cost"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} must be within 0 and 1: the share of a right answer's lead over "
                    "wrong ones that can be lost"
                )

    def refuse_conflicts(self, args: Any) -> None:
        """Refuse settings of TRL that would undo the choice.

        Args:
            args: TRL's `GRPOConfig`.

        Raises:
            ConfigError: Names all of them.
        """
        if self.credit == "episode":
            return
        wrong = []
        if args.scale_rewards != "none":
            wrong.append(f"--scale_rewards {args.scale_rewards} divides by a deviation; pass --scale_rewards none")
        if args.multi_objective_aggregation != "sum_then_normalize":
            wrong.append(f"--multi_objective_aggregation {args.multi_objective_aggregation} normalises too; remove it")
        if self.credit == "turn":
            if args.loss_type in ("luspo", "vespo"):
                wrong.append(f"--loss_type {args.loss_type} weighs whole episodes; pass dr_grpo, dapo, bnpo or cispo")
            if args.importance_sampling_level != "token":
                wrong.append("--importance_sampling_level sequence has one ratio for all turns; pass token")
            if args.off_policy_mask_threshold is not None:
                wrong.append("--off_policy_mask_threshold drops whole episodes by the sign of one advantage; remove it")
        if wrong:
            raise ConfigError(f"--credit {self.credit}: {'; '.join(wrong)}")


class Played(NamedTuple):
    """What credit looks at in an episode.

    Attributes:
        group: The group it is compared in.
        score: Its reward; None if it is unscored.
        success: Whether its answer is right.
        calls: Tool calls, failed ones included.
        tokens: Sampled tokens.
        awards: (turns,) what each turn was awarded.
    """

    group: str
    score: float | None
    success: bool = False
    calls: int = 0
    tokens: int = 0
    awards: tuple[float, ...] = ()

    @classmethod
    def of(cls, trajectory: Trajectory) -> Played:
        """The facts of a trajectory, whose `info` names its group."""
        return cls(
            str(trajectory.info["group"]),
            trajectory.score.value,
            bool(trajectory.score.success),
            len(trajectory.tool_results),
            sum(sum(part.mask) for part in (trajectory, *trajectory.branches)),
            tuple(math.fsum(award.value for award in turn.awards) for turn in trajectory.turns),
        )


class Credit(NamedTuple):
    """What a process's part of a batch is trained with.

    Attributes:
        scores: (B,) rewards after costs; None for unscored episodes.
        zero: (B,) whether all advantages are 0, whatever rounding in float32 makes of them.
        advantages: (B,) one for each episode or for each of its tokens; None to leave them to TRL.
    """

    scores: list[float | None]
    zero: list[bool]
    advantages: list[float] | list[list[float]] | None


def assign_credit(
    settings: CreditSettings,
    trajectories: Sequence[Trajectory],
    gather: Callable[[list[Played]], list[Played]] = list,
    rank: int = 0,
) -> Credit:
    """Score a batch, and give credit for it.

    Args:
        settings: How.
        trajectories: (B,) of this process.
        gather: Joins the lists of all processes, each of length B, in order: a group may span processes.
        rank: The place of this process among them.
    """
    played = gather([Played.of(trajectory) for trajectory in trajectories])
    own = slice(rank * len(trajectories), (rank + 1) * len(trajectories))
    scores = shaped_scores(played, settings)
    played = [episode._replace(score=score) for episode, score in zip(played, scores, strict=True)]
    if settings.credit != "turn":  # as if all episodes had one turn
        played = [episode._replace(awards=(0.0,)) for episode in played]
    rows = turn_advantages(played)[own]
    advantages: list[float] | list[list[float]] | None = None
    if settings.credit == "turn":
        advantages = [_by_token(trajectory, row) for trajectory, row in zip(trajectories, rows, strict=True)]
    elif settings.credit == "loo":
        advantages = [row[0] for row in rows]
    return Credit(scores[own], [not any(row) for row in rows], advantages)


def shaped_scores(played: Sequence[Played], settings: CreditSettings) -> list[float | None]:
    """Scores (N,) after the costs of tool calls and tokens.

    Costs are taken from a right answer only, and only from its lead over the best wrong answer of its group (over 0 if
    there is none), so that a right answer that was worth as much as a wrong one still is. As in OTC-GRPO (Wang et al.
    2025, arXiv 2504.14870), the measure is the right answer of the group that used least, and a wrong answer gains
    nothing by being cheap.
    """
    scores = [episode.score for episode in played]
    if not (settings.tool_cost or settings.length_cost):
        return scores
    for members in _groups(played):
        right = [i for i in members if played[i].success]
        floor = max((played[i].score or 0.0 for i in members if i not in right), default=0.0)
        for i in right:
            lead = (played[i].score or 0.0) - floor
            if lead > 0:
                calls = frugality(played[i].calls, min(played[j].calls for j in right))
                tokens = frugality(played[i].tokens, min(played[j].tokens for j in right))
                kept = (1 - settings.tool_cost * (1 - calls)) * (1 - settings.length_cost * (1 - tokens))
                scores[i] = floor + lead * kept
    return scores


def frugality(used: int, least: int) -> float:
    """OTC's r_tool within [0, 1]: 1 for the least amount, falling towards 0 as more is used.

    With m used and n the least, sin(m pi / (m + n)), and cos(m pi / (2 m + c)) where n is 0 (c is `SMOOTHING`).
    """
    if used <= least:
        return 1.0
    if least == 0:
        return math.cos(used * math.pi / (2 * used + SMOOTHING))
    return max(0.0, math.sin(used * math.pi / (used + least)))


def turn_advantages(played: Sequence[Played]) -> list[list[float]]:
    """The advantage of each turn of each episode; 0 for unscored ones, and where nothing can be compared."""
    advantages = [[0.0] * len(episode.awards) for episode in played]
    for members in _groups(played):
        to_go = {i: _returns_to_go(played[i]) for i in members}
        for i in members:
            others = [to_go[j] for j in members if j != i]
            if others:
                # The mean of differences is exactly 0 where all are equal.
                advantages[i] = [
                    fmean(own - other[min(turn, len(other) - 1)] for other in others)
                    for turn, own in enumerate(to_go[i][:-1])
                ]
    return advantages


def _returns_to_go(episode: Played) -> list[float]:
    """The return from each turn on (turns + 1,); the last is what is left of the score after all awards."""
    returns = [episode.score or 0.0]
    for award in episode.awards:
        returns.append(returns[-1] - award)
    return returns


def _groups(played: Sequence[Played]) -> list[list[int]]:
    """The indices of the scored episodes of each group."""
    groups: dict[str, list[int]] = defaultdict(list)
    for index, episode in enumerate(played):
        if episode.score is not None:
            groups[episode.group].append(index)
    return list(groups.values())


def _by_token(trajectory: Trajectory, by_turn: Sequence[float]) -> list[float]:
    """(C,) the advantage of its turn for each token, observations included."""
    return [
        advantage
        for turn, advantage in zip(trajectory.turns, by_turn, strict=True)
        for _ in range(len(turn.sample.token_ids) + len(turn.observation_ids))
    ]
