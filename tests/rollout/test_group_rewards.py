"""Rewards that look at all episodes of a task together, wherever episodes are scored."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolrl import (
    ConfigError,
    Episode,
    InfrastructureError,
    Limits,
    RolloutEngine,
    RolloutRequest,
    SandboxFault,
    Score,
    Task,
    ToolEnv,
    Trajectory,
    call,
    say,
)
from toolrl.audit import check_environment
from toolrl.evaluation import evaluate
from toolrl.evaluation.regrade import regrade
from toolrl.policy import ScriptedChatPolicy
from toolrl.support.usage import count_usage

TASK = Task("sum", "2 + 2?", "4")


def crash() -> str:
    """Fail through no fault of the model's."""
    raise SandboxFault("sandbox gone")


def look() -> str:
    """Look."""
    return "seen"


def exact(task: Task, episode: Episode) -> Score:
    return Score(float(episode.answer == task.answer), {"form": 1.0}, episode.answer)


def tenths(task: Task, episodes: Sequence[Episode]) -> list[float]:
    """The score of each, and a tenth for each other that is in the group."""
    return [(episode.score.value if episode.score else 0) + len(episodes) / 10 - 0.1 for episode in episodes]  # type: ignore[operator]


def make(group_reward: Any = tenths, reward: Any = exact, **settings: Any) -> ToolEnv:
    return ToolEnv(
        tasks=[TASK], tools=[crash, look], reward=reward, group_reward=group_reward,
        oracle=lambda task: [say(task.answer)], **settings,
    )  # fmt: skip


def play(env: ToolEnv, *scripts: list[Any], **settings: Any) -> list[Trajectory]:
    requests = [
        RolloutRequest(env, TASK, "Sum", str(place), ScriptedChatPolicy(script), group="g")
        for place, script in enumerate(scripts)
    ]
    return RolloutEngine(ScriptedChatPolicy([]), None, retries=0, **settings).run(requests)


RIGHT, WRONG, FAULTY = [say("4")], [say("5")], [call("crash")]


def values(trajectories: Sequence[Trajectory]) -> list[float | None]:
    return [trajectory.score.value for trajectory in trajectories]


def test_the_group_has_the_last_word_and_a_number_leaves_success_as_it_was() -> None:
    first, second = play(make(lambda task, episodes: [0.25, 0.5]), RIGHT, WRONG)
    assert first.score == Score(0.25, {"correct": 1.0, "form": 1.0}, "4")
    assert second.score == Score(0.5, {"correct": 0.0, "form": 1.0}, "5")


async def of_scores(task: Task, episodes: Sequence[Episode]) -> list[Score]:
    return [Score(0.5, {"rank": 1.0}) for _ in episodes]


def test_a_group_reward_may_be_async_and_return_scores() -> None:
    assert [t.score for t in play(make(of_scores), RIGHT, WRONG)] == [Score(0.5, {"rank": 1.0})] * 2


def test_the_group_sees_scored_members_without_their_state() -> None:
    seen: list[Episode] = []

    def remember(task: Task, episodes: Sequence[Episode]) -> list[Score | None]:
        seen.extend(episodes)
        return [episode.score for episode in episodes]

    played = play(make(remember), [call("look"), say("4")], FAULTY, WRONG)
    assert values(played) == [1.0, None, 0.0]
    assert [(e.answer, e.tool_calls, e.score and e.score.value, dict(e.state)) for e in seen] == [
        ("4", 1, 1.0, {}), ("5", 0, 0.0, {}),
    ]  # fmt: skip
    assert "sandbox gone" in played[1].score.reason


def test_episodes_are_recorded_with_their_final_scores_when_all_have_ended() -> None:
    recorded: list[Trajectory] = []
    played = play(make(), RIGHT, WRONG, FAULTY, on_trajectory=recorded.append)
    assert recorded == played
    assert values(recorded) == pytest.approx([1.1, 0.1, None])


def fail(task: Task, episodes: Sequence[Episode]) -> list[float]:
    raise InfrastructureError("the judge is down")


def dawdle(task: Task, episodes: Sequence[Episode]) -> list[float]:
    time.sleep(30)
    return []


@pytest.mark.parametrize(("broken", "reason"), [(fail, "the judge is down"), (dawdle, "has not ended within")])
def test_a_group_whose_judge_fails_is_unscored(broken: Any, reason: str) -> None:
    for played in play(make(broken, limits=Limits(reward_seconds=0.1)), RIGHT, WRONG):
        assert played.score.value is None
        assert reason in played.score.reason


@pytest.mark.parametrize("returned", [[1.0], 1.0, None, ["high", "low"], [float("inf"), 1.0]])
def test_a_wrong_result_names_the_environment_and_the_task(returned: Any) -> None:
    with pytest.raises((ConfigError, TypeError, ValueError)) as raised:
        play(make(lambda task, episodes: returned), RIGHT, WRONG)
    notes = "\n".join(raised.value.__notes__)
    assert "environment 'Sum', task 'sum'" in notes
    assert "group_reward" in notes


def test_none_leaves_one_member_unscored() -> None:
    assert values(play(make(lambda task, episodes: [None, 0.5]), RIGHT, WRONG)) == [None, 0.5]


def test_what_the_comparison_used_is_shared_by_the_members() -> None:
    def judged(task: Task, episodes: Sequence[Episode]) -> list[float]:
        count_usage("judge_requests", 6)
        return [1.0] * len(episodes)

    assert [dict(t.usage) for t in play(make(judged), RIGHT, WRONG, RIGHT)] == [{"judge_requests": 2.0}] * 3


def test_an_episode_by_itself_is_a_group_of_one() -> None:
    env = make(lambda task, episodes: [0.5 * len(episodes)] * len(episodes))
    env.reset(seed=0)
    assert env.step("4")[1] == 0.5
    assert values(play(env, RIGHT)) == [0.5]
    alone = [RolloutRequest(env, TASK, policy=ScriptedChatPolicy(RIGHT)) for _ in range(2)]
    assert values(RolloutEngine(ScriptedChatPolicy([]), None).run(alone)) == [0.5, 0.5]


def test_evaluation_compares_the_samples_of_a_task() -> None:
    report = evaluate({"Sum": make()}, ScriptedChatPolicy(RIGHT), None, samples=3)["Sum"]
    assert (report.reward, report.success) == (pytest.approx(1.2), 1.0)


def of(env: ToolEnv) -> Callable[[Trajectory], ToolEnv]:
    return lambda trajectory: env


def test_regrading_compares_the_episodes_that_were_played_together() -> None:
    played = play(make(None), RIGHT, WRONG, FAULTY)
    results = list(regrade(played, of(make())))
    assert values([result.trajectory for result in results]) == pytest.approx([1.1, 0.1, None])
    assert [result.problem for result in results] == ["", "", "it ended in a fault"]


def test_a_group_of_which_an_episode_cannot_be_replayed_keeps_its_scores() -> None:
    played = play(make(None), RIGHT, [call("look"), say("4")])
    changed = ToolEnv(tasks=[TASK], tools=[], reward=exact, group_reward=tenths)
    first, second = regrade(played, of(changed))
    assert (first.trajectory.score, second.trajectory.score) == (played[0].score, played[1].score)
    assert "another episode of its group: look now returns" in first.problem


@pytest.mark.parametrize(
    ("group_reward", "passes"), [(tenths, True), (lambda task, episodes: [1.0, 2.0][: len(episodes)], False)]
)
def test_check_compares_a_right_answer_with_a_wrong_one_in_both_orders(group_reward: Any, passes: bool) -> None:
    (result,) = check_environment(make(group_reward), only=["group_reward"]).results
    assert (not result.findings) == passes


def test_invalid_group_rewards_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_reward is called with a task and its episodes"):
        make(lambda episodes: [1.0])
