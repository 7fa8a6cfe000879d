"""Episodes of one task that are played together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from toolrl import ConfigError, Limits, Renderer, RolloutEngine, RolloutRequest, Task, ToolEnv, Trajectory, call, say
from toolrl.policy import ScriptedChatPolicy
from toolrl.support.event_loop import run_sync

TASKS = [Task("one", "1 + 1?", "2"), Task("two", "2 + 2?", "4")]


@pytest.fixture
def env() -> Iterator[ToolEnv]:
    """Two tasks, and the tool `rest`, which counts the episodes that are in it: `most` is their largest number."""
    inside = 0

    async def rest() -> str:
        """Let others play."""
        nonlocal inside
        inside += 1
        made.most = max(made.most, inside)  # type: ignore[attr-defined]
        for _ in range(20):
            await asyncio.sleep(0)
        inside -= 1
        return "rested"

    made = ToolEnv(
        tasks=TASKS,
        tools=[rest],
        reward=lambda task, episode: float(episode.answer == task.answer),
        limits=Limits(turns=3),
    )
    made.most = 0  # type: ignore[attr-defined]
    yield made
    made.close()


def group(env: ToolEnv, task: int, size: int = 4, name: str = "") -> list[RolloutRequest]:
    return [RolloutRequest(env, env.tasks[task], id=f"{task}/{member}", group=name) for member in range(size)]


def engine(**settings: Any) -> RolloutEngine:
    return RolloutEngine(ScriptedChatPolicy([call("rest"), say("2")]), None, **settings)


async def together(playing: RolloutEngine, *groups: list[RolloutRequest]) -> list[list[Trajectory]]:
    return await asyncio.gather(*(playing.play_group(requests) for requests in groups))


def test_groups_played_at_the_same_time_share_the_limit_of_episodes(env: ToolEnv) -> None:
    played = run_sync(together(engine(concurrency=3), group(env, 0), group(env, 1)))
    assert [[t.id for t in trajectories] for trajectories in played] == [
        ["0/0", "0/1", "0/2", "0/3"],
        ["1/0", "1/1", "1/2", "1/3"],
    ]
    assert [[t.score.value for t in trajectories] for trajectories in played] == [[1.0] * 4, [0.0] * 4]
    assert env.most == 3  # type: ignore[attr-defined]


def test_an_engine_goes_on_where_its_event_loop_was_replaced(env: ToolEnv) -> None:
    playing = engine(concurrency=1)
    for _ in range(2):
        assert len(asyncio.run(playing.play_group(group(env, 0)))) == 4
    assert len(playing.run(group(env, 0))) == 4


def test_the_caller_may_record_a_group_itself(env: ToolEnv) -> None:
    recorded: list[str] = []
    playing = engine(on_trajectory=lambda trajectory: recorded.append(trajectory.id))
    run_sync(playing.play_group(group(env, 0), record=False))
    assert recorded == []
    run_sync(playing.play_group(group(env, 1)))
    assert sorted(recorded) == ["1/0", "1/1", "1/2", "1/3"]
    assert run_sync(playing.play_group([])) == []


def test_run_returns_the_members_of_mixed_groups_in_the_order_of_the_requests(env: ToolEnv) -> None:
    first, second, alone = group(env, 0, 2, "first"), group(env, 1, 2, "second"), group(env, 0, 1)
    requests = [second[0], first[0], alone[0], second[1], first[1]]
    assert [t.id for t in engine().run(requests)] == [request.id for request in requests]


def test_a_group_of_several_tasks_is_refused(env: ToolEnv) -> None:
    with pytest.raises(ConfigError, match="a group is of one task, but '1/0' is of 'two' and the first of 'one'"):
        engine().run([*group(env, 0, 1, "same"), *group(env, 1, 1, "same")])


def test_an_engine_that_plays_for_hours_keeps_nothing_of_past_groups(
    env: ToolEnv, renderer: Renderer, make_player: Callable[..., Any]
) -> None:
    playing = RolloutEngine(make_player(say("2")), renderer)
    for _ in range(3):
        own = [RolloutRequest(env, env.tasks[0], policy=make_player(say("2"))) for _ in range(2)]
        assert [t.score.value for t in run_sync(playing.play_group([*group(env, 0), *own]))] == [1.0] * 6
    assert len(playing._watches) == 0


def test_a_bug_in_one_episode_ends_its_group_and_no_other(env: ToolEnv) -> None:
    def broken() -> str:
        """Break."""
        raise ZeroDivisionError

    buggy = ToolEnv(tasks=TASKS, tools=[broken], reward=lambda task, episode: 1.0)
    playing = engine()

    async def both() -> list[Any]:
        bad = [RolloutRequest(buggy, TASKS[0], policy=ScriptedChatPolicy([call("broken")])) for _ in range(2)]
        groups = playing.play_group(bad), playing.play_group(group(env, 0))
        return await asyncio.gather(*groups, return_exceptions=True)

    bug, played = run_sync(both())
    assert isinstance(bug, ZeroDivisionError)
    assert len(played) == 4
