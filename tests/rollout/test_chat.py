"""Promises about episodes that a chat policy plays: no tokens are invented, limits hold, costs are recorded."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.policy.chat_server import Answer, says, serving
from toolrl import (
    Limits,
    Message,
    Renderer,
    RetryPolicy,
    RolloutEngine,
    RolloutRequest,
    SamplingParams,
    StopReason,
    ToolEnv,
    ToolFailure,
    Trajectory,
    TrajectoryWriter,
    call,
    read_trajectories,
    say,
)
from toolrl.errors import ConfigError
from toolrl.policy import ChatReply, Endpoint, OpenAIPolicy, Prices, ScriptedChatPolicy, ScriptedPolicy
from toolrl.support.usage import count_usage

QUICK = RetryPolicy(requests_per_second=None, first_delay_seconds=0.0, attempts=2)
Play = Callable[..., Trajectory]


@pytest.fixture
def play_chat() -> Play:
    def play(policy: Any, env: ToolEnv, **settings: Any) -> Trajectory:
        settings = {"backoff_seconds": 0, "retries": 0, **settings}
        try:
            (trajectory,) = RolloutEngine(policy, None, **settings).run([RolloutRequest(env, env.tasks[0], "env", "a")])
        finally:
            policy.close()
        return trajectory

    return play


def openai(url: str) -> OpenAIPolicy:
    return OpenAIPolicy(Endpoint("m", url, retry_policy=QUICK, timeout_seconds=5.0, prices=Prices(1.0, 2.0)))


def test_an_episode_is_played_and_recorded_without_tokens(
    play_chat: Play, make_env: Callable[..., ToolEnv], tmp_path: Path
) -> None:
    turn = says("looking", ("lookup", '{"key": "a"}'), ("lookup", '{"key"'), reasoning="why?", usage=(50, 20, 0))
    with serving(turn, says("4", usage=(90, 5, 0))) as server:
        trajectory = play_chat(openai(server.url), make_env())
        assert [message["role"] for message in server.requests[1]["messages"]] == [
            "user", "assistant", "tool", "tool",
        ]  # fmt: skip
        assert server.requests[1]["messages"][2] == {
            "role": "tool", "content": "the value of a", "tool_call_id": "c0",
        }  # fmt: skip
        assert server.requests[0]["tools"][0]["function"]["name"] == "lookup"
    assert (trajectory.score.value, trajectory.stop, trajectory.error) == (1.0, StopReason.ANSWER, "")
    assert [result.failure for result in trajectory.tool_results] == [None, ToolFailure.MALFORMED]
    assert trajectory.turns[0].message.thinking == "why?"
    assert not trajectory.has_tokens
    assert (trajectory.prompt_ids, trajectory.completion_ids, trajectory.mask, trajectory.logprobs) == ([], [], [], [])
    assert trajectory.usage == {
        "model_requests": 2, "model_input_tokens": 140, "model_output_tokens": 25,
        "model_dollars": pytest.approx((140 + 50) / 1e6),
    }  # fmt: skip
    with TrajectoryWriter(tmp_path / "t.jsonl") as writer:
        writer.write(trajectory)
    (read,) = read_trajectories(tmp_path / "t.jsonl")
    assert read.messages == trajectory.messages
    assert not read.has_tokens


def test_the_cost_of_failed_attempts_is_counted(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    turn, down = says(None, ("lookup", '{"key": "a"}'), usage=(50, 20, 0)), Answer(status=500)
    with serving(turn, down, down, says("4", usage=(40, 5, 0))) as server:
        trajectory = play_chat(openai(server.url), make_env(), retries=1)
    assert (trajectory.score.value, trajectory.attempts) == (1.0, 2)
    assert trajectory.usage["model_input_tokens"] == 90
    assert (trajectory.usage["model_requests"], trajectory.usage["model_retries"]) == (4, 1)


def test_a_model_that_is_down_leaves_an_episode_unscored(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    with serving(Answer(status=503)) as server:
        trajectory = play_chat(openai(server.url), make_env())
    assert (trajectory.score.value, trajectory.stop) == (None, StopReason.FAULT)
    assert trajectory.error.startswith("PolicyFault: a turn: the model failed 2 times")


def test_a_wrong_key_stops_the_run(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    with serving(Answer(status=401)) as server, pytest.raises(ConfigError, match="check base_url, model and api_key"):
        play_chat(openai(server.url), make_env())


class Counting:
    """Makes calls, and counts tokens as a server would: 10 per turn, 10 per observation."""

    def __init__(self, seconds: float = 0.0):
        self.asked: list[int] = []
        self._seconds = seconds

    async def reply(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], sampling: SamplingParams
    ) -> ChatReply:
        self.asked.append(sampling.max_tokens)
        return ChatReply(call("lookup", key="a"), "stop", 10 * len(messages), 10, self._seconds)

    def close(self) -> None: ...


def test_tokens_are_limited_as_the_server_counts_them(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    policy = Counting()
    trajectory = play_chat(
        policy, make_env(completion_tokens=45, turn_tokens=40), sampling=SamplingParams(max_tokens=100)
    )
    # After three turns and two observations 50 are used.
    assert policy.asked == [40, 35, 15]
    assert (trajectory.stop, len(trajectory.turns)) == (StopReason.TOKENS, 3)


def test_turns_are_limited(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    trajectory = play_chat(ScriptedChatPolicy([call("lookup", key="a")]), make_env(turns=2))
    assert (trajectory.stop, len(trajectory.turns), trajectory.score.value) == (StopReason.TURNS, 2, 0.0)


class Delay(threading.Event):
    """A gate that opens after a while."""

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(0.2)
        return True


def test_a_queue_or_a_slow_model_behind_a_chat_api_ends_no_episode(make_env: Callable[..., ToolEnv]) -> None:
    env, one_at_a_time = make_env(), dataclasses.replace(QUICK, max_concurrent=1, deadline_seconds=0.5)
    with serving(dataclasses.replace(says("4"), gate=Delay())) as server:
        policy = OpenAIPolicy(Endpoint("m", server.url, retry_policy=one_at_a_time))
        # The last one waits for 1.4 seconds, and no answer comes within the engine's timeout.
        engine = RolloutEngine(policy, None, retries=0, policy_timeout_seconds=0.1)
        trajectories = engine.run([RolloutRequest(env, env.tasks[0])] * 8)
        policy.close()
    assert [trajectory.score.value for trajectory in trajectories] == [1.0] * 8
    assert server.most_at_once == 1


def test_a_cut_turn_is_not_an_answer(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    with serving(says("4", finish="length")) as server:
        trajectory = play_chat(openai(server.url), make_env())
    assert (trajectory.stop, trajectory.score.value) == (StopReason.TOKENS, 0.0)
    assert trajectory.turns[0].sample.finish == "length"


def test_a_policy_with_tokens_needs_a_renderer(make_env: Callable[..., ToolEnv], renderer: Renderer) -> None:
    env = make_env()
    requests = [RolloutRequest(env, env.tasks[0])]
    with pytest.raises(ConfigError, match="needs a renderer"):
        RolloutEngine(ScriptedPolicy([[1]]), None).run(requests)
    # Both kinds play in the same run.
    chat = RolloutRequest(env, env.tasks[0], policy=ScriptedChatPolicy([say("4")]))
    first, second = RolloutEngine(ScriptedPolicy([renderer.assistant_ids(say("4"))]), renderer).run([*requests, chat])
    assert (first.has_tokens, second.has_tokens) == (True, False)
    assert first.score.value == second.score.value == 1.0


def test_what_a_reward_uses_is_in_the_trajectory(play_chat: Play, make_env: Callable[..., ToolEnv]) -> None:
    def reward(task: Any, episode: Any) -> float:
        count_usage("judge_requests", 2)
        return 1.0

    env = ToolEnv(tasks=make_env().tasks, reward=reward, limits=Limits())
    assert play_chat(ScriptedChatPolicy([say("4")]), env).usage == {"judge_requests": 2}
