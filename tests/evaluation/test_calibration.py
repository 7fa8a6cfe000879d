"""Promises about calibration: figures are those of scikit-learn where it has them; over-confidence is told apart."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from toolrl import Message, Sample, Score, StopReason, Trajectory
from toolrl.errors import ConfigError
from toolrl.evaluation import calibrate, calibration, calibration_table, risk_coverage
from toolrl.trajectory import Turn


def draw(count: int, shift: float = 0.0, seed: int = 0) -> tuple[Any, Any]:
    """Confidences that lie `shift` above the true chances, and what was right."""
    rng = numpy.random.default_rng(seed)
    chances = rng.uniform(0, 1 - shift, count)
    return chances + shift, (rng.random(count) < chances).astype(float)


def test_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    curves = pytest.importorskip("sklearn.calibration")
    stated, right = draw(500, 0.1)
    found = calibration(stated, right)
    assert found.brier == pytest.approx(metrics.brier_score_loss(right, stated))
    assert found.auroc == pytest.approx(metrics.roc_auc_score(right, stated))
    accuracy, confidence = curves.calibration_curve(right, stated, n_bins=10, strategy="quantile")
    assert [one.accuracy for one in found.bins] == pytest.approx(accuracy, abs=0.03)
    assert [one.confidence for one in found.bins] == pytest.approx(confidence, abs=0.01)
    assert found.ece == pytest.approx(numpy.abs(accuracy - confidence).mean(), abs=0.01)


def test_the_parts_of_the_brier_score_add_up() -> None:
    # Exact where a bin has a single confidence.
    rng = numpy.random.default_rng(0)
    stated = rng.choice([0.1, 0.4, 0.9], 300)
    found = calibration(stated, (rng.random(300) < 0.5).astype(float))
    assert [one.confidence for one in found.bins] == pytest.approx([0.1, 0.4, 0.9])
    assert found.brier == pytest.approx(found.reliability - found.resolution + found.uncertainty)


def test_over_confidence_is_told_from_chance() -> None:
    honest, boastful = calibration(*draw(400)), calibration(*draw(400, 0.3))
    assert honest.ece < 2 * honest.ece_by_chance
    assert boastful.ece > 4 * boastful.ece_by_chance
    assert boastful.ece == pytest.approx(0.3, abs=0.05)
    assert boastful.confidence - boastful.accuracy > 0.2
    sure = calibration([1.0] * 50, [1.0] * 25 + [0.0] * 25)
    assert (sure.ece, sure.ece_by_chance, sure.resolution, sure.auroc) == (0.5, 0.0, 0.0, 0.5)


def test_the_interval_of_the_error_of_over_confident_answers_covers() -> None:
    intervals = [calibration(*draw(150, 0.3, seed)).ece_interval for seed in range(60)]
    assert numpy.mean([low <= 0.3 <= high for low, high in intervals]) > 0.85


def test_samples_of_a_task_are_drawn_together() -> None:
    stated, right = draw(40, 0.3)
    apart = calibration(numpy.repeat(stated, 10), numpy.repeat(right, 10))
    together = calibration(
        numpy.repeat(stated, 10), numpy.repeat(right, 10), tasks=[str(n) for n in range(40) for _ in range(10)]
    )
    widths = [one.ece_interval[1] - one.ece_interval[0] for one in (apart, together)]
    assert widths[1] > 2 * widths[0]


def test_abstaining_lowers_the_risk_where_confidence_tells_and_ties_gain_nothing() -> None:
    curve = dict(risk_coverage([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 1]))
    assert curve == pytest.approx({0.25: 0.0, 0.5: 0.0, 0.75: 1 / 3, 1.0: 0.25})
    for order in ([1, 0, 1, 0], [0, 1, 0, 1], [1, 1, 0, 0]):
        assert [risk for _, risk in risk_coverage([0.5] * 4, order)] == [0.5] * 4


@pytest.mark.parametrize(
    ("stated", "right", "message"),
    [
        ([], [], "got 0 and 0"),
        ([0.5], [1, 0], "got 1 and 2"),
        ([1.5], [1], "got 1.5"),
        ([float("nan")], [1], "got nan"),
    ],
)
def test_what_is_no_confidence_is_refused(stated: list[float], right: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        calibration(stated, right)


def episode(task: str, reward: float | None, answer: str | None, confidence: float | None = None) -> Trajectory:
    parts = {} if reward is None else {"correct": reward, **({} if confidence is None else {"confidence": confidence})}
    turns = (
        Turn(Sample([5], [-3.0]), Message("assistant", "thinking")),
        Turn(Sample([5, 6, 7], [-0.1, -0.3, 0.0], forced=(2, 3)), Message("assistant", "answer")),
    )
    prompt = (Message("user", "?"),)
    return Trajectory(
        f"{task}/{answer}", "a/B-v0", task, prompt, [1], turns, Score(reward, parts, answer), StopReason.ANSWER
    )


def test_confidences_come_from_what_was_said_from_tokens_or_from_agreement() -> None:
    episodes = [
        episode("t1", 1.0, "4", 0.9), episode("t1", 1.0, " 4."), episode("t1", 0.0, "5", 0.4),
        episode("t2", 0.0, None, 0.2), episode("t2", None, "7"), episode("t2", 0.0, None),
    ]  # fmt: skip
    stated, tokens, agreed = (calibrate(episodes, source) for source in ("stated", "tokens", "agreement"))
    assert stated is not None
    assert tokens is not None
    assert agreed is not None
    assert (stated.count, stated.missing, stated.accuracy) == (3, 2, pytest.approx(1 / 3))
    assert (tokens.count, tokens.confidence) == (5, pytest.approx(numpy.exp(-0.2)))
    assert [one.confidence for one in agreed.bins] == [0.0, 0.5]  # no answer agrees with no other
    assert calibrate(episodes[4:], "stated") is None
    with pytest.raises(ConfigError, match="the sources are stated, tokens, agreement"):
        calibrate(episodes, "mood")


def test_the_table_says_how_many_stated_nothing() -> None:
    found = calibrate([episode("t1", 1.0, "4", 0.9), episode("t2", 0.0, "4")])
    assert found is not None
    cells = [next(iter(column.cells)) for column in calibration_table({"PythonMath": found}).columns]
    assert cells[:5] == ["PythonMath", "1", "1", "1.00", "0.90"]
