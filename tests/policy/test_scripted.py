"""Promises of the scripted policy: it says its lines in order, whatever others say."""

from __future__ import annotations

from concurrent.futures import CancelledError

import pytest

from toolrl.policy import ScriptedPolicy
from toolrl.types import Sample, SamplingParams

TURNS = [[10, 11, 1], [10, 12, 1], [13, 1]]


def say(policy: ScriptedPolicy, prompt_ids: list[int], max_tokens: int = 100) -> Sample:
    return policy.submit(prompt_ids, SamplingParams(max_tokens=max_tokens)).result(timeout=10)


def test_turns_come_in_order_whatever_is_between_them() -> None:
    policy, ids = ScriptedPolicy(TURNS), [5, 6]
    for turn in [*TURNS, TURNS[-1]]:  # the last one repeats
        sample = say(policy, ids)
        assert (sample.token_ids, sample.logprobs, sample.finish) == (turn, [0.0] * len(turn), "stop")
        ids += [*turn, 7, 10, 8]


def test_episodes_can_be_retried_and_interleaved() -> None:
    policy = ScriptedPolicy(TURNS)
    once, again = [5, *TURNS[0], 7], [5, *TURNS[0], 8]
    assert [say(policy, [5]).token_ids for _ in "ab"] == [TURNS[0]] * 2
    assert [say(policy, ids).token_ids for ids in (once, again)] == [TURNS[1]] * 2
    assert say(policy, [*once, *TURNS[1], 8]).token_ids == TURNS[2]
    assert say(policy, [5]).token_ids == TURNS[0]
    assert say(policy, again).token_ids == TURNS[1]


def test_a_user_who_says_what_it_is_about_to_say_does_not_confuse_it() -> None:
    policy, ids = ScriptedPolicy(TURNS), [5, *TURNS[0], *TURNS[1], *TURNS[2], 9]
    for turn in TURNS:
        assert say(policy, ids).token_ids == turn
        ids += [*turn, 7, *TURNS[1], *TURNS[2], 9]


def test_a_repeated_turn_is_played_twice() -> None:
    policy = ScriptedPolicy([[10, 1], [10, 1], [11, 1]])
    assert [say(policy, [5] + [10, 1, 7] * said).token_ids for said in range(3)] == [[10, 1], [10, 1], [11, 1]]


def test_a_function_may_decide_from_the_tokens_so_far() -> None:
    policy = ScriptedPolicy(lambda ids: [len(ids), 1])
    assert [say(policy, [5] * length).token_ids for length in (3, 9)] == [[3, 1], [9, 1]]


def test_a_turn_is_cut_at_max_tokens() -> None:
    policy = ScriptedPolicy(TURNS)
    assert say(policy, [5], 2) == Sample([10, 11], [0.0, 0.0], "length")
    assert say(policy, [5], 3).finish == "stop"


def test_a_delayed_turn_can_be_cancelled() -> None:
    future = ScriptedPolicy(TURNS, seconds=60).submit([5], SamplingParams())
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result()


def test_a_delayed_turn_arrives() -> None:
    assert say(ScriptedPolicy(TURNS, seconds=0.01), [5]).token_ids == TURNS[0]
