"""Promises about suites: few tasks say what all would, with their error; a suite plays the same tasks or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest

from toolrl.errors import ConfigError, TaskError
from toolrl.evaluation.suite import Suite, choose

TASKS = 600


def models(count: int, seed: int) -> tuple[dict[str, pandas.DataFrame], Any]:
    """Models of different skill on tasks of different difficulty, and what one more model would do."""
    rng = numpy.random.default_rng(seed)
    difficulty = rng.normal(0, 2, TASKS)

    def play(skill: float) -> Any:
        return rng.random(TASKS) < 1 / (1 + numpy.exp(difficulty - skill))

    names = [f"t{number}" for number in range(TASKS)]
    kinds = [f"k{number % 3}" for number in range(TASKS)]
    sides = {
        f"m{number}": pandas.DataFrame({"env": "a/B-v0", "task": names, "success": play(skill), "kind": kinds})
        for number, skill in enumerate(numpy.linspace(-2, 2, count))
    }
    return sides, play(rng.normal())


def errors(count: int, size: int, repetitions: int = 60) -> tuple[Any, Any, Any]:
    """Errors of suites and of random draws (R,), and whether the interval held the truth (R,)."""
    found, simple, covered = [], [], []
    for seed in range(repetitions):
        sides, truth = models(count, seed)
        suite = choose(sides, size, seed=seed)
        estimate = suite.estimate({task: [float(truth[int(task[1:])])] for task in suite.tasks})
        found.append(estimate.value - truth.mean())
        covered.append(estimate.interval[0] <= truth.mean() <= estimate.interval[1])
        simple.append(truth[numpy.random.default_rng(seed).choice(TASKS, size, replace=False)].mean() - truth.mean())
    return numpy.array(found), numpy.array(simple), numpy.array(covered)


def test_an_estimate_has_no_bias_and_its_interval_covers() -> None:
    found, _, covered = errors(4, 40)
    assert abs(found.mean()) < 3 * found.std() / numpy.sqrt(len(found))
    assert covered.mean() >= 0.88


@pytest.mark.slow
def test_with_many_models_known_it_errs_less_than_as_many_random_tasks() -> None:
    found, simple, covered = errors(20, 80)
    assert numpy.sqrt((found**2).mean()) < 0.9 * numpy.sqrt((simple**2).mean())
    assert covered.mean() >= 0.88


def test_the_whole_set_has_no_error() -> None:
    sides, truth = models(3, 0)
    suite = choose(sides, TASKS)
    assert sorted(suite.tasks) == sorted(f"t{n}" for n in range(TASKS))
    estimate = suite.estimate({task: [float(truth[int(task[1:])])] for task in suite.tasks})
    assert estimate.value == pytest.approx(truth.mean())
    assert estimate.interval == pytest.approx((estimate.value, estimate.value))


@pytest.mark.parametrize("size", [2, 3, 10, 41, 599])
def test_a_suite_has_the_tasks_that_were_asked_for_each_once_of_all_kinds(size: int) -> None:
    suite = choose(models(5, 1)[0], size)
    assert len(set(suite.tasks)) == len(suite.tasks) == size
    assert sum(stratum.share for stratum in suite.strata) == pytest.approx(1)
    if size > 30:
        assert {int(task[1:]) % 3 for task in suite.tasks} == {0, 1, 2}
    assert suite == choose(models(5, 1)[0], size)


def test_models_that_all_did_the_same_leave_one_stratum() -> None:
    frame = pandas.DataFrame({"env": "a/B-v0", "task": [f"t{n}" for n in range(20)], "success": [True] * 20})
    suite = choose({"m": frame}, 6)
    assert [len(stratum.tasks) for stratum in suite.strata] == [6]
    estimate = suite.estimate({task: [1.0] for task in suite.tasks})
    assert estimate.value == 1.0
    assert estimate.interval[0] < 0.95


def test_samples_and_missing_tasks_count() -> None:
    suite = choose(models(4, 2)[0], 20)
    half = suite.estimate({task: [1.0, 0.0] for task in suite.tasks})
    assert half.value == pytest.approx(0.5)
    some = suite.estimate({task: [1.0] for task in suite.tasks if task != suite.tasks[0]})
    assert (some.value, some.played, some.of) == (1.0, 19, TASKS)
    with pytest.raises(ConfigError, match="no task of a stratum"):
        suite.estimate({suite.tasks[0]: [1.0]})


def test_what_cannot_be_chosen_from_is_refused() -> None:
    sides, _ = models(2, 0)
    for size in (1, TASKS + 1):
        with pytest.raises(ConfigError, match=f"from 2 to {TASKS} tasks"):
            choose(sides, size)
    with pytest.raises(ConfigError, match="of one environment"):
        choose({"m0": sides["m0"], "m1": sides["m1"].assign(env="c/D-v0")}, 10)
    with pytest.raises(ConfigError, match="name at least one"):
        choose({}, 10)


def suite_of(tasks: list[str], **about: Any) -> Suite:
    frame = pandas.DataFrame({"env": "toolrl/PythonMath-v0", "task": tasks, "success": [True] * len(tasks)})
    return choose({"m": frame}, len(tasks), settings={"size": 20}, **about)


def test_a_file_names_everything_and_is_read_back(tmp_path: Path) -> None:
    from toolrl import make

    env = make("toolrl/PythonMath-v0", split="test", size=20)
    tasks = [task.id for task in env.tasks][:6]
    env.close()
    suite = suite_of(tasks, samples=2, temperature=0.5).with_prompts()
    suite.write(tmp_path / "suite.yaml")
    assert Suite.read(tmp_path / "suite.yaml") == suite
    opened = suite.open()
    assert [task.id for task in opened.tasks] == suite.tasks
    opened.close()


def test_other_tasks_than_the_suites_are_noticed() -> None:
    with pytest.raises(TaskError, match=r"no task has the id '(gone|lost)'"):
        suite_of(["gone", "lost"]).open()
    from toolrl import make

    env = make("toolrl/PythonMath-v0", split="test", size=20)
    suite = suite_of([task.id for task in env.tasks][:4], prompts="changed")
    env.close()
    with pytest.raises(TaskError, match="the prompts of toolrl/PythonMath-v0 have changed"):
        suite.open()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1", "not a suite of version 1"), ("- 1", "not a suite of version 1"), ("{", "not a suite"),
        ("toolrl_suite: 2", "not a suite of version 1"), ("toolrl_suite: 1\nname: x", "env: Field required"),
        ("toolrl_suite: 1\nname: x\nenv: y\nof: 3\nstrata: [{share: 0.5, tasks: [a]}]", "do not add up to 1"),
        ("toolrl_suite: 1\nname: x\nenv: y\nof: 3\ncolour: 1\nstrata: [{share: 1, tasks: [a]}]", "colour"),
        ("toolrl_suite: 1\nname: x\nenv: y\nof: 3\nsamples: 0\nstrata: [{share: 1, tasks: [a]}]", "samples: .*greater"),
        ("toolrl_suite: 1\nname: x\nenv: y\nof: 3\nsplit: dev\nstrata: [{share: 1, tasks: [a]}]", "split: .*'train'"),
        ("toolrl_suite: 1\nname: x\nenv: y\nof: 3\nstrata: [{share: 1, tasks: a}]", "strata.0.tasks: "),
    ],
)  # fmt: skip
def test_what_is_no_suite_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        Suite.read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        Suite.read(tmp_path / "missing.yaml")
