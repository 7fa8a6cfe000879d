"""What a comparison of a task's episodes adds to their scores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.rewards.test_judge import QUICK, Reply, Server, says, verdict
from toolrl import ConfigError, Episode, Score, Task, ToolCall, ToolResult
from toolrl.rewards import JudgeFault, JudgeSettings, RankingJudge, diversity, prefer, relative_cost
from toolrl.rewards.group import GroupTerm

TASK = Task("sky", "Why is the sky blue?", "scattering")
ANSWERS = ["air scatters blue light more", "it reflects the sea", "blue light is scattered", "because"]


def episode(answer: str | None = "", score: Score | float = 1.0, calls: int = 0) -> Episode:
    score = score if isinstance(score, Score) else Score(score)
    return Episode(answer, [ToolResult(ToolCall("look", {}), "")] * calls, score=score)


def final(term: GroupTerm, *episodes: Episode, weight: float = 1.0) -> list[Score]:
    return list(asyncio.run(prefer({"term": (weight, term)})(TASK, episodes)))  # type: ignore[arg-type]


def numbers(term: Any, *episodes: Episode) -> list[float]:
    found = term(TASK, episodes)
    return list(asyncio.run(found) if asyncio.iscoroutine(found) else found)


def test_right_answers_are_ranked_and_stay_above_wrong_ones() -> None:
    wrong = Score(0.6, {"correct": 0.0})
    seen: list[str | None] = []

    def rising(task: Task, episodes: Sequence[Episode]) -> list[float]:
        seen.extend(episode.answer for episode in episodes)
        return [index / (len(episodes) - 1) for index in range(len(episodes))]

    scores = final(rising, episode("a"), episode("no", wrong), episode("b"), episode("c"), weight=3.0)
    assert seen == ["a", "b", "c"]
    assert [score.value for score in scores] == pytest.approx([0.7, 0.6, 0.85, 1.0])
    assert scores[1] == wrong
    assert (scores[0].success, scores[0].parts) == (True, {"correct": 1.0, "term": 0.0})


def test_without_a_right_answer_nothing_changes_and_no_term_is_asked() -> None:
    def never(task: Task, episodes: Sequence[Episode]) -> list[float]:
        raise AssertionError

    assert final(never, episode("a", 0.0), episode("b", -1.0)) == [Score(0.0), Score(-1.0)]


def test_a_right_answer_that_earns_less_than_a_wrong_one_keeps_its_score() -> None:
    scores = final(lambda task, episodes: [0.0], episode("a", 0.5), episode("b", Score(0.9, {"correct": 0.0})))
    assert [score.value for score in scores] == [0.5, 0.9]


def test_a_term_that_cannot_tell_leaves_that_episode_unscored() -> None:
    first, second = final(lambda task, episodes: [None, 1.0], episode("a"), episode("b"))
    assert (first.value, first.reason, second.value) == (None, "no value for term", 1.0)


@pytest.mark.parametrize("returned", [[0.5], [0.5, 1.5], [0.5, "high"], [float("nan"), 0.5]])
def test_a_term_that_returns_something_else_is_named(returned: Any) -> None:
    with pytest.raises(ConfigError, match="the term 'term' must return a number within"):
        final(lambda task, episodes: returned, episode("a"), episode("b"))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"cost": (0.0, relative_cost())}, "the weight of 'cost' must be positive"),
        ({"gold": (1.0, relative_cost())}, "a term cannot be called 'gold'"),
        ({"cost": (1.0, "cheap")}, "must be a function"),
    ],
)
def test_invalid_terms_are_refused(terms: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        prefer(terms)


def test_cost_is_relative_to_the_cheapest_episode() -> None:
    assert numbers(relative_cost(), episode(calls=3), episode(calls=1), episode(calls=1)) == [0.5, 1.0, 1.0]
    assert numbers(relative_cost(), episode(calls=9)) == [1.0]


def test_diversity_is_the_mean_share_of_words_not_in_common() -> None:
    texts = episode("red green"), episode("Green, red!"), episode("blue")
    assert numbers(diversity(), *texts) == [0.5, 0.5, 1.0]
    assert numbers(diversity(), texts[0]) == [1.0]
    assert numbers(diversity(), episode(""), episode(None)) == [0.0, 0.0]


@contextmanager
def ranking(judge: Any, **settings: Any) -> Iterator[tuple[RankingJudge, Server]]:
    server = Server(judge)
    made = RankingJudge(JudgeSettings(server.url, "m", retry_policy=QUICK, **settings), "The better cause wins.")
    try:
        yield made, server
    finally:
        made.close()
        server.http.shutdown()
        server.http.server_close()


def longer(answers: dict[str, Any]) -> Reply:
    lengths = len(answers["first"]), len(answers["second"])
    return verdict(float(lengths[0] > lengths[1]))


def test_a_judge_that_prefers_a_position_prefers_no_answer() -> None:
    with ranking(lambda answers: verdict(1)) as (judge, server):
        assert numbers(judge, *map(episode, ANSWERS)) == [0.5] * 4
        assert len(server.requests) == 12


def test_a_judge_ranks_the_answers_whatever_their_order() -> None:
    with ranking(longer) as (judge, _):
        for answers in (ANSWERS, ANSWERS[::-1]):
            found = dict(zip(answers, numbers(judge, *map(episode, answers)), strict=True))
            assert sorted(found, key=found.__getitem__) == sorted(ANSWERS, key=len)
            assert sorted(found.values()) == pytest.approx([0, 1 / 3, 2 / 3, 1])


def test_equal_missing_and_overlong_answers_are_not_sent() -> None:
    with ranking(longer) as (judge, server):
        episodes = [episode("good"), episode("good"), episode(None), episode("x" * 20_001)]
        assert numbers(judge, *episodes) == pytest.approx([2.5 / 3, 2.5 / 3, 0.5 / 3, 0.5 / 3])
        assert numbers(judge, episode("alone")) == [1.0]
        assert server.requests == []


def test_a_judge_without_a_verdict_is_a_fault() -> None:
    with ranking(lambda answers: says("Both are fine.")) as (judge, _), pytest.raises(JudgeFault):
        numbers(judge, episode("one"), episode("two"))
