"""Promises about open questions: SQuAD's normalisation, the best of several answers, an honest cost."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, Score, Task, ToolCall, ToolResult
from toolrl.rewards import qa_reward, squad_exact_match, squad_normalise, token_f1

words = st.lists(st.sampled_from(["the", "a", "red", "Red,", "fox", "1912", "yes", "no", "(port)"]), max_size=6)
texts = words.map(" ".join)


def episode(answer: str | None, calls: int = 0) -> Episode:
    tagged = None if answer is None else f"<answer>{answer}</answer>"
    return Episode(tagged, tuple(ToolResult(ToolCall("search"), "") for _ in range(calls)))


def value(score: Score) -> float:
    assert score.value is not None
    return score.value


# ---- the measures


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("The  Quick, brown\nfox!", "quick brown fox"),
        ("an apple a day", "apple day"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),
        ("Anna Tavel (painter)", "anna tavel painter"),
        ("naïve Größe", "naïve größe"),
        ("the", "the"),
        ("The.", "the"),
        ("A.", "a"),
        ("a, a!", "a a"),
        ("...", "..."),
        ("“Émile”", "“émile”"),
        ("E\u0301mile", "émile"),
        ("東京。", "東京。"),
        ("C++", "c"),
        ("$5", "5"),
        ("", ""),
    ],
)
def test_normalisation_is_that_of_squad(text: str, normalised: str) -> None:
    assert squad_normalise(text) == normalised


@given(text=st.text(max_size=40))
def test_any_text_but_an_empty_one_matches_itself(text: str) -> None:
    normalised = squad_normalise(text)
    assert " ".join(normalised.split()) == normalised
    assert squad_exact_match(text, text) == (normalised != "") == bool(text.strip())


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("red fox", "the red fox", 1.0),
        ("red", "red fox", 2 / 3),
        ("a big red fox", "red fox", 0.8),
        ("fox fox", "fox", 2 / 3),
        ("dog", "red fox", 0.0),
        ("", "red fox", 0.0),
        ("yes it is", "yes", 0.0),
        ("no", "no way", 0.0),
        ("yes", "Yes.", 1.0),
        ("dog", ["cat", "big dog", "dog"], 1.0),
        ("red", ["green", "red fox"], 2 / 3),
    ],
)
def test_f1_is_that_of_hotpotqa_over_the_best_answer(answer: str, golds: str | list[str], expected: float) -> None:
    assert token_f1(answer, golds) == pytest.approx(expected)


@given(answer=texts, golds=st.lists(texts, min_size=1, max_size=3))
def test_an_exact_match_has_an_f1_of_one_and_all_metrics_stay_in_range(answer: str, golds: list[str]) -> None:
    f1 = token_f1(answer, golds)
    assert 0.0 <= f1 <= 1.0
    assert f1 == max(token_f1(answer, gold) for gold in golds)
    assert squad_exact_match(answer, golds) == any(squad_exact_match(answer, gold) for gold in golds)
    if squad_exact_match(answer, golds):
        assert f1 == 1.0


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("A.", "A", True), ("a", "A", True), ('"A"', "A", True), ("(A)", "A", True), ("The", "A", False),
        ("an", "A", False), ("B", "A", False), ("the a", "A", False), (".", "A", False), ("...", ".", False),
        ("Beyonce\u0301", "Beyonc\u00e9", True), ("Beyonce", "Beyonc\u00e9", False), ("the Who", "Who", True),
        ("The The", "the the", True), ("The", "The The", False),
    ],
)  # fmt: skip
def test_a_text_of_articles_is_an_answer_of_its_own(answer: str, gold: str, right: bool) -> None:
    assert squad_exact_match(answer, gold) == right
    assert squad_exact_match(gold, answer) == right


@pytest.mark.parametrize("answer", ["", " ", "\n"])
@pytest.mark.parametrize("gold", ["", "the", ".", "A"])
def test_an_empty_answer_is_never_right(answer: str, gold: str) -> None:
    assert not squad_exact_match(answer, gold)
    assert token_f1(answer, gold) == 0.0


# ---- the reward


@pytest.mark.parametrize("metric", ["em", "f1"])
def test_any_of_the_right_answers_earns_the_whole_reward(metric: str) -> None:
    reward = qa_reward(metric)  # type: ignore[arg-type]
    task = Task("t", "?", ["United Kingdom", "UK"])
    for answer in ("the U.K.", "united kingdom"):
        assert reward(task, episode(answer)).value == 1.0
    assert reward(Task("t", "?", "UK"), episode("uk")).value == 1.0
    assert reward(task, episode("France")).value == 0.0


def test_f1_gives_partial_credit_and_em_does_not_and_success_is_exact_either_way() -> None:
    task, answer = Task("t", "?", "red fox"), episode("red")
    exact, partial = qa_reward("em")(task, answer), qa_reward("f1")(task, answer)
    assert (exact.value, partial.value) == (0.0, pytest.approx(2 / 3))
    assert exact.parts == partial.parts == {"correct": 0.0, "f1": pytest.approx(2 / 3), "answered": 1.0}
    assert not partial.success


@pytest.mark.parametrize("final", [None, "red fox", "<answer>red</answer><answer>red fox</answer>"])
def test_only_a_single_tagged_final_answer_counts(final: str | None) -> None:
    score = qa_reward("f1")(Task("t", "?", "red fox"), Episode(final))
    assert (score.value, score.answer, score.parts["answered"]) == (0.0, None, 0.0)


@given(answer=texts, gold=texts.filter(str.strip), cost=st.floats(0.001, 2), calls=st.integers(0, 50))
def test_an_exact_answer_after_any_calls_beats_a_partly_right_one(
    answer: str, gold: str, cost: float, calls: int
) -> None:
    reward, task = qa_reward("f1", call_cost=cost), Task("t", "?", gold)
    right = value(reward(task, episode(gold, calls)))
    other = reward(task, episode(answer, 0))
    if not other.success:
        assert right >= 0.5 > value(other)


def test_calls_cost_only_exact_answers() -> None:
    reward, task = qa_reward("f1", call_cost=0.1), Task("t", "?", "red fox")
    assert [value(reward(task, episode("red fox", calls))) for calls in range(7)] == pytest.approx(
        [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.5]
    )
    assert [value(reward(task, episode("red", calls))) for calls in range(7)] == pytest.approx([1 / 3] * 7)


def test_invalid_settings_are_rejected_when_the_reward_is_made() -> None:
    with pytest.raises(ConfigError, match="metric must be 'em' or 'f1', got 'bleu'"):
        qa_reward("bleu")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="call cost must be >= 0"):
        qa_reward(call_cost=-0.1)
