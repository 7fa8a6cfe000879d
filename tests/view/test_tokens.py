"""Promises about the token view: ids are exact, and each token has its own statistics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from toolrl import Trajectory
from toolrl.tiny import PATH
from toolrl.view.tokens import Vocabulary, token_count, token_sections


def test_every_token_is_shown_once_with_its_position_and_its_values(play: Callable[..., Trajectory]) -> None:
    trajectory = play()
    sections = list(token_sections(trajectory, None, advantage=0.7))
    assert [section.title for section in sections] == [
        "prompt", "turn 1, sampled", "turn 1, observed", "turn 2, sampled",
    ]  # fmt: skip
    completion = [token for section in sections[1:] for token in section.tokens]
    assert [token.id for token in completion] == trajectory.completion_ids
    assert [token.position for token in completion] == list(range(len(completion)))
    assert [token.logprob is not None for token in completion] == [bool(bit) for bit in trajectory.mask]
    assert [token.advantage for token in completion] == [0.7 if bit else None for bit in trajectory.mask]


def test_the_entropy_proxy_is_the_mean_surprisal_around_a_token(play: Callable[..., Trajectory]) -> None:
    tokens = next(s for s in token_sections(play(), None) if s.title == "turn 1, sampled").tokens
    assert tokens[1].entropy == pytest.approx((0.001 + 0.5 + 2.0 + 6.0) / 4)
    assert tokens[3].entropy == pytest.approx((0.5 + 2.0 + 6.0) / 3)


def test_colours_follow_the_values(play: Callable[..., Trajectory]) -> None:
    sampled = next(s for s in token_sections(play(), None, advantage=-3.0) if s.title == "turn 1, sampled").tokens
    assert [token.classes.split()[1] for token in sampled] == ["l0", "l4", "l6", "l8"]
    assert sampled[0].classes.split()[3] == "a-4"


@pytest.mark.parametrize("start", range(10))
def test_pages_of_the_tokens_add_up_to_the_whole(play: Callable[..., Trajectory], start: int) -> None:
    trajectory = play()
    whole = [(s.title, t) for s in token_sections(trajectory, None) for t in s.tokens]
    assert len(whole) == token_count(trajectory)
    piece = [(s.title, t) for s in token_sections(trajectory, None, start=start, count=3) for t in s.tokens]
    assert piece == whole[start : start + 3]


def test_texts_come_from_the_runs_own_tokenizer(tmp_path: Path) -> None:
    assert Vocabulary.of_run(tmp_path) is None
    (tmp_path / "config.yaml").write_text("model_name_or_path: tiny\n")
    vocabulary = Vocabulary.of_run(tmp_path)
    assert vocabulary is not None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_bytes((PATH / "tokenizer.json").read_bytes())
    (tmp_path / "config.yaml").unlink()
    assert Vocabulary.of_run(tmp_path) is not None
    (tmp_path / "model" / "tokenizer.json").write_text('{"torn')
    assert Vocabulary.of_run(tmp_path) is None


def test_texts_of_tokens_join_to_the_text() -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(PATH / "tokenizer.json"))
    vocabulary = Vocabulary(PATH / "tokenizer.json")
    text = "What is 4574 + 0?\nUse a tool."
    assert "".join(map(vocabulary.text, tokenizer.encode(text, add_special_tokens=False).ids)) == text


def test_an_id_that_is_not_in_the_vocabulary_has_no_text() -> None:
    vocabulary = Vocabulary(PATH / "tokenizer.json")
    assert (vocabulary.text(10**6), vocabulary.name(10**6)) == ("", "")
