"""Promises about comparing two trajectories: both sides are complete, and differences are marked."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, strategies as st

from toolrl import Trajectory
from toolrl.view.diff import diff_texts, diff_trajectories


@given(st.text("ab c\n", max_size=80), st.text("ab c\n", max_size=80))
def test_each_side_is_its_text_and_equal_pieces_are_equal(left: str, right: str) -> None:
    found = diff_texts("x", left, right)
    assert found.left is not None
    assert found.right is not None
    assert "".join(piece.text for piece in found.left) == left
    assert "".join(piece.text for piece in found.right) == right
    same = ["".join(piece.text for piece in side if piece.kind == "same") for side in (found.left, found.right)]
    assert same[0] == same[1]
    assert found.is_same == (left == right)


def test_different_words_are_marked() -> None:
    found = diff_texts("x", "the answer is 4", "the answer is 5")
    assert [(piece.kind, piece.text) for piece in found.left or ()] == [("same", "the answer is "), ("del", "4")]
    assert [(piece.kind, piece.text) for piece in found.right or ()] == [("same", "the answer is "), ("ins", "5")]


def test_long_texts_are_compared_by_lines_and_are_cut() -> None:
    text = "".join(f"line {number} of words\n" for number in range(2_000))
    found = diff_texts("x", text, text.replace("words", "other", 1))
    assert found.cut
    assert [piece.kind for piece in found.left or ()] == ["del", "same"]


def test_the_first_different_token_is_found_apart_from_different_texts(play: Callable[..., Trajectory]) -> None:
    a, b = play(), play(said="<answer>5</answer>", output="5")
    found = diff_trajectories(a, b)
    assert found.first_difference is None  # the texts differ, the tokens do not
    titles = ["system", "user", "turn 1, assistant", "turn 1, tools", "turn 2, assistant"]
    assert [(text.title, text.is_same) for text in found.texts] == list(
        zip(titles, [True, True, True, False, False], strict=True)
    )


def test_a_turn_that_only_one_has_has_no_counterpart(play: Callable[..., Trajectory]) -> None:
    a = play()
    b = play(turns=a.turns[:1])
    last = diff_trajectories(a, b).texts[-1]
    assert (last.title, last.right) == ("turn 2, assistant", None)
