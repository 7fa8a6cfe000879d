"""Promises about waiting: an episode waits only for its own model and tools."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from toolrl import Renderer, RolloutEngine, RolloutRequest, Trajectory, call, say

PATIENCE = 20.0  # seconds that tools wait for each other; reached only if the promise is broken


def test_results_come_in_the_order_of_the_requests_and_each_is_announced_once(
    renderer: Renderer, make_player: Any, make_env: Any
) -> None:
    finished = [asyncio.Event() for _ in range(7)]
    finished[6].set()
    announced: list[str] = []

    async def wait(index: int) -> str:
        """Wait for the next episode.

        Args:
            index: Of this one.
        """
        await asyncio.wait_for(finished[index + 1].wait(), PATIENCE)
        return "done"

    def announce(trajectory: Trajectory) -> None:
        announced.append(trajectory.id)
        finished[int(trajectory.id)].set()

    env, engines_own = make_env(wait), make_player(say("5"))
    policies = [make_player(call("wait", index=index), say("4")) for index in range(6)]
    requests = [
        RolloutRequest(env, env.tasks[0], id=str(index), policy=policy) for index, policy in enumerate(policies)
    ]
    trajectories = RolloutEngine(engines_own, renderer, on_trajectory=announce).run(requests)
    assert [trajectory.id for trajectory in trajectories] == ["0", "1", "2", "3", "4", "5"]
    assert announced == ["5", "4", "3", "2", "1", "0"]


def test_a_request_may_bring_its_own_policy(renderer: Renderer, make_player: Any, make_env: Any) -> None:
    env, engines_own, shared = make_env(), make_player(say("5")), make_player(say("4"))
    requests = [RolloutRequest(env, env.tasks[0], policy=policy) for policy in (shared, None, shared)]
    trajectories = RolloutEngine(engines_own, renderer).run(requests)
    assert [trajectory.score.value for trajectory in trajectories] == [1.0, 0.0, 1.0]
    assert (len(engines_own.prompts), len(shared.prompts)) == (1, 2)
    assert engines_own.contexts == shared.contexts == ["entered", "left"]


def test_a_slow_tool_delays_only_its_own_episode(renderer: Renderer, make_player: Any, make_env: Any) -> None:
    others_are_done = threading.Event()
    done: list[str] = []

    def slow() -> str:
        """Wait until the other episodes are over."""
        return "waited" if others_are_done.wait(PATIENCE) else "blocked them"

    def announce(trajectory: Trajectory) -> None:
        done.append(trajectory.id)
        if len(done) == 3:
            others_are_done.set()

    env = make_env(slow)
    lame = RolloutRequest(env, env.tasks[0], id="lame", policy=make_player(call("slow"), say("4")))
    quick = [RolloutRequest(env, env.tasks[0], id=f"quick {index}") for index in range(3)]
    policy = make_player(call("lookup", key="a"), call("lookup", key="b"), say("4"))
    trajectories = RolloutEngine(policy, renderer, on_trajectory=announce).run([lame, *quick])
    assert trajectories[0].tool_results[0].content == "waited"
    assert done[-1] == "lame"


def test_tools_of_different_episodes_overlap_as_far_as_the_concurrency_allows(
    make_player: Any, make_env: Any, play: Any
) -> None:
    together, running, seen = threading.Barrier(3, timeout=PATIENCE), [], []

    def meet() -> str:
        """Wait for two other episodes to call this too."""
        running.append(1)
        together.wait()
        seen.append(len(running))
        together.wait()
        running.pop()
        return "met"

    trajectories = play(make_player(call("meet"), say("4")), make_env(meet), 9, concurrency=3)
    assert [trajectory.tool_results[0].content for trajectory in trajectories] == ["met"] * 9
    assert seen == [3] * 9


def test_it_runs_where_an_event_loop_runs_already(make_player: Any, make_env: Any, play: Any) -> None:
    async def notebook() -> list[Trajectory]:
        return play(make_player(call("lookup", key="a"), say("4")), make_env(), 2)

    assert [trajectory.score.value for trajectory in asyncio.run(notebook())] == [1.0, 1.0]
