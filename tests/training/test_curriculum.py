"""Promises of the curriculum: most groups are of use, no task is left out, and what is known survives a resume."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping

import numpy
import pytest

from toolrl import Task
from toolrl.training.curriculum import FLOOR, Curriculum
from toolrl.training.mixture import Mixture, Outcome, Place

SIZE = 8
KINDS = {"easy": 0.97, "middle": 0.4, "hard": 0.01}  # true pass rates
TASKS = {
    Place("my/Env-v0", f"{kind}{number}"): Task(f"{kind}{number}", "?", kind=kind)
    for kind in KINDS
    for number in range(50)
}


def curriculum(tasks: Mapping[Place, Task] = TASKS, seed: int = 0) -> Curriculum:
    ids: dict[str, list[str]] = {}
    for env_id, task_id in tasks:
        ids.setdefault(env_id, []).append(task_id)
    return Curriculum(Mixture(ids, {}, seed), tasks, {}, SIZE, seed)


def group(place: Place, passed: int) -> Outcome:
    """A group that is rewarded for success alone."""
    return Outcome(place, passed, SIZE, 0 < passed < SIZE)


def play(plan: Curriculum, rate: Callable[[Place], float], batches: int, seed: int = 0) -> list[Outcome]:
    rng = random.Random(seed)
    played = []
    for _ in range(batches):
        places = [plan.draw() for _ in range(8)]
        outcomes = [group(place, sum(rng.random() < rate(place) for _ in range(SIZE))) for place in places]
        plan.learn(outcomes)
        played += outcomes
    return played


def of_kind(place: Place) -> float:
    return KINDS[TASKS[place].kind]


def useful(outcomes: list[Outcome]) -> float:
    return sum(0 < outcome.passed < outcome.scored for outcome in outcomes) / len(outcomes)


@pytest.mark.parametrize("seed", range(3))
def test_most_groups_are_neither_hopeless_nor_solved(seed: int) -> None:
    uniform = [group(place, sum(random.random() < of_kind(place) for _ in range(SIZE))) for place in TASKS] * 3
    played = play(curriculum(seed=seed), of_kind, 60, seed)[160:]
    assert useful(played) > 0.75 > 0.6 > useful(uniform)


def test_what_is_solved_is_drawn_where_its_episodes_still_differ_in_reward() -> None:
    # All is solved but what is hopeless; in one kind some episodes call a tool that they do not need.
    solved = {"easy": 1.0, "middle": 1.0, "hard": 0.0}
    plan, played = curriculum(), []
    for _ in range(40):
        places = [plan.draw() for _ in range(8)]
        kinds = [TASKS[place].kind for place in places]
        plan.learn(
            [
                Outcome(place, int(SIZE * solved[kind]), SIZE, kind == "easy")
                for place, kind in zip(places, kinds, strict=True)
            ]
        )
        played += kinds
    assert Counter(played[160:])["easy"] > 0.75 * 160
    resumed = curriculum()
    resumed.restore(json.loads(json.dumps(plan.state())))
    assert (resumed.usefulness() == plan.usefulness()).all()


def test_it_follows_the_policy_to_harder_tasks() -> None:
    plan = curriculum()
    play(plan, of_kind, 40)
    later = {"easy": 1.0, "middle": 1.0, "hard": 0.5}
    played = play(plan, lambda place: later[TASKS[place].kind], 60)[240:]
    assert Counter(TASKS[outcome.place].kind for outcome in played).most_common(1)[0][0] == "hard"


def test_every_task_comes_up_again() -> None:
    plan = curriculum()
    drawn = {outcome.place for outcome in play(plan, of_kind, int(2 * len(TASKS) / FLOOR / 8))}
    assert drawn == set(TASKS)


def test_the_share_of_useful_groups_is_what_it_expects_of_what_it_has_not_seen() -> None:
    # A closed form against a simulation of the belief.
    plan = curriculum()
    plan.learn([group(place, 3) for place in list(TASKS)[:20]])
    passes, fails = plan._beliefs()
    rates = numpy.random.default_rng(0).beta(passes, fails, size=(20_000, len(passes)))
    simulated = 1 - (rates**SIZE).mean(0) - ((1 - rates) ** SIZE).mean(0)
    assert numpy.abs(plan.usefulness() - simulated).max() < 0.02


def test_tasks_of_a_kind_share_what_is_known_as_far_as_they_are_alike() -> None:
    alike, mixed = curriculum(), curriculum()
    seen = list(TASKS)[:40]
    for _ in range(6):
        alike.learn([group(place, 0) for place in seen])
        mixed.learn([group(place, SIZE * (number % 2)) for number, place in enumerate(seen)])
    unseen = list(TASKS)[45]
    number = alike._index[unseen]
    assert alike.pass_rates()[number] < 0.05
    assert alike.usefulness()[number] < 0.2
    assert 0.4 < mixed.pass_rates()[number] < 0.6
    one, other = (mixed.pass_rates()[mixed._index[place]] for place in seen[:2])
    assert one < 0.15 < 0.85 < other  # each of them is known by itself


def test_a_task_that_is_played_is_not_drawn_again_and_unscored_groups_teach_nothing() -> None:
    few = dict(list(TASKS.items())[:3])
    plan = curriculum(few)
    before = plan.pass_rates()
    plan.learn([Outcome(place, 0, 0, False) for place in few])
    assert (plan.pass_rates() == before).all()
    busy = set(list(few)[:2])
    drawn = Counter(plan.draw(busy) for _ in range(300))
    assert sum(drawn[place] for place in busy) < 300 * FLOOR * 1.6
    assert plan.draw(set(few)) in few


def test_a_resumed_run_draws_what_it_would_have_drawn() -> None:
    plan = curriculum()
    play(plan, of_kind, 10)
    resumed = curriculum()
    resumed.restore(json.loads(json.dumps(plan.state())))
    assert play(plan, of_kind, 10) == play(resumed, of_kind, 10)
    assert plan.metrics() == resumed.metrics()


def test_kinds_are_named_by_environment_kind_and_difficulty_and_many_difficulties_are_ranges() -> None:
    tasks = {
        **{Place("a/One-v0", f"{n}"): Task(f"{n}", "?", difficulty=n / 100) for n in range(100)},
        **{
            Place("a/Two-v0", f"{n}"): Task(f"{n}", "?", kind="sum", difficulty=("low", "high")[n % 2])
            for n in range(9)
        },
        Place("a/Three-v0", "x"): Task("x", "?"),
    }
    plan = curriculum(tasks)
    ranges = [kind for kind in plan.kinds if kind[0] == "a/One-v0"]
    assert 4 <= len(ranges) <= 6
    assert ("a/Two-v0", "sum high") in plan.kinds
    assert ("a/Three-v0", "all") in plan.kinds
    assert {"curriculum/Two/sum low", "curriculum/Three/all", "curriculum/useful"} <= set(plan.metrics())


@pytest.mark.parametrize("seed", range(3))
def test_it_expects_as_many_useful_groups_as_there_are_while_a_policy_learns(seed: int) -> None:
    # Twenty kinds of unequal tasks, most of them solved in the end, as in a run of `make train`.
    rng = random.Random(seed)
    places = {Place("my/Env-v0", f"{n}"): Task(f"{n}", "?", kind=f"kind{n % 20}") for n in range(400)}
    hardness = {place: rng.gauss(0, 2) for place in places}
    plan = curriculum(places, seed)
    expected, found = [], []
    for step in range(40):
        skill = -1 + 5 * step / 40
        drawn = [plan.draw() for _ in range(8)]
        useful_now = dict(zip(places, plan.usefulness(), strict=True))
        outcomes = []
        for place in drawn:
            rate = 1 / (1 + numpy.exp(hardness[place] - skill))
            outcomes.append(group(place, sum(rng.random() < rate for _ in range(SIZE))))
        if step >= 10:
            expected += [float(useful_now[place]) for place in drawn]
            found += [0 < outcome.passed < SIZE for outcome in outcomes]
        plan.learn(outcomes)
    assert abs(sum(expected) - sum(found)) / len(found) < 0.1
