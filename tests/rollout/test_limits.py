"""Promises about limits: each ends an episode for its own reason, and a cut turn is recognisable."""

from __future__ import annotations

from typing import Any

import pytest

from toolrl import Renderer, SamplingParams, StopReason, ToolFailure, call, say


def test_an_episode_ends_at_the_limit_of_turns(renderer: Renderer, make_player: Any, make_env: Any, play: Any) -> None:
    (trajectory,) = play(make_player(call("lookup", key="a")), make_env(turns=3))
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.value) == (StopReason.TURNS, 3, 0.0)
    assert trajectory.completion_ids[-1] != renderer.end_of_turn_id


def test_calls_beyond_the_limit_are_refused_and_the_model_may_still_answer(
    make_player: Any, make_env: Any, play: Any
) -> None:
    policy = make_player(call("lookup", key="a"), call("lookup", key="b"), say("4"))
    (trajectory,) = play(policy, make_env(tool_calls=1))
    assert [result.failure for result in trajectory.tool_results] == [None, ToolFailure.LIMIT]
    assert (trajectory.stop, trajectory.score.value) == (StopReason.ANSWER, 1.0)


@pytest.mark.parametrize(("turn_tokens", "max_tokens"), [(7, 4096), (512, 7)], ids=["environment", "sampling"])
def test_a_turn_is_cut_at_the_limit_of_its_tokens(
    make_player: Any, make_env: Any, play: Any, turn_tokens: int, max_tokens: int
) -> None:
    env, sampling = make_env(turn_tokens=turn_tokens), SamplingParams(max_tokens=max_tokens)
    (trajectory,) = play(make_player(say("a long answer")), env, sampling=sampling)
    assert (trajectory.stop, len(trajectory.completion_ids)) == (StopReason.TOKENS, 7)
    assert (trajectory.turns[0].sample.finish, trajectory.score.value) == ("length", 0.0)


def test_an_episode_cut_at_any_limit_of_tokens_keeps_to_it_and_does_not_end_on_an_end_of_turn(
    renderer: Renderer, make_player: Any, make_env: Any, play: Any
) -> None:
    policy = make_player(call("lookup", key="a"), say("4"))
    (whole,) = play(policy, make_env())
    length, first_turn = len(whole.completion_ids), len(whole.turns[0].sample.token_ids)
    for limit in range(1, length):
        (cut,) = play(policy, make_env(completion_tokens=limit))
        assert (cut.stop, cut.score.value) == (StopReason.TOKENS, 0.0)
        assert cut.completion_ids == whole.completion_ids[: len(cut.completion_ids)]
        # Ending on an end-of-turn token would look complete: one token more after the turn, one less elsewhere.
        assert cut.completion_ids[-1] != renderer.end_of_turn_id
        ends_turn = whole.completion_ids[limit - 1] == renderer.end_of_turn_id
        assert len(cut.completion_ids) - limit == (0 if not ends_turn else 1 if limit == first_turn else -1)
    (exact,) = play(policy, make_env(completion_tokens=length))
    assert (exact.stop, exact.completion_ids) == (StopReason.ANSWER, whole.completion_ids)
