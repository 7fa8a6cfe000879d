"""Promises about credit: an unbiased gradient, the right tokens, costs that leave right answers above wrong ones."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

from tests.training.test_trl import play, token_gradients
from toolrl import ConfigError, InfrastructureError, Limits, Score, Task, ToolEnv, award, call, say
from toolrl.policy import ScriptedPolicy
from toolrl.training import GRPORun
from toolrl.training.credit import CreditSettings, Played, frugality, shaped_scores, turn_advantages

# ---- the gradient of a small policy, which is known

STOP, HORIZON = 0, 3
AWARDS = {1: 0.3, 2: -0.2}  # of the two actions that go on


class Walk:
    """A softmax policy over three actions, in each of three turns, that may stop at any time."""

    def __init__(self) -> None:
        self.logits = torch.randn(HORIZON, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.logits.requires_grad_()
        self.paths = [
            (*path, STOP)[:HORIZON]
            for length in range(HORIZON + 1)
            for path in itertools.product(AWARDS, repeat=length)
        ]

    def logprobs(self, path: Sequence[int]) -> torch.Tensor:
        return torch.stack([row.log_softmax(0)[action] for row, action in zip(self.logits, path, strict=False)])

    def episode(self, path: Sequence[int], paid: bool) -> Played:
        awards = tuple(AWARDS.get(action, 0.0) for action in path)
        end = float(path[-1] != STOP) + 0.5 * (path[0] == 2)  # a late end pays, and so does a bad beginning
        return Played("group", end + paid * sum(awards), awards=awards)

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, self.logits, retain_graph=True)[0]


def expected_estimate(
    walk: Walk, paid: bool, size: int, advantages: Callable[[Sequence[Played]], list[list[float]]]
) -> torch.Tensor:
    """The expectation over all groups of the estimate, mean over i of sum_t A_it grad log pi."""
    logprobs = {path: walk.logprobs(path) for path in walk.paths}
    probability = {path: float(logprobs[path].detach().sum().exp()) for path in walk.paths}
    assert sum(probability.values()) == pytest.approx(1.0)
    played = {path: walk.episode(path, paid) for path in walk.paths}
    total = torch.zeros((), dtype=torch.float64)
    for group in itertools.product(walk.paths, repeat=size):
        found = advantages([played[path] for path in group])
        weight = torch.tensor([probability[path] for path in group], dtype=torch.float64).prod()
        # All members are alike: the first stands for all.
        total = total + weight * (torch.tensor(found[0], dtype=torch.float64) * logprobs[group[0]]).sum()
    return walk.gradient(total)


def exact_gradient(walk: Walk, paid: bool) -> torch.Tensor:
    scores = {path: walk.episode(path, paid).score or 0.0 for path in walk.paths}
    return walk.gradient(torch.stack([walk.logprobs(path).sum().exp() * scores[path] for path in walk.paths]).sum())


@pytest.mark.parametrize(
    ("paid", "size"), [(True, 2), (False, 2), pytest.param(True, 3, marks=pytest.mark.slow)],
    ids=["awards in the score", "awards aside", "groups of three"],
)  # fmt: skip
def test_turn_credit_is_unbiased_where_the_policy_decides_when_to_stop(paid: bool, size: int) -> None:
    walk = Walk()
    estimate = expected_estimate(walk, paid, size, turn_advantages)
    assert torch.allclose(estimate, exact_gradient(walk, paid), atol=1e-12)


def test_a_mean_over_the_episodes_that_reach_a_turn_would_be_biased() -> None:
    def by_index(group: Sequence[Played]) -> list[list[float]]:
        returns: dict[int, list[float]] = defaultdict(list)
        to_go = [[(e.score or 0.0) - sum(e.awards[:turn]) for turn in range(len(e.awards))] for e in group]
        for row in to_go:
            for turn, value in enumerate(row):
                returns[turn].append(value)
        return [[value - fmean(returns[turn]) for turn, value in enumerate(row)] for row in to_go]

    walk = Walk()
    estimate, exact = expected_estimate(walk, True, 2, by_index), exact_gradient(walk, True)
    cosine = torch.nn.functional.cosine_similarity(estimate.flatten(), exact.flatten(), dim=0)
    assert cosine < 0.99


def test_without_awards_every_turn_has_the_leave_one_out_advantage() -> None:
    group = [Played("g", score, awards=(0.0,) * turns) for score, turns in ((1.0, 3), (0.0, 1), (0.5, 2))]
    assert turn_advantages(group) == [[0.75] * 3, [-0.75], [0.0] * 2]


def test_an_unscored_episode_has_no_advantage_and_is_in_no_baseline() -> None:
    group = [Played("g", 1.0, awards=(0.0,)), Played("g", None, awards=(5.0, 0.0)), Played("g", 0.0, awards=(0.0,))]
    assert turn_advantages(group) == [[1.0], [0.0, 0.0], [-1.0]]
    assert turn_advantages([group[0], group[1]]) == [[0.0], [0.0, 0.0]], "nothing to compare with"
    assert shaped_scores(group, CreditSettings(tool_cost=1.0))[1] is None


# ---- costs

episodes = st.builds(
    Played,
    st.sampled_from("ab"),
    st.one_of(st.none(), st.floats(-10, 10)),
    st.booleans(),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
)
shares = st.floats(0, 1)


@settings(max_examples=40)
@given(st.lists(episodes, max_size=6), shares, shares)
def test_a_right_answer_is_never_made_worth_less_than_a_wrong_one(
    group: list[Played], tool_cost: float, length_cost: float
) -> None:
    shaped = shaped_scores(group, CreditSettings(tool_cost=tool_cost, length_cost=length_cost))
    for episode, after in zip(group, shaped, strict=True):
        if episode.score is None or not episode.success:
            assert after == episode.score
            continue
        assert after is not None
        assert after <= episode.score + 1e-12
        for other, worth in zip(group, shaped, strict=True):
            if other.group == episode.group and not other.success and other.score is not None:
                assert after >= (worth or 0.0) or episode.score < other.score


def test_the_frugal_right_answer_keeps_its_score_and_the_wasteful_one_its_lead() -> None:
    group = [
        Played("g", 1.0, True, calls=1, tokens=50),
        Played("g", 1.0, True, calls=3, tokens=50),
        Played("g", 0.2, False, calls=0, tokens=1),
    ]
    frugal, wasteful, wrong = shaped_scores(group, CreditSettings(tool_cost=0.5))
    assert (frugal, wrong) == (1.0, 0.2)
    assert wasteful == pytest.approx(0.2 + 0.8 * (1 - 0.5 * (1 - frugality(3, 1))))
    assert shaped_scores(group, CreditSettings(length_cost=0.5)) == [1.0, 1.0, 0.2]


def test_frugality_is_that_of_otc() -> None:
    # Wang et al. 2025: sin(f pi / 2n) with f = 2nm / (m + n); cos(m pi / (2m + c)) where n is 0.
    assert frugality(3, 2) == pytest.approx(torch.tensor(2 * 2 * 3 / 5 * torch.pi / 4).sin().item())
    assert frugality(2, 0) == pytest.approx(torch.tensor(2 * torch.pi / 8).cos().item())
    assert frugality(0, 0) == frugality(7, 7) == 1.0
    for least in (0, 1, 30):
        values = [frugality(used, least) for used in range(least, least + 2000)]
        assert values == sorted(values, reverse=True)
        assert min(values) >= 0


# ---- in TRL's trainer


def steps_env(fault: bool = False, value: float | None = None) -> ToolEnv:
    """Two calls, each awarded in turn; the score is their sum, or `value`."""
    played = itertools.count()
    amounts = itertools.count(1)

    def step() -> str:
        """Take a step."""
        award(next(amounts) / 100)
        return "ok"

    def reward(task: Task, episode: Any) -> Score:
        if fault and next(played) == 1:
            raise InfrastructureError("the grader is down")
        return Score(episode.awarded if value is None else value)

    tasks = [Task(str(n), f"Step {n}.") for n in range(8)]
    return ToolEnv(tasks=tasks, tools=[step], reward=reward, limits=Limits(turns=5))


def scripted(run: GRPORun) -> GRPORun:
    run.engine.policy = ScriptedPolicy(
        [run.renderer.assistant_ids(turn) for turn in (call("step"), call("step"), say("done"))]
    )
    return run


TURN = {"scale_rewards": "none", "loss_type": "dr_grpo"}


def test_tokens_get_the_advantage_of_their_turn_across_observations(grpo_run: Callable[..., GRPORun]) -> None:
    one_group = {**TURN, "per_device_train_batch_size": 4}
    env = steps_env(fault=True)
    run = scripted(grpo_run({"tests/Steps": env}, one_group, credit=CreditSettings("turn"), retries=0))
    batch = play(run)
    assert batch["advantages"].shape == batch["completion_ids"].shape
    scored = [t for t in run.last_batch[:4] if t.score.value is not None]
    assert len(scored) == 3
    gradients = token_gradients(run, batch)
    for row, trajectory in enumerate(run.last_batch[:4]):
        found = batch["advantages"][row][: len(trajectory.completion_ids)]
        if trajectory.score.value is None:
            assert not batch["advantages"][row].any()
            continue
        others = [t for t in scored if t is not trajectory]
        earned = [[sum(a.value for a in turn.awards) for turn in t.turns] for t in (trajectory, *others)]
        place = 0
        for number, turn in enumerate(trajectory.turns):
            own, *theirs = (sum(awards[number:]) for awards in earned)
            tokens = len(turn.sample.token_ids) + len(turn.observation_ids)
            assert found[place : place + tokens].tolist() == pytest.approx([own - fmean(theirs)] * tokens, abs=1e-6)
            place += tokens
        sampled = torch.tensor(trajectory.mask).bool()
        expected = found.abs() * sampled / (len(run.last_batch) * run.trainer.max_completion_length)
        assert torch.allclose(gradients[row][: len(found)], expected, atol=1e-9)


def test_training_with_turn_credit_splits_and_shuffles_the_rows(grpo_run: Callable[..., GRPORun]) -> None:
    changes = {**TURN, "gradient_accumulation_steps": 2, "loss_type": "dapo"}
    run = scripted(grpo_run({"tests/Steps": steps_env()}, changes, credit=CreditSettings("turn")))
    assert run.trainer.model is not None
    before = [parameter.detach().clone() for parameter in run.trainer.model.parameters()]
    run.train()
    after = run.trainer.model.parameters()
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_leave_one_out_is_the_score_against_the_others(grpo_run: Callable[..., GRPORun]) -> None:
    run = scripted(grpo_run({"tests/Steps": steps_env()}, {"scale_rewards": "none"}, credit=CreditSettings("loo")))
    advantages = play(run)["advantages"]
    scores = [t.score.value or 0.0 for t in run.last_batch[:4]]
    assert advantages[:4].tolist() == pytest.approx([s - (sum(scores) - s) / 3 for s in scores], abs=1e-6)


def test_costs_reach_trls_advantages_and_leave_the_recorded_score(grpo_run: Callable[..., GRPORun]) -> None:
    run = scripted(grpo_run({"tests/Steps": steps_env(value=1.0)}, credit=CreditSettings(length_cost=0.5)))
    turns = [run.renderer.assistant_ids(say(text)) for text in ("no", "no no no no")]
    lengths = itertools.cycle(turns)
    run.engine.policy = ScriptedPolicy(lambda *arguments: next(lengths))  # type: ignore[arg-type]
    batch = play(run)
    assert {t.score.value for t in run.last_batch} == {1.0}
    short = torch.tensor([len(t.completion_ids) == len(turns[0]) for t in run.last_batch])
    assert batch["advantages"][short].min() > 0 > batch["advantages"][~short].max()


def test_equal_rewards_give_advantages_of_exactly_0(grpo_run: Callable[..., GRPORun]) -> None:
    run = scripted(grpo_run({"tests/Steps": steps_env(value=0.3)}, {"num_generations": 8}))
    assert not play(run)["advantages"].any(), "TRL's mean of eight times 0.3 is not 0.3 in float32"


@pytest.mark.parametrize(
    ("credit", "changes", "named"),
    [
        ("loo", {}, "--scale_rewards group"),
        ("turn", {"scale_rewards": "batch"}, "--scale_rewards batch"),
        ("turn", {**TURN, "importance_sampling_level": "sequence"}, "--importance_sampling_level"),
        ("turn", {**TURN, "loss_type": "luspo"}, "--loss_type luspo"),
        ("turn", {**TURN, "off_policy_mask_threshold": 0.5}, "--off_policy_mask_threshold"),
        ("loo", {**TURN, "multi_objective_aggregation": "normalize_then_sum"}, "--multi_objective_aggregation"),
    ],
)
def test_settings_that_contradict_are_refused_in_one_error(
    config: Callable[..., Any], credit: str, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        CreditSettings(credit).refuse_conflicts(config(**changes))


def test_conflicts_are_found_before_a_run_is_built(grpo_run: Callable[..., GRPORun]) -> None:
    with pytest.raises(ConfigError, match="pass --scale_rewards none; --loss_type vespo weighs whole episodes"):
        grpo_run(changes={"loss_type": "vespo"}, credit=CreditSettings("turn"))


@pytest.mark.parametrize("values", [{"credit": "step"}, {"tool_cost": 1.5}, {"length_cost": float("nan")}])
def test_bad_values_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        CreditSettings(**values)
